"""Fixtures: tiny bases, adapters that peft made and saved, and a merge that writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_models import load_model, move, tiny

from lingraft.merge.run import merge
from lingraft.problems import Findings


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a factory of saved tiny bases: base("llama", tied=True, dtype=torch.bfloat16, seed=0)."""
    made: dict[Any, Path] = {}

    def make(kind: str = "llama", tied: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
        key = (kind, tied, dtype, seed)
        if key not in made:
            torch.manual_seed(seed)
            made[key] = tmp_path_factory.mktemp("base") / f"{kind}-{tied}-{seed}"
            model = tiny(kind, tied)
            for parameter in model.parameters():  # biases and norms too, so that every tensor counts
                parameter.data += 0.02 * torch.randn_like(parameter)
            model.to(dtype).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Return a factory of adapters: made by peft on a base, moved from their first values, saved by peft."""

    def make(
        base: Path,
        name: str = "adapter",
        *,
        resize: int | None = None,
        load: Any = None,
        scale: float = 0.05,
        seed: int = 1,
        on: Any = None,
        kind: str = "LoraConfig",
        **config: Any,
    ) -> Path:
        import peft

        torch.manual_seed(seed)
        model = on if on is not None else load_model(base, load)
        if resize:
            model.resize_token_embeddings(resize)
        given = {"r": 4, "lora_alpha": 8, **config} if kind == "LoraConfig" else config
        live = peft.get_peft_model(model, getattr(peft, kind)(**given))
        move(live, scale)
        live.save_pretrained(tmp_path / name)
        make.live = live  # type: ignore[attr-defined]
        return tmp_path / name

    return make


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Return a merge that writes to tmp_path/out and hands back the directory."""

    def go(base: Path, *adapters: Path, allow: tuple[str, ...] = (), out: str = "out", **options: Any) -> Path:
        findings = Findings(frozenset(allow))
        go.answer = merge(base, adapters, tmp_path / out, findings=findings, **options)  # type: ignore[attr-defined]
        go.findings = findings  # type: ignore[attr-defined]
        return tmp_path / out

    return go
