"""One real batch forward, backward, updated, saved and reopened: `lingraft check FILE --dry-run`."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from typing import Any

from lingraft.models import load_tokenizer
from lingraft.train.loop import train
from lingraft.train.stage import Stage


def dry_run(stage: Stage) -> dict[str, Any]:
    """Train a stage for one small step in its own scratch folders.

    Returns {"seconds", "loss", "tokens", "rows", "trained": bytes of what was saved}. Errors: everything that the
    stage itself would refuse.
    """
    started = time.monotonic()
    trainer = {
        **stage.block.trainer,
        "max_steps": 1,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        "warmup_steps": 0,
    }
    trainer.pop("warmup_ratio", None)
    techniques = [t for t in stage.block.techniques if not getattr(t, "needs_validation", False)]
    block = stage.block.model_copy(update={"trainer": trainer, "techniques": techniques, "minutes": None})
    small = replace(stage, block=block)
    examples = import_module(f"lingraft.train.{stage.name}").prepare(small, load_tokenizer(stage.base))
    result = train(small, examples)
    return {
        "seconds": round(time.monotonic() - started, 2),
        "loss": result["loss_first"],
        "tokens": result["tokens"],
        "rows": examples.train.stats["rows_in"],
        "trained": sum(p.stat().st_size for p in stage.out.rglob("*") if p.is_file()),
    }
