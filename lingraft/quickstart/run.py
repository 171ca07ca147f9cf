"""`lingraft quickstart`: the shipped recipe, with its time shared out among the stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lingraft.problems import Findings
from lingraft.quickstart.recipes import FOLDER

# Of the whole time, what training may take; the rest goes to imports, vocabulary, verifying and evaluating, which do
# not scale with the minutes.
OVERHEAD_MINUTES = 1.6
PRETRAIN_SHARE = 0.7


def quickstart(
    minutes: float, base: str | None, out: Path, findings: Findings, command: Sequence[str] = ()
) -> dict[str, Any]:
    """Run the shipped recipe on ``base`` (or the embedded default) into ``out`` and return the contract's answer."""
    from lingraft.pipeline import run
    from lingraft.recipe_file import load

    training = max(0.3 * minutes, minutes - OVERHEAD_MINUTES)
    overrides = [
        f"out={out}",
        f"pretrain.minutes={training * PRETRAIN_SHARE:.3f}",
        f"sft.minutes={training * (1 - PRETRAIN_SHARE):.3f}",
    ]
    if base is not None:
        overrides.append(f"base={base}")
    return run(load(FOLDER / "quickstart.yaml", tuple(overrides)), findings, command)
