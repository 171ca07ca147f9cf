"""Constructed logs get the diagnosis that a person would give, in both languages."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from lingraft.data.contradictions import contradictions
from lingraft.train.diagnose import diagnose

Curve = Callable[[int], float]


def _log(train: Curve, check: Curve | None = None, steps: int = 60) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"step": i, "loss": train(i)} for i in range(1, steps + 1)]
    if check is not None:
        rows += [{"step": i, "eval_loss": check(i)} for i in range(steps // 6, steps + 1, steps // 6)]
    return rows


@pytest.mark.parametrize(
    ("kind", "log"),
    [
        ("overfitting", _log(lambda i: 3 - i / 25, lambda i: 2.5 + (i - 20) ** 2 / 2000)),
        ("underfitting", _log(lambda i: 3.0 + (i % 3) / 100)),
        ("underfitting", _log(lambda i: 4 - i / 20)),
        ("learning-rate-too-high", _log(lambda i: 2 + i / 20)),
        ("learning-rate-too-high", _log(lambda i: 2 - i / 100 + (4 if i % 15 == 0 else 0))),
    ],
)
def test_a_curve_is_named(kind: str, log: list[dict[str, Any]]) -> None:
    (found,) = diagnose(log, {})
    assert found.kind == kind and found.en and any("一" <= c <= "鿿" for c in found.zh)


def test_a_good_curve_and_a_short_one_are_left_in_peace() -> None:
    assert diagnose(_log(lambda i: 1 + 2 * 0.9**i, lambda i: 1.2 + 2 * 0.9**i), {}) == []
    assert diagnose(_log(lambda i: 3.0, steps=5), {}) == []


def test_a_few_noisy_steps_prove_nothing() -> None:
    for seed in range(20):
        noise = random.Random(seed)
        assert diagnose(_log(lambda _, n=noise: n.gauss(2.2, 0.27), steps=35), {}) == []


def test_uneven_classes_name_the_small_one_and_macro_f1() -> None:
    log = [{"step": 1, "eval_loss": 1.0, "eval_accuracy": 0.95, "eval_macro_f1": 0.5}]
    (found,) = diagnose(log, {"classes": {"good": 950, "bad": 50}})
    assert found.kind == "class-imbalance" and "bad 50" in found.en and "0.50" in found.en
    assert not diagnose(log, {"classes": {"good": 60, "bad": 40}})


def test_the_same_input_with_two_labels_is_found_whatever_the_spacing() -> None:
    rows = [("a  b", "x", "f:1"), ("a b", "y", "f:2"), ("c", "x", "f:3"), ("c", "x", "f:4")]
    found = contradictions(rows)
    assert found == {"inputs": 1, "examples": ["f:2"]}
    (told,) = diagnose([], {"contradictions": found})
    assert told.kind == "contradictory-labels" and "f:2" in told.en
