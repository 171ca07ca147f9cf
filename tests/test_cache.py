"""The cache stays within its limit, and never takes away what somebody is about to open."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lingraft.cache import RECENT, cache, prune, touch
from lingraft.problems import Refusal


def kept(folder: Path, name: str, hours: float, size: int = 400_000) -> Path:
    file = folder / name
    file.write_bytes(bytes(size))
    then = time.time() - hours * RECENT
    os.utime(file, (then, then))
    return file


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGRAFT_CACHE_GB", "0.001")
    files = [kept(tmp_path, f"{hours}.gguf", hours) for hours in (5, 2, 4, 3)]
    touch(files[0])
    prune(tmp_path.glob("*.gguf"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.gguf", "5.gguf"]


def test_what_was_used_within_the_hour_stays_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGRAFT_CACHE_GB", "0.0001")
    kept(tmp_path, "a.gguf", 0.5)
    kept(tmp_path, "b.gguf", 0.1)
    prune(tmp_path.glob("*.gguf"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_limit_that_is_no_number_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINGRAFT_CACHE_GB", "viel")
    with pytest.raises(Refusal, match="LINGRAFT_CACHE_GB=viel"):
        prune(tmp_path.iterdir())


def test_tests_do_not_write_into_the_users_cache() -> None:
    assert not cache("gguf").is_relative_to(Path.home() / ".cache")
