"""Train tiny adapters and merge them with peft, for the tests of the verify room."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel


def train(
    base: Path,
    out: Path,
    steps: int = 3,
    grow: int = 0,
    below: tuple[Path, ...] = (),
    seed: int = 0,
    config: object = None,
) -> Path:
    """Train an adapter on random tokens by a few steps of AdamW and save it; 0 steps leaves it as new."""
    torch.manual_seed(seed)
    model = with_adapters(base, below)
    if grow:
        model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + grow)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    live = get_peft_model(model, deepcopy(config) or lora)
    optimizer = torch.optim.AdamW([p for p in live.parameters() if p.requires_grad], lr=5e-3)
    rows = model.get_input_embeddings().weight.shape[0]
    for _ in range(steps):
        ids = torch.randint(0, rows, (4, 128))
        live(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    live.save_pretrained(out)
    return out


def with_adapters(base: Path, adapters: tuple[Path, ...], dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a base and merge adapters into it with peft."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model


@dataclass(frozen=True)
class Merge:
    """A base, two adapters trained one after the other, and the model that peft merged from them."""

    base: Path
    adapters: tuple[Path, ...]
    model: Path
