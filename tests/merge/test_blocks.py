"""A merge works in blocks of rows; at realistic shapes they give the same bits as peft's product in one piece."""

from __future__ import annotations

import pytest
import torch

from lingraft.merge.updates import Dora, LowRank, LowRankEmbedding
from lingraft.weights.stream import BLOCK, single_threaded
from lingraft.weights.tensors import Entry, row_blocks

SHAPES = [
    (4096, 4096, 8),
    (11008, 4096, 64),
    (49953, 2048, 64),
    (8000, 4096, 13),
    (5632, 2048, 1),
    (1024, 28672, 16),
    (300, 333, 7),
]


def entry(tensor: torch.Tensor) -> Entry:
    return Entry(tensor.dtype, tuple(tensor.shape), lambda start, stop: tensor[start:stop])


def in_blocks(whole: Entry) -> torch.Tensor:
    parts = row_blocks(whole.shape, 4, BLOCK)
    with single_threaded():
        return torch.cat([whole.read(start, stop) for start, stop in parts])


@pytest.fixture(params=SHAPES, ids=str)
def parts(request):
    out, into, rank = request.param
    torch.manual_seed(out)
    return torch.randn(out, into) * 0.02, torch.randn(rank, into), torch.randn(out, rank) * 0.01


def test_low_rank(parts):
    w, a, b = parts
    assert torch.equal(in_blocks(LowRank(entry(a), entry(b), 1.7).onto(entry(w))), w + (b @ a) * 1.7)


def test_low_rank_of_a_layer_that_stores_its_transpose(parts):
    w, a, b = parts
    ours = in_blocks(LowRank(entry(a), entry(b), 1.7, transposed=True).onto(entry(w.T.contiguous())))
    assert torch.equal(ours, w.T + (b @ a).T * 1.7)


def test_low_rank_of_an_embedding(parts):
    w, a, b = parts
    ours = in_blocks(LowRankEmbedding(entry(b.T.contiguous()), entry(a.T.contiguous()), 1.7).onto(entry(w)))
    assert torch.equal(ours, w + (a.T.contiguous() @ b.T.contiguous()).T * 1.7)


def test_dora(parts):
    w, a, b = parts
    magnitude = w.norm(dim=1) + 0.01
    ours = in_blocks(Dora(LowRank(entry(a), entry(b), 1.7), entry(magnitude)).onto(entry(w)))
    moved = w + (b @ a) * 1.7
    assert torch.equal(ours, (magnitude / torch.linalg.norm(moved, dim=1)).view(-1, 1) * moved)


@pytest.mark.parametrize("shape", [(1,), (63, 5), (64, 70000), (49953, 2048), (7, 3, 2_000_000)])
def test_blocks_cover_every_row_once(shape):
    found = [(a, shape[0] if b is None else b) for a, b in row_blocks(shape, 4, BLOCK)]
    assert [row for a, b in found for row in range(a, b)] == list(range(shape[0]))
