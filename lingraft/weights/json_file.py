"""Read a JSON object from disk, or say what is wrong with the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lingraft.problems import refuse


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Errors: `corrupt-file`, `lfs-pointer`."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("version https://git-lfs"):
            refuse(
                "lfs-pointer",
                f"{path} is a Git LFS pointer, not the file",
                "run `git lfs pull` in that repository, or download the file itself",
                path,
            )
        value = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        refuse("corrupt-file", f"{path} is not readable JSON: {error}", "restore the file from its source", path)
    if not isinstance(value, dict):
        refuse("corrupt-file", f"{path} holds {type(value).__name__}, not an object", "restore the file", path)
    return value


def json_or_nothing(path: Path) -> dict[str, Any]:
    """Read a JSON object that may be absent or damaged without harm: a receipt, a log, a setting; then it is empty."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
