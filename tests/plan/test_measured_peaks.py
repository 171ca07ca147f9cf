"""What is planned is what a run holds: nine runs of models that no constant was fitted on, each within 15 %."""

from __future__ import annotations

from pathlib import Path

import pytest
from peaks import Combination, make_model, measure, planned

ONE = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
COMBINATIONS = [
    Combination("qwen2-71M", "lora", 512, trainer=ONE),
    Combination("qwen2-71M", "lora", 512, "bfloat16", ONE),
    Combination("qwen2-71M", "lora+embed", 128, trainer=ONE),
    Combination("qwen2-71M", "full", 64, trainer=ONE),
    Combination("qwen2-71M", "freeze", 256, trainer=ONE),
    Combination("gpt2-83M", "lora", 256, trainer=ONE),
    Combination("gpt2-83M", "lora+embed", 128, trainer=ONE),
    Combination("gpt2-83M", "full", 64, trainer=ONE),
    Combination("llama-187M", "lora", 128, trainer=ONE),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(name, folder / name) for name in sorted({c.model for c in COMBINATIONS})}


@pytest.mark.slow
@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: f"{c.model}-{c.strategy}-{c.length}-{c.dtype}")
def test_a_planned_peak_is_within_15_per_cent_of_the_measured(
    combination: Combination, models: dict[str, Path]
) -> None:
    model = models[combination.model]
    assert planned(model, combination).total == pytest.approx(measure(model, combination), rel=0.15)
