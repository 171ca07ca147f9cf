"""Where lingraft keeps what it can make again, and how much of it: tokens, converted models, measured results.

A folder a kind below ``LINGRAFT_CACHE`` (else ~/.cache/lingraft). Of a kind that grows large, what was used longest ago
goes when there is more than ``LINGRAFT_CACHE_GB`` (50).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from lingraft.problems import refuse

LIMIT_GB = 50.0
RECENT = 3600.0  # seconds: another process may be about to open what was used this lately


def cache(kind: str = "") -> Path:
    """Return the folder of a kind; it may not exist yet."""
    return Path(os.environ.get("LINGRAFT_CACHE") or "~/.cache/lingraft").expanduser() / kind


def touch(entry: Path) -> None:
    """Note that a file or folder of the cache is used now; a cache that cannot be written is used all the same."""
    try:
        os.utime(entry)
    except OSError:
        return


def prune(entries: Iterable[Path]) -> None:
    """Remove the files or folders that were used longest ago, as far as all of them exceed the limit."""
    left = _limit()
    now = time.time()
    for used, entry in sorted(((_used(entry), entry) for entry in entries), reverse=True):
        left -= _size(entry)
        if left < 0 and now - used > RECENT:
            _remove(entry)


def _limit() -> float:
    """Return how many bytes of a kind may be kept."""
    given = os.environ.get("LINGRAFT_CACHE_GB") or LIMIT_GB
    try:
        return float(given) * 1e9
    except ValueError:
        refuse("recipe-invalid", f"LINGRAFT_CACHE_GB={given} is no number", "set it to gigabytes, such as 50")


def _used(entry: Path) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process removed it
        return 0.0


def _size(entry: Path) -> int:
    try:
        return sum(p.stat().st_size for p in entry.iterdir()) if entry.is_dir() else entry.stat().st_size
    except OSError:
        return 0


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
        return
    try:
        entry.unlink()
    except OSError:  # gone already, or (Windows) open in another process
        return
