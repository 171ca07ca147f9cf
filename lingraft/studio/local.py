"""Find what a user names without asking anybody outside: a path, or what was fetched before."""

from __future__ import annotations

from pathlib import Path

from lingraft.problems import refuse
from lingraft.studio.folders import RunFolder
from lingraft.weights.json_file import json_or_nothing


def local(name: str) -> Path:
    """Return the path of a model that is on this machine. Error: `not-found`."""
    from lingraft import models
    from lingraft.cache import cache

    text = name.strip()
    if not text:
        refuse("not-found", "no path is given", "type the path of a folder or file")
    fetched = cache() / text.partition(":")[2]
    if text.startswith("modelscope:") or (text == models.EMBEDDED and not fetched.is_dir()):
        refuse(
            "not-found",
            f"{text} is not on this machine, and the studio asks nobody outside",
            f"fetch it first: lingraft inspect {text}",
            text,
        )
    return models.locate(text)  # with HF_HUB_OFFLINE set, a Hub id is found in the Hub's cache or not at all


def locals_in(text: str) -> list[Path]:
    """Return what several lines name, one a line. Error: `not-found`."""
    return [local(line) for line in text.splitlines() if line.strip()]


def start_of(run: RunFolder) -> str:
    """Return what a run began with, before its vocabulary grew: as a receipt of one of its stages names it."""
    for name in ("vocab", "pretrain", "sft", "prefer", "classify"):
        told = json_or_nothing(run.path / name / "manifest.json")
        base = told.get("base")
        found = base.get("path") if isinstance(base, dict) else (told.get("recipe") or {}).get("base")
        if isinstance(found, str) and found:
            return found
    return ""
