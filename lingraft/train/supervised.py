"""The model as the Trainer sees it: packed tokens in, one loss out.

Texts stay apart in attention, only supervised positions reach the head, and the loss is the mean over all supervised
tokens of the step, however they are spread over batches. Whether the short way gives the model's own loss is not
assumed but tried once, on a few tokens, before training; where it does not, transformers' own way is taken, and where
that mixes packed texts too (ALiBi, states, sinks: Bloom, Mamba, GPT-OSS), each text goes through by itself.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lingraft.train import attention
from lingraft.train.head import Head, loss_sum, read_head

IGNORED = -100


class Supervised(nn.Module):
    """Wrap a causal language model so that ``forward`` returns the mean loss over its supervised tokens."""

    def __init__(self, model: Any, dtype: torch.dtype, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.smoothing = smoothing
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.causal = [causal]  # in a list: the same modules must not be registered twice
        active = getattr(model, "active_peft_config", None)
        self.prompted = bool(getattr(active, "is_prompt_learning", False))
        self.packed, self.short_head, self.own_attention = (False,) * 3 if self.prompted else choose_ways(self)

    @property
    def config(self) -> Any:
        """Return the model's config, which the Trainer asks for."""
        return self.causal[0].config

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        position_ids: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Return {"loss"}: input_ids, labels, position_ids [1, tokens], positions restarting at each text.

        The sum over supervised tokens is divided by ``num_items_in_batch``, else by their number here.
        """
        where = (labels[0, 1:] != IGNORED).nonzero().flatten()
        target = labels[0, 1:][where]
        with torch.autocast(input_ids.device.type, self.dtype, enabled=self.dtype != torch.float32):
            total = self.loss_sum(input_ids, position_ids, where, target)
        count = max(len(target), 1) if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}

    def loss_sum(self, input_ids: Tensor, position_ids: Tensor, where: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss of predicting ``target`` [n] at positions ``where`` [n]."""
        if not self.packed:
            return self.loss_text_by_text(input_ids, position_ids, where, target)
        if not self.short_head:
            logits = self.model(
                input_ids=input_ids, position_ids=position_ids, logits_to_keep=where, use_cache=False
            ).logits
            return functional.cross_entropy(logits[0].float(), target, reduction="sum", label_smoothing=self.smoothing)
        hidden = self.hidden(input_ids, position_ids)[0, where]
        return loss_sum(hidden.to(self.dtype), target, self.head(), self.smoothing)

    def loss_text_by_text(self, input_ids: Tensor, position_ids: Tensor, where: Tensor, target: Tensor) -> Tensor:
        """Return the summed loss with each text run by itself, behind the trained prompt where peft puts one there."""
        edges = attention.bounds(position_ids)
        more = {} if self.prompted else {"use_cache": False}  # a prefix is laid into the cache
        parts = [self.model(input_ids=input_ids[:, a:b], **more).logits[0, a - b :] for a, b in pairwise(edges)]
        return functional.cross_entropy(
            torch.cat(parts)[where].float(), target, reduction="sum", label_smoothing=self.smoothing
        )

    def hidden(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Return the last hidden states [1, tokens, width], before the head."""
        causal = self.causal[0]
        body = getattr(causal, causal.base_model_prefix)
        states: Tensor = body(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        return states

    def head(self) -> Head:
        """Return the output head as tensors."""
        found = read_head(self.causal[0].get_output_embeddings())
        assert found is not None  # choose_ways has looked
        return found

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding, which NEFTune's hook asks for."""
        module: nn.Module = self.causal[0].get_input_embeddings()
        return module

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Recompute activations in the backward pass."""
        causal = self.causal[0]
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs=gradient_checkpointing_kwargs)
        causal.enable_input_require_grads()

    def floating_point_ops(self, inputs: dict[str, Tensor], **_: Any) -> int:
        """Return about how many operations a step takes: the Trainer keeps count."""
        return 4 * int(inputs["input_ids"].numel()) * sum(p.numel() for p in self.parameters())


def choose_ways(model: Supervised) -> tuple[bool, bool, bool]:
    """Try packing, the short head and our attention on a few tokens; return which give the model's own numbers.

    A kernel that the recipe chose stays; so does the model's own where ours cannot do what training asks of it
    (dropout).
    """
    causal = model.causal[0]
    training = model.training
    model.eval()
    packed, own = True, True
    with torch.no_grad():
        chosen = getattr(causal, "lingraft_keeps_attention", False)
        if not chosen:
            causal.set_attn_implementation(attention.register())
        if chosen or not (_apart(model) and _trains(model)):
            own = False
            if not chosen:
                causal.set_attn_implementation("sdpa" if causal._supports_sdpa else "eager")
            packed = _apart(model)
        short = packed and _same_loss(model)
    model.train(training)
    return packed, short, own


def _apart(model: Supervised) -> bool:
    """Tell whether a text packed behind another has the hidden states that it has alone."""
    if not _takes_positions(model.causal[0]):
        return False
    a, b = _tokens(model, 0, 5), _tokens(model, 5, 4)
    try:
        with torch.autocast(a.device.type, model.dtype, enabled=model.dtype != torch.float32):
            both = model.hidden(torch.cat([a, b], 1), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]], device=a.device))
            alone = model.hidden(b, torch.arange(4, device=a.device)[None])
    except NotImplementedError:  # our attention says what it cannot do
        return False
    return _close(both[:, 5:], alone)


def _takes_positions(causal: Any) -> bool:
    """Tell whether the body below the head can be told where texts begin: models with ALiBi or a state cannot."""
    body = getattr(causal, causal.base_model_prefix, None)
    if body is None:
        return False
    taken = inspect.signature(body.forward).parameters.values()
    return any(p.name == "position_ids" or p.kind is p.VAR_KEYWORD for p in taken)


def _trains(model: Supervised) -> bool:
    """Tell whether our attention takes what it is given in training: GPT-2 drops attention out then."""
    random = torch.get_rng_state()
    model.train()
    try:
        ids = _tokens(model, 0, 5)
        with torch.autocast(ids.device.type, model.dtype, enabled=model.dtype != torch.float32):
            model.hidden(ids, torch.arange(5, device=ids.device)[None])
    except NotImplementedError:
        return False
    finally:
        model.eval()
        torch.set_rng_state(random)
    return True


def _same_loss(model: Supervised) -> bool:
    """Tell whether the loss from hidden states is the loss from the model's own logits."""
    if read_head(model.causal[0].get_output_embeddings()) is None:
        return False
    ids = _tokens(model, 0, 6)
    positions = torch.arange(6, device=ids.device)[None]
    with torch.autocast(ids.device.type, model.dtype, enabled=model.dtype != torch.float32):
        hidden = model.hidden(ids, positions)[0, :-1]
        ours = loss_sum(hidden.to(model.dtype), ids[0, 1:], model.head())
        logits = model.model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, :-1]
    return _close(ours, functional.cross_entropy(logits.float(), ids[0, 1:], reduction="sum"))


def _tokens(model: Supervised, start: int, count: int) -> Tensor:
    embedding: Any = model.get_input_embeddings()
    weight = embedding.weight
    step = max(1, weight.shape[0] // 16)
    ids: Tensor = (torch.arange(start, start + count, device=weight.device)[None] * step + 3) % weight.shape[0]
    return ids


def _close(a: Tensor, b: Tensor) -> bool:
    error = (a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-9)
    return bool(error < (1e-4 if a.dtype == torch.float32 and b.dtype == torch.float32 else 3e-2))
