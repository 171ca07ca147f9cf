"""One update of a training run on the meta device: what it holds, phase by phase, and what it costs.

The model, the techniques, the chunked loss and the low-rank products are the training loop's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lingraft.plan import skeleton, stand_ins
from lingraft.plan.ledger import Ledger, Peak, at_gradients
from lingraft.train.assemble import to_compute_type
from lingraft.train.head import loss_sum, read_head
from lingraft.train.linear import speed_up
from lingraft.train.techniques import Setting, Technique
from lingraft.train.techniques.targets import linear_layers

_WHOLE = 1 << 30  # a length that no text has: attention over all there is, prefixes included


@dataclass(frozen=True)
class Work:
    """How a step is laid out: ``blocks`` texts of ``length`` tokens at once, ``micro_steps`` of them to an update."""

    length: int
    blocks: int = 1
    micro_steps: int = 1
    dtype: torch.dtype = torch.float32
    fused: bool = False  # attention as on a GPU
    checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """Tokens computed at once."""
        return self.length * self.blocks


@dataclass(frozen=True)
class Step:
    """What one depth of a model costs: bytes, numbers of parameters, operations and bytes moved in a micro step.

    ``peaks`` are bytes beyond the weights and the optimizer's state, gradients included, by phase.
    """

    weights: int
    trained: int
    trained_embedding: int
    trained_head: int
    logits: int
    peaks: dict[str, Peak]
    operations: int
    moved: int


def trace(
    config: Any, kind: skeleton.Kind, techniques: Sequence[Technique], work: Work, rows: range | None, quantised: bool
) -> Step:
    """Take one update of the model on the meta device and say what it cost."""
    for technique in techniques:
        config = technique.on_config(config)
    model: Any = skeleton.build(config, kind)
    blocks = skeleton.blocks_of(model, config)
    below = [model.get_submodule(name) for name in linear_layers(model)] if quantised else []
    model.requires_grad_(False)
    nothing: Any = None  # no technique tokenises
    for technique in techniques:
        model = technique.on_model(model, Setting(Path(), nothing, Path(), rows))
    to_compute_type(model, work.dtype)
    if quantised:
        stand_ins.quantise(model, below)
    else:
        speed_up(model)
    stand_ins.short_rows(model)
    return _measure(model, blocks, kind, work, below)


def _measure(model: Any, blocks: Sequence[nn.Module], kind: skeleton.Kind, work: Work, below: Sequence[Any]) -> Step:
    ledger = Ledger([*model.parameters(), *model.buffers()])
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    prompted = bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))
    stand_ins.set_attention(causal, _WHOLE if prompted else work.length, work.fused, ledger)
    if work.checkpointing:
        again = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), stand_ins.Autocast(work.dtype))}
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs=again)
        causal.enable_input_require_grads()
    model.train()
    moving = [b for b in blocks if any(p.requires_grad for p in b.parameters())]
    # A deeper model is continued phase by phase: within one, what is held grows with the depth in a straight line.
    for block in moving[1:-1]:
        at_gradients(block.parameters(), lambda: ledger.enter("middle", after="start"))
    for block in moving[:1]:
        at_gradients(block.parameters(), lambda: ledger.enter("end"))
    logits = 0
    with torch.device("meta"), stand_ins.expert_updates(), ledger:
        for _ in range(min(work.micro_steps, 2)):  # a third holds no more than the second
            ledger.operations = ledger.moved = 0
            ledger.enter("forward")
            logits = _micro_step(model, causal, kind, work, ledger, prompted)
    return Step(
        weights=_weights(model) - sum(_bytes(b.weight) - nf4_bytes(b.weight) for b in below),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        **_ends(causal),
        logits=logits,
        peaks=dict(ledger.peaks),
        operations=ledger.operations,
        moved=ledger.moved,
    )


def _micro_step(model: Any, causal: Any, kind: skeleton.Kind, work: Work, ledger: Ledger, prompted: bool) -> int:
    """Go forward and backward once, as `train.supervised` does; return the bytes that the head's logits took."""
    autocast = stand_ins.Autocast(work.dtype)
    with autocast:
        if kind == "classify":
            loss, logits = _classified(model, work, ledger)
        elif prompted:
            loss, logits = _text_by_text(model, work, ledger)
        else:
            loss, logits = _supervised(causal, work, ledger)
        autocast.forget()
        ledger.enter("start")
        loss.backward()  # type: ignore[no-untyped-call]
    return logits


def _supervised(causal: Any, work: Work, ledger: Ledger) -> tuple[Tensor, int]:
    ids = torch.zeros(1, work.tokens, dtype=torch.long)
    positions = torch.zeros(1, work.tokens, dtype=torch.long)
    where = torch.zeros(work.tokens - work.blocks, dtype=torch.long)
    head = read_head(causal.get_output_embeddings())
    given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
    if head is None:
        before = ledger.live
        logits = causal(**given, logits_to_keep=where).logits
        return nn.functional.cross_entropy(logits[0].float(), where, reduction="sum") / 1, ledger.live - before
    body = getattr(causal, causal.base_model_prefix)
    hidden = body(**given).last_hidden_state[0, where].to(work.dtype)
    before = ledger.live
    ledger.enter("head")
    total = loss_sum(hidden, where, head)
    return total / 1, ledger.peaks["head"].live - before


def _text_by_text(model: Any, work: Work, ledger: Ledger) -> tuple[Tensor, int]:
    """Go through texts one by one, behind the vectors that prompt or prefix tuning trains, with all of their logits."""
    ids = torch.zeros(1, work.length, dtype=torch.long)
    parts = [model(input_ids=ids).logits[0, -work.length :] for _ in range(work.blocks)]
    before = ledger.live - sum(_bytes(part) for part in parts)
    ledger.enter("head")
    where = torch.zeros(work.tokens - work.blocks, dtype=torch.long)
    loss = nn.functional.cross_entropy(torch.cat(parts)[where].float(), where, reduction="sum")
    return loss / 1, ledger.peaks["head"].live - before


def _classified(model: Any, work: Work, ledger: Ledger) -> tuple[Tensor, int]:
    ids = torch.zeros(work.blocks, work.length, dtype=torch.long)
    logits = model(input_ids=ids).logits
    before = ledger.live
    ledger.enter("head")
    return logits.float().sum(), ledger.live - before


def _ends(causal: Any) -> dict[str, int]:
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    mine = _trained(embedding)
    theirs = [] if head is None else [p for p in _trained(head) if not any(p is q for q in mine)]
    return {"trained_embedding": sum(p.numel() for p in mine), "trained_head": sum(p.numel() for p in theirs)}


def _trained(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def _weights(model: nn.Module) -> int:
    return sum(_bytes(p) for p in model.parameters())  # a tied one is listed once; buffers are too small to matter


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def nf4_bytes(weight: Tensor) -> int:
    """Return the bytes of NF4 with double quantisation: 4 bits a weight, 8 for each 64, 32 for each 64 × 256.

    Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """
    blocks = -(-weight.numel() // 64)
    return weight.numel() // 2 + blocks + 4 * -(-blocks // 256)
