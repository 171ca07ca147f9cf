"""What run folders say: which runs there are, how far each is, and the loss of its stages so far.

Only files that a run writes for its reader are opened: manifest.json, work/STAGE/log.jsonl, work/seconds. A run may be
writing them at this moment, so half a line at the end of a log is left for the next look.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lingraft.problems import Refusal
from lingraft.weights.json_file import json_or_nothing

State = Literal["running", "finished", "stopped"]
STAGES = ("vocab", "pretrain", "sft", "prefer", "classify", "merge", "verify", "evaluate", "export", "report")
ALIVE = 10.0  # a run notes its time every second; after this many without, it is not running
DEPTH = 2  # runs/NAME and runs/GROUP/NAME


@dataclass(frozen=True)
class Stage:
    """One stage: its log so far, and its result once it is done."""

    name: str
    seconds: float
    done: bool
    result: Mapping[str, Any]
    log: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class RunFolder:
    """One run as its folder shows it."""

    path: Path
    state: State
    seconds: float
    stages: tuple[Stage, ...]

    def result(self, stage: str) -> Mapping[str, Any]:
        """Return what a stage answered, empty where it is not done."""
        return next((s.result for s in self.stages if s.name == stage), {})

    def adapters(self) -> list[Path]:
        """List the adapters that are there, in the order of training."""
        return [self.path / name for name in STAGES if (self.path / name / "adapter_config.json").is_file()]

    def base(self) -> Path | None:
        """Return the model that the adapters belong to: the larger vocabulary's, else what the lineage names."""
        if (self.path / "vocab" / "config.json").is_file():
            return self.path / "vocab"
        from lingraft.merge.lineage import read_lineage  # brings torch

        try:
            lineages = [read_lineage(adapter) for adapter in self.adapters()[:1]]
        except Refusal:
            return None
        return next((Path(lineage.base_path) for lineage in lineages if lineage is not None), None)

    def model(self) -> Path | None:
        """Return the model to use: the merged one, else the last adapter."""
        ways = [self.path / "merged", *reversed(self.adapters())]
        return next((way for way in ways if way.is_dir()), None)


def find_runs(root: Path) -> list[Path]:
    """List the run folders at or below ``root``, the one that worked last first."""
    if not root.is_dir():
        return []
    levels = [[root]]
    for _ in range(DEPTH):
        levels.append([child for folder in levels[-1] if not is_run(folder) for child in _children(folder)])
    return sorted((folder for level in levels for folder in level if is_run(folder)), key=_touched, reverse=True)


def is_run(folder: Path) -> bool:
    """Tell whether a folder is a run's: it has work/, and says in manifest.json or by a log what it does."""
    return (folder / "work").is_dir() and (
        (folder / "manifest.json").is_file() or (folder / "work" / "seconds").is_file()
    )


def look(folder: Path) -> RunFolder:
    """Read a run's state; files that are missing or broken leave their part empty."""
    state = json_or_nothing(folder / "manifest.json")
    known = state.get("stages")
    entries: Mapping[str, Any] = known if isinstance(known, dict) else {}
    running = time.time() - _mtime(folder / "work" / "seconds") < ALIVE
    stages = tuple(
        _stage(folder, name, entries.get(name))
        for name in STAGES
        if name in entries or (folder / "work" / name).is_dir()
    )
    done = bool(state.get("finished")) and not running
    return RunFolder(
        folder, "running" if running else "finished" if done else "stopped", _seconds(folder, state), stages
    )


def stamp(folder: Path) -> tuple[float, ...]:
    """Return what changes when a run writes something, to draw a page only then."""
    logs = [folder / "work" / name / "log.jsonl" for name in STAGES]
    return tuple(_mtime(file) for file in (folder / "manifest.json", folder / "work" / "seconds", *logs))


def _stage(folder: Path, name: str, entry: Any) -> Stage:
    told = entry if isinstance(entry, dict) else {}
    result = told.get("result")
    seconds = told.get("seconds")
    log = read_log(folder / "work" / name / "log.jsonl")
    return Stage(
        name,
        float(seconds) if isinstance(seconds, int | float) else 0.0,
        "key" in told,
        result if isinstance(result, dict) else {},
        log,
    )


def read_log(file: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the whole lines of a log that may be growing."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return tuple(rows)


def _seconds(folder: Path, state: Mapping[str, Any]) -> float:
    try:
        noted = float((folder / "work" / "seconds").read_text() or 0)
    except (OSError, ValueError):
        noted = 0.0
    kept = state.get("seconds")
    return max(noted, float(kept) if isinstance(kept, int | float) else 0.0)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError:
        return []


def _touched(folder: Path) -> float:
    return max(stamp(folder))


def _mtime(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
