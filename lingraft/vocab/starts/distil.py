"""Every new row is distilled: as input it does what the old pieces did, as output it is as likely as they were.

A row has two jobs. **As input** the piece must leave behind what its old pieces left: the residual stream a few
layers up, at the piece and at every token after it, is held to that of the old segmentation, by gradient descent on
the new rows alone (Dobler, Elliott & de Melo 2026, "Token Distillation: attention-aware input embeddings for new
tokens", arXiv:2505.20133; that words come together in the early layers: Kaplan et al. 2025, "From tokens
to words", arXiv:2410.05864). Only those layers run, so a step costs a fraction of training. **As output** its logit
is fitted to hidden states that the old model has computed anyway: `head_fit`, convex.

Where embedding and head are one matrix the row is distilled as input first, and the head is fitted with a ridge to
that: the few directions that hidden states point to belong to the output, the rest to the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lingraft.models import load_base
from lingraft.progress import say, track
from lingraft.vocab.grown import Grown, Rows
from lingraft.vocab.starts import head_fit, pieces
from lingraft.vocab.teacher import Lesson, layers_of, shallow, teach
from lingraft.vocab.windows import Drawn, Window, draw

NAME = "distil"
DEPTH = 0.2  # of the layers take part in the input's distillation
TOKENS = (2_000, 60, 12_000, 6)  # of teaching: at least, per new piece, up to so many; and never fewer per new piece
# Small steps, window by window. 2,000 words on 18,000 tokens, bits per character of unseen text at the start (7.180 as
# the mean of the old pieces, head fitted; 6.476 without new words): one pass with a rate of 2e-3 7.099, with 5e-3
# 7.058; four with 2e-3 6.976, two with 5e-3 6.970. A rate of 2e-2 was worse than no distillation.
BATCH = 1  # windows
STEPS = 250  # that are wanted at least, if need be by seeing the windows again,
PASSES = (2, 4)  # so often at least, and at most
RATE = 5e-3
OUTLIER = 25.0  # squared deviations (in units of the teacher's variance) beyond this do not pull harder

Tensor = torch.Tensor


def start(grown: Grown) -> Rows:
    """Return rows fitted to the base model on a part of the corpus; the base is loaded for it."""
    model: Any = load_base(grown.base).eval().requires_grad_(False)
    least, each, most, poorest = TOKENS
    tokens = max(least, min(most, each * grown.count), poorest * grown.count)
    bos = model.config.bos_token_id
    drawn = draw(grown, tokens, bos if isinstance(bos, int) else None)
    depth = max(1, round(DEPTH * len(layers_of(model))))
    say(f"vocab: {grown.count} rows are distilled from {sum(len(w.old) for w in drawn.windows):,} tokens")
    lesson = teach(model, drawn.windows, depth)
    first = pieces.start(grown)
    embedding = _input(model, grown, drawn.windows, lesson, first.embedding, depth)
    begin = embedding if first.head is None else first.head
    head = _output(grown, drawn, lesson, begin)
    return Rows(head) if first.head is None else Rows(embedding, head)


def _input(model: Any, grown: Grown, windows: Sequence[Window], lesson: Lesson, first: Tensor, depth: int) -> Tensor:
    rows = first.clone().requires_grad_(True)
    solver = torch.optim.Adam([rows], lr=RATE, betas=(0.9, 0.95))
    spread = torch.cat([inner[1:] for inner in lesson.inner]).std(0)
    passes = min(max(PASSES[0], -(-STEPS * BATCH // len(windows))), PASSES[1])
    batches = [b for epoch in range(passes) for b in _batches(len(windows), grown.seed + epoch)]
    schedule = torch.optim.lr_scheduler.LinearLR(solver, 1.0, 0.05, len(batches))
    with track("new rows as input", sum(len(windows[i].new) for b in batches for i in b), "tokens") as progress:
        for batch in batches:
            ids, mask = _padded([windows[i].new for i in batch])
            stream = shallow(model, _embedded(model, grown, rows, ids), depth).float().cpu()
            wanted = torch.cat([lesson.inner[i][1:] for i in batch])
            mask[:, 0] = False
            loss = (((stream[mask] - wanted) / spread) ** 2).clamp(max=OUTLIER).mean()
            solver.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            solver.step()
            schedule.step()
            progress(sum(len(windows[i].new) for i in batch))
    return rows.detach()


def _output(grown: Grown, drawn: Drawn, lesson: Lesson, first: Tensor) -> Tensor:
    target = lesson.target - grown.old_size
    target[target < 0] = -1
    excess = torch.tensor(drawn.excess).clamp(min=0.25)
    weight = torch.ones(len(target))
    weight[target >= 0] = 1 / excess[target[target >= 0]]
    old = grown.embedding if grown.head is None else grown.head
    unit = float(old[: grown.old_size].float().norm(dim=1).mean())
    return head_fit.fit(lesson.features, lesson.mass, target, weight, first, unit)


def _embedded(model: Any, grown: Grown, rows: Tensor, ids: Tensor) -> Tensor:
    new = ids >= grown.old_size
    old = model.get_input_embeddings()(ids.masked_fill(new, 0).to(model.device))
    mine = rows.to(old.device, old.dtype)[(ids - grown.old_size).clamp(min=0)]
    return torch.where(new[..., None].to(old.device), mine, old)


def _batches(count: int, seed: int) -> list[list[int]]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return [order[at : at + BATCH] for at in range(0, count, BATCH)]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Pad at the end, where causal attention does not look; the mask tells real tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.arange(longest)[None] < torch.tensor([len(row) for row in rows])[:, None]
