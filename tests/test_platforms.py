"""What Windows lacks, lingraft does not ask for: run with Python's Unix-only modules taken from it.

No Windows was at hand. Libraries keep what they ask for: on Windows they ask for other things.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import builtins, sys
own = builtins.__import__

def without(name, globals=None, *more, **named):
    if name in ("fcntl", "resource", "termios", "pwd", "grp") and (globals or {}).get("__name__", "").startswith("lingraft"):
        raise ModuleNotFoundError(name)
    return own(name, globals, *more, **named)

builtins.__import__ = without
from lingraft.cli import main
main()
"""  # noqa: E501


@pytest.mark.slow
def test_a_run_needs_nothing_that_only_unix_has(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "zh.txt").write_text("长城很长。\n" * 400, encoding="utf-8")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: a\nbase: {tiny_llama}\nout: {tmp_path / 'run'}\n"
        f"pretrain: {{data: {tmp_path / 'zh.txt'}, length: 32,"
        " techniques: [{kind: lora, r: 2}], trainer: {max_steps: 3, learning_rate: 1e-2}}\n"
    )
    command = [sys.executable, "-c", WITHOUT, "run", str(recipe), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (Path(json.loads(done.stdout)["model"]) / "model.safetensors").is_file()
