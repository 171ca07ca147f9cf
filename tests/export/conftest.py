"""Fixtures of the export: tiny adapters that peft made, and llama.cpp as the judge of what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what these tests note out of the user's cache."""
    monkeypatch.setenv("LINGRAFT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Return a factory of LoRA adapters: made by peft on a base, moved from their first values, saved by peft."""

    def make(base: Path, name: str = "adapter", seed: int = 1, scale: float = 0.2, **config: Any) -> Path:
        import peft
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base)
        live = peft.get_peft_model(
            model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **config})
        )
        for parameter in live.parameters():
            if parameter.requires_grad:
                parameter.data += scale * torch.randn_like(parameter)
        live.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make
