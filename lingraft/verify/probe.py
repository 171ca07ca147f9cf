"""The text that two models are asked about, and how far their answers lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from lingraft.weights.tensors import Tensor

TEXT = (
    "The weather was fine, so we walked along the river to the old market and bought bread, apples and tea. "
    "人工智能是计算机科学、心理学、哲学等学科融合的交叉学科。今天天气很好，我们沿着河边走到老市场。 "
    "def area(radius): return 3.14159 * radius ** 2  # 42 + 7 = 49"
)
TOKENS = 96
SPREAD = 32


def probe_ids(folder: Path, rows: int) -> Tensor:
    """Return token ids (1, n): the probe text, then ids spread evenly over the whole vocabulary, the last included.

    Without a tokenizer that can be read, the spread alone: it touches old and new rows alike.
    """
    spread = torch.linspace(0, rows - 1, SPREAD).round().long().tolist()
    text = [i for i in _encode(folder) if i < rows][:TOKENS]
    return torch.tensor([[*text, *spread]])


def _encode(folder: Path) -> list[int]:
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        try:
            return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids)
        except Exception:  # tokenizers raises bare Exception for broken files; the comparison of files tells of it
            return []
    if (folder / "tokenizer.model").is_file():
        from sentencepiece import SentencePieceProcessor

        try:
            return list(SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(TEXT))
        except (RuntimeError, OSError):
            return []
    return []


def answers_apart(reference: Tensor, found: Tensor) -> Mapping[str, Any]:
    """Compare two models' logits (n, vocabulary).

    ``max_abs`` is their largest difference, ``kl`` the mean KL(reference ‖ found) in nats a position,
    ``argmax_agreement`` the share of positions with the same best token. NaN gives None.
    """
    if reference.shape != found.shape:
        return {
            "max_abs": None,
            "kl": None,
            "argmax_agreement": None,
            "why": f"{found.shape[-1]:,} logits a position, not {reference.shape[-1]:,}",
        }
    if not bool(torch.isfinite(found).all() and torch.isfinite(reference).all()):
        return {"max_abs": None, "kl": None, "argmax_agreement": None, "why": "NaN or infinite logits"}
    one, other = (F.log_softmax(logits.double(), dim=-1) for logits in (reference, found))
    return {
        "max_abs": float((reference - found).abs().max()),
        "kl": max(0.0, float((one.exp() * (one - other)).sum(-1).mean())),
        "argmax_agreement": float((reference.argmax(-1) == found.argmax(-1)).float().mean()),
    }
