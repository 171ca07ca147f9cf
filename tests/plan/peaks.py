"""Measure what a training run really holds: one process per combination, two updates of the true loop.

    pytest -m slow tests/plan            # the table of docs/plan.md: measured against planned

The peak is that of anonymous memory (RssAnon) above what the imports took, seen every few milliseconds from outside.
The models are stored in bfloat16, as published ones are: float32 files would be mapped, and not be anonymous memory.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import warm
from tiny_models import make_tokenizer

STEPS = 2


@dataclass(frozen=True)
class Combination:
    """One run: a model's config, one of plan's strategies, and how it is laid out."""

    model: str
    strategy: str
    length: int
    dtype: str = "float32"
    trainer: dict[str, Any] = field(default_factory=dict)


def _llama(rows: int, width: int, ffn: int, layers: int, heads: int, kv: int, tied: bool, kind: str = "llama") -> Any:
    return {
        "model_type": kind,
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "tie_word_embeddings": tied,
    }


MODELS: dict[str, dict[str, Any]] = {
    # name: transformers' config; random weights
    "llama-58M": _llama(32000, 512, 1408, 8, 8, 8, False),
    "llama-187M": _llama(16000, 1024, 2816, 12, 16, 16, False),
    "qwen2-71M": _llama(64000, 512, 2048, 10, 8, 2, True, "qwen2"),
    "gpt2-83M": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 640,
        "n_layer": 10,
        "n_head": 10,
        "n_positions": 1024,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    },
}


def make_model(name: str, folder: Path) -> Path:
    """Save a model of random weights, with a small tokenizer beside it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    values = {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048, **MODELS[name]}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    model.to(torch.bfloat16).save_pretrained(folder)
    make_tokenizer(folder)
    return folder


def measure(model: Path, combination: Combination) -> int:
    """Train in a process of its own; return the peak in bytes above what the imports took."""
    here, there = warm.FORKS.Pipe()
    process = warm.start(_train, model, asdict(combination), there)
    there.close()
    assert process.pid and here.recv() == "ready"
    base = peak = _anonymous(process.pid)
    here.send("go")
    while process.is_alive():
        peak = max(peak, _anonymous(process.pid))
        time.sleep(0.004)
    if process.exitcode:
        raise RuntimeError(f"the run of {combination} ended with {process.exitcode}")
    return peak - base


def planned(model: Path, combination: Combination) -> Any:
    """Return the planned cost of a combination on a CPU; only the speeds in it are made up."""
    import torch

    from lingraft.plan.hardware import cpu
    from lingraft.plan.memory import look, weigh
    from lingraft.plan.skeleton import read_config
    from lingraft.plan.step import Work
    from lingraft.plan.strategies import NAMED

    trainer, strategy = combination.trainer, NAMED[combination.strategy]
    dtype = getattr(torch, combination.dtype)
    work = Work(
        combination.length,
        trainer["per_device_train_batch_size"],
        trainer["gradient_accumulation_steps"],
        dtype,
        checkpointing=trainer.get("gradient_checkpointing", False),
    )
    return weigh(look(read_config(model)), strategy.techniques, work, cpu(dtype, 1e11, 1e10), strategy.quantised)


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def _train(model: Path, combination: dict[str, Any], pipe: Connection) -> None:
    """Train for a few updates on random tokens, saying `ready` once everything is imported."""
    import numpy as np
    import peft  # noqa: F401
    import torch

    import lingraft.train.dry_run  # noqa: F401
    from lingraft.data.prepare import pack_pieces
    from lingraft.data.store import Piece
    from lingraft.models import load_tokenizer
    from lingraft.plan.skeleton import build, read_config
    from lingraft.plan.strategies import NAMED
    from lingraft.recipe import Pretrain
    from lingraft.train.loop import train
    from lingraft.train.stage import Examples, Stage

    tokenizer = load_tokenizer(model)
    torch.nn.functional.linear(torch.ones(8, 8), torch.ones(8, 8))
    os.environ["LINGRAFT_DTYPE"] = combination["dtype"]
    pipe.send("ready")
    pipe.recv()
    length, count = combination["length"], 16
    ids = np.random.default_rng(0).integers(3, 390, length * count, dtype=np.int32)
    pieces = [Piece(ids[at : at + length], (1, length)) for at in range(0, len(ids), length)]
    config = read_config(model)
    techniques = NAMED[combination["strategy"]].techniques(build(config), config)
    block = Pretrain(
        data=str(model),
        length=length,
        techniques=list(techniques),
        trainer={**combination["trainer"], "max_steps": STEPS},
    )
    with tempfile.TemporaryDirectory() as scratch:
        stage = Stage("pretrain", block, model, (), Path(scratch) / "out", Path(scratch) / "work")
        train(stage, Examples(pack_pieces(pieces, tokenizer, length, count), None, tokenizer))
