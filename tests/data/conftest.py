"""Tokens made by tests are not kept in the user's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LINGRAFT_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def tokenizer(tiny_llama: Path) -> Any:
    """The tiny model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)
