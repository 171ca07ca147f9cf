"""One tensor judged: a lowest bit flipped under a small change is a fault; the roundings of another machine are not."""

from __future__ import annotations

import torch

from lingraft.merge.updates import LowRank
from lingraft.verify.arithmetic import Truth, Verdict, judge
from lingraft.weights.tensors import Entry, Lazy

NAME = "model.layers.0.self_attn.q_proj.weight"
torch.manual_seed(0)
BASE, A, B = torch.randn(48, 64), torch.randn(4, 64), torch.randn(48, 4)
SMALL = 1e-5  # so small that float32's own noise would touch next to nothing


def entry(tensor: torch.Tensor) -> Entry:
    return Entry(tensor.dtype, tuple(tensor.shape), lambda start, stop: tensor[start:stop])


def judged(stored: torch.Tensor) -> Verdict:
    update, base = LowRank(entry(A), entry(B), SMALL), entry(BASE)
    exact = Lazy({NAME: update.onto(base)})
    return judge(Truth(Lazy({NAME: base}), exact, {NAME: [update]}), NAME, entry(stored))


def merged() -> torch.Tensor:
    """The merge in float64, rounded once."""
    return (BASE.double() + (B.double() @ A.double()) * SMALL).float()


def test_what_another_machine_computes_is_right() -> None:
    assert judged(merged()).fault is None


def test_one_lowest_bit_in_a_small_change_is_a_fault_of_its_row() -> None:
    stored = merged()
    stored.view(torch.int32)[17, 5] ^= 1
    fault = judged(stored).fault
    assert fault is not None and (fault.first_row, fault.rows) == (17, 1)


def test_the_base_itself_is_told_from_the_merge() -> None:
    fault = judged(BASE).fault
    assert fault is not None and "the change was not applied" in fault.why
