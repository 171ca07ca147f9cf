"""Log-probabilities of given tokens without ever holding all logits: the head runs in slices of positions.

Logits of 2,048 positions over 150,000 pieces are 1.2 GB in float32; a slice of 64 MB is as fast. Some models
scale or cap their logits after the head (Gemma 2, Cohere, Granite …): the short cut is compared with the model's
own logits on a probe first, and where they differ the model's own forward is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SLICE = 1 << 24  # logits held at once: 64 MB in float32
LogProbs = Callable[[Tensor, Tensor, Tensor], Tensor]


def scorer(model: Any) -> LogProbs:
    """Return a function (inputs [B, T], positions [N, 2], targets [N]) → natural log-probabilities [N], float32.

    A position is (row of the batch, place in it); its hidden state predicts the target. Padding stands on the
    right, where a causal model's real tokens never see it, so no mask is needed.
    """
    return _sliced(model) if _short_cut_is_exact(model) else _plain(model)


def _sliced(model: Any) -> LogProbs:
    body, head = _parts(model)

    def score(inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        states = body(input_ids=inputs, use_cache=False).last_hidden_state
        states = states[positions[:, 0], positions[:, 1]]
        rows = max(SLICE // head.weight.shape[0], 1)
        parts = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
        return torch.cat([_gather(head(some), wanted) for some, wanted in parts])

    return score


def _plain(model: Any) -> LogProbs:
    def score(inputs: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
        found = torch.empty(len(targets), dtype=torch.float32, device=inputs.device)
        for row in range(len(inputs)):  # one row's logits at a time
            mine = positions[:, 0] == row
            if mine.any():
                logits = model(input_ids=inputs[row : row + 1], use_cache=False).logits[0]
                found[mine] = _gather(logits[positions[mine, 1]], targets[mine])
        return found

    return score


def _gather(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def _parts(model: Any) -> tuple[Any, Any]:
    return getattr(model, model.base_model_prefix), model.get_output_embeddings()


def _short_cut_is_exact(model: Any) -> bool:
    try:
        body, head = _parts(model)
        probe = torch.arange(1, 9, device=model.device)[None] % head.weight.shape[0]
        with torch.inference_mode():
            mine = head(body(input_ids=probe, use_cache=False).last_hidden_state).float()
            theirs = model(input_ids=probe, use_cache=False).logits.float()
    except (AttributeError, TypeError):
        return False
    return mine.shape == theirs.shape and torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3)
