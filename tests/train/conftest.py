"""Small corpora and a way to build a training stage in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lingraft.recipe import Classify, Prefer, Pretrain, Sft
from lingraft.train.stage import Stage

MakeStage = Callable[..., Stage]
TEXTS = [
    "春天来了，小河的冰化了，柳树发出新芽。",
    "The river is wide and slow.",
    "他每天早上六点起床，读一小时书。",
    "山里的雾散了，远处的村子露了出来。",
    "Bread needs flour, water, salt and time.",
]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Write forty short texts."""
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"text": TEXTS[i % 5] * (1 + i % 3) + str(i)}, ensure_ascii=False) for i in range(40)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Write twenty questions with answers."""
    path = tmp_path / "talks.jsonl"
    rows = [json.dumps({"instruction": f"问题{i}？", "output": TEXTS[i % 5]}, ensure_ascii=False) for i in range(20)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def make_stage(tmp_path: Path, corpus: Path, talks: Path) -> MakeStage:
    """Return a maker of stages: steps of one block, float32, a checkpoint after every step."""

    def make(
        base: Path,
        techniques: list[Any],
        name: str = "pretrain",
        out: str = "out",
        trainer: Any = None,
        adapters: tuple[Path, ...] = (),
        **block: Any,
    ) -> Stage:
        settings = {
            "max_steps": 4,
            "bf16": False,
            "per_device_train_batch_size": 1,
            "save_strategy": "steps",
            "gradient_accumulation_steps": 1,
            "save_steps": 1,
            "learning_rate": 1e-2,
            **(trainer or {}),
        }
        kind: Any = {"pretrain": Pretrain, "sft": Sft, "classify": Classify, "prefer": Prefer}[name]
        data = {"data": str(talks if name == "sft" else corpus), "length": 128, **block}
        parsed = kind(techniques=techniques, trainer=settings, **data)
        return Stage(name, parsed, base, adapters, tmp_path / out, tmp_path / f"{out}-work")

    return make
