"""Find what a user names without asking anybody outside: a path, or what was fetched before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.studio.folders import RunFolder


def local(name: str) -> Path:
    """Return the path of a model that is on this machine. Error: `not-found`."""
    from lingraft import models
    from lingraft.quickstart.base import cache

    text = name.strip()
    if not text:
        refuse("not-found", "no path is given", "type the path of a folder or file")
    fetched = cache() / text.partition(":")[2]
    if text.startswith("modelscope:") or (text == models.EMBEDDED and not fetched.is_dir()):
        refuse("not-found", f"{text} is not on this machine, and the studio asks nobody outside",
               f"fetch it first: lingraft inspect {text}", text)  # fmt: skip
    return models.locate(text)  # with HF_HUB_OFFLINE set, a Hub id is found in the Hub's cache or not at all


def locals_in(text: str) -> list[Path]:
    """Return what several lines name, one a line. Error: `not-found`."""
    return [local(line) for line in text.splitlines() if line.strip()]


def start_of(run: RunFolder) -> str:
    """Return what a run began with, before its vocabulary grew: as a receipt of one of its stages names it."""
    for name in ("vocab", "pretrain", "sft", "prefer", "classify"):
        told = _json(run.path / name / "manifest.json")
        base = told.get("base")
        found = base.get("path") if isinstance(base, dict) else (told.get("recipe") or {}).get("base")
        if isinstance(found, str) and found:
            return found
    return ""


def _json(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
