"""What a training's log says, in plain words: over- and underfitting, too high a rate, imbalance, contradictions.

Thresholds are for a person's attention, not for proof; each finding names the figures that it rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import sqrt
from statistics import median
from typing import Any

_RISE = 1.03  # validation loss above its best by this factor is a rise
_SPIKE = 1.6  # a loss above the median of those before it by this factor is a spike
_MOVING = 0.97  # the last stretch below the one before it by this factor: still improving
_FLAT = 0.99  # an end not below the beginning by this factor: nothing was learnt
_LEAST = 10  # logged steps below which a curve says nothing
_SURE = 3.0  # standard errors that two stretches of a curve must lie apart to be different
_PRECISE = 0.05  # of the loss: a curve whose error is larger cannot show that nothing was learnt
_UNEVEN = 5.0  # rows of the largest class over those of the smallest


@dataclass(frozen=True)
class Diagnosis:
    """One finding: what kind, and the same sentence in English and Chinese."""

    kind: str
    en: str
    zh: str

    def as_json(self) -> dict[str, str]:
        """Return it as the answer and the report carry it."""
        return asdict(self)


def diagnose(log: Sequence[Mapping[str, Any]], stats: Mapping[str, Any]) -> list[Diagnosis]:
    """Read a stage's log rows and the figures of its data; an empty list means that nothing stands out."""
    losses = [(int(row["step"]), float(row["loss"])) for row in log if "loss" in row]
    checks = [(int(row["step"]), float(row["eval_loss"])) for row in log if "eval_loss" in row]
    curve = _too_fast(losses)
    if curve is None:
        curve = _overfitting(losses, checks) or _underfitting(losses, checks)
    data = (_uneven(log, stats.get("classes")), _contradictory(stats.get("contradictions")))
    return [found for found in (curve, *data) if found is not None]


def _too_fast(losses: Sequence[tuple[int, float]]) -> Diagnosis | None:
    """A loss that ends above where it began, or that leaps and does not come back."""
    if len(losses) < _LEAST:
        return None
    first, last, error = _ends([loss for _, loss in losses])
    if last > max(first * _RISE, first + _SURE * error):
        return Diagnosis(
            "learning-rate-too-high",
            f"The training loss rose from {first:.3g} to {last:.3g}: the learning rate is too high. Try a third of "
            "it, or a longer warm-up.",
            f"训练损失从 {first:.3g} 升到 {last:.3g}：学习率过高。请降到三分之一，或延长预热。",
        )
    spikes = [
        (step, loss)
        for i, (step, loss) in enumerate(losses[5:], 5)
        if loss > _SPIKE * median(value for _, value in losses[max(0, i - 10) : i])
    ]
    if len(spikes) >= max(2, len(losses) // 50):
        step, loss = spikes[0]
        return Diagnosis(
            "learning-rate-too-high",
            f"The training loss leapt {len(spikes)} times, first at step {step} to {loss:.3g}: the learning rate is "
            "too high for some batches. Lower it, lower max_grad_norm, or take larger batches.",
            f"训练损失出现 {len(spikes)} 次突跳，首次在第 {step} 步（{loss:.3g}）：学习率对部分批次过高。"
            "请降低学习率或 max_grad_norm，或加大批次。",
        )
    return None


def _overfitting(losses: Sequence[tuple[int, float]], checks: Sequence[tuple[int, float]]) -> Diagnosis | None:
    """The validation loss rises after its best while the training loss goes on falling."""
    if len(checks) < 3 or len(losses) < _LEAST:
        return None
    best_step, best = min(checks, key=lambda row: row[1])
    end_step, end = checks[-1]
    before = [loss for step, loss in losses if step <= best_step][-5:]
    after = [loss for step, loss in losses][-5:]
    if end <= best * _RISE or not before or sum(after) / len(after) >= sum(before) / len(before):
        return None
    return Diagnosis(
        "overfitting",
        f"The validation loss was best at step {best_step} ({best:.3g}) and rose to {end:.3g} at step {end_step}, "
        "while the training loss went on falling: the model learns the examples by heart. Train for fewer steps, "
        "use early_stopping, more data, or a smaller r.",
        f"验证损失在第 {best_step} 步最低（{best:.3g}），到第 {end_step} 步升至 {end:.3g}，而训练损失仍在下降："
        "模型在死记样本。请减少步数、使用 early_stopping、增加数据，或减小 r。",
    )


def _underfitting(losses: Sequence[tuple[int, float]], checks: Sequence[tuple[int, float]]) -> Diagnosis | None:
    """A loss that hardly moved, or that was still falling when the run ended."""
    if len(losses) < 2 * _LEAST:
        return None
    values = [loss for _, loss in losses]
    first, last, error = _ends(values)
    if last > first * _FLAT and _SURE * error < _PRECISE * first:
        return Diagnosis(
            "underfitting",
            f"The training loss hardly moved: {first:.3g} at the beginning, {last:.3g} at the end. Raise the learning "
            "rate or r, or check that the data is what it should be.",
            f"训练损失几乎没有变化：开始 {first:.3g}，结束 {last:.3g}。请提高学习率或 r，或检查数据是否正确。",
        )
    fifth = len(values) // 5
    before, end = (sum(part) / len(part) for part in (values[-2 * fifth : -fifth], values[-fifth:]))
    falls = end < min(before * _MOVING, before - _SURE * _error(values, fifth))
    if falls and (len(checks) < 2 or checks[-1][1] == min(value for _, value in checks)):
        return Diagnosis(
            "underfitting",
            f"The training loss was still falling at the end (from {before:.3g} to {end:.3g} in the last fifth of the "
            "steps): more steps, or a higher learning rate, would teach more.",
            f"结束时训练损失仍在下降（最后五分之一步内从 {before:.3g} 降到 {end:.3g}）："
            "增加步数或提高学习率还能学到更多。",
        )
    return None


def _uneven(log: Sequence[Mapping[str, Any]], classes: Any) -> Diagnosis | None:
    """Classes of very different size."""
    if not isinstance(classes, Mapping) or len(classes) < 2:
        return None
    largest, smallest = max(classes, key=lambda c: classes[c]), min(classes, key=lambda c: classes[c])
    most, least = int(classes[largest]), int(classes[smallest])
    if most < _UNEVEN * max(least, 1):
        return None
    told = [row for row in log if "eval_macro_f1" in row]
    figures = (
        "" if not told else (f" (accuracy {told[-1]['eval_accuracy']:.2f}, macro-F1 {told[-1]['eval_macro_f1']:.2f})")
    )
    return Diagnosis(
        "class-imbalance",
        f"Class {largest} has {most} rows, class {smallest} {least}: accuracy hides how the small class does; look at "
        f"macro-F1{figures}. Set class_weights: balanced, or add rows of the small class.",
        f"类别 {largest} 有 {most} 行，类别 {smallest} 只有 {least} 行：准确率会掩盖小类的表现，"
        f"请看宏平均 F1{figures}。可设置 class_weights: balanced，或补充小类数据。",
    )


def _contradictory(found: Any) -> Diagnosis | None:
    """The same input with different labels."""
    if not isinstance(found, Mapping) or not found.get("inputs"):
        return None
    where = ", ".join(found.get("examples", [])[:3])
    return Diagnosis(
        "contradictory-labels",
        f"{found['inputs']} inputs stand in the data with different answers or labels ({where}): the model cannot "
        "satisfy both. Keep one of each.",
        f"数据中有 {found['inputs']} 个相同输入对应不同的答案或标签（{where}）：模型无法同时满足。请只保留其一。",
    )


def _ends(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the means of the first and the last tenth, of at least three values each, and their difference's error."""
    count = max(3, len(values) // 10)
    return sum(values[:count]) / count, sum(values[-count:]) / count, _error(values, count)


def _error(values: Sequence[float], count: int) -> float:
    """Return the standard error of the difference of two means of ``count`` values, from how neighbours scatter."""
    apart = float(median(abs(later - one) for one, later in pairwise(values)))
    return apart / 0.954 * sqrt(2 / count)  # two normal values lie 0.954 deviations apart, by the median
