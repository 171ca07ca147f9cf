"""Bare models: saved by transformers, their config taken away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from adopt_models import save


@pytest.fixture
def bare(tmp_path: Path) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Return a factory of bare models: bare("qwen3") gives the folder and the config that was taken away."""

    def make(kind: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path / kind
        return folder, save(kind, folder, **changes)

    return make
