"""A base, adapters really trained on it, and the model that peft merged from them, for the verify room."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import make_llama, make_tokenizer
from verify_models import Merge, train, with_adapters


@pytest.fixture(scope="session")
def merge(tmp_path_factory: pytest.TempPathFactory) -> Merge:
    """An untied fp32 Llama of three layers with two stages of LoRA, merged by peft; all heads of one size."""
    home = tmp_path_factory.mktemp("merge")
    base = make_llama(home / "base", tied=False, num_hidden_layers=3, num_key_value_heads=4)
    first = train(base, home / "first")
    second = train(base, home / "second", below=(first,), seed=1)
    model = home / "merged"
    with_adapters(base, (first, second)).save_pretrained(model, max_shard_size="60KB")
    make_tokenizer(model)
    return Merge(base, (first, second), model)


@pytest.fixture
def copy(merge: Merge, tmp_path: Path) -> Callable[[], Path]:
    """Copy the merged model, so that a test can damage it."""

    def again() -> Path:
        shutil.copytree(merge.model, tmp_path / "model")
        return tmp_path / "model"

    return again
