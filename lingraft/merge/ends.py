"""The two ends of a language model: its embedding, its head, and whether they are one tensor.

A tied model keeps one tensor for both and has no head on disk (trap: an adapter that brings a head would lose it).
While a merge runs, a tied head stands under its own name as an alias of the embedding, so that an adapter's updates
of either find their tensor; `settle` then decides what becomes of the tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lingraft.merge.equal import same
from lingraft.merge.names import embeds
from lingraft.merge.updates import Extend, LowRank, LowRankEmbedding, Replace, Rows, Update
from lingraft.problems import Findings
from lingraft.weights.tensors import Entry, Lazy

Tied = Literal["auto", "tie", "untie"]
HEADS = (
    "lm_head.weight",
    "embed_out.weight",
    "cls.predictions.decoder.weight",
    "lm_head.decoder.weight",
    "predictions.decoder.weight",
)
# transformers ties these biases together with the head, so that an untied head needs both on disk.
BIASES = {
    "cls.predictions.decoder.weight": ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    "lm_head.decoder.weight": ("lm_head.bias", "lm_head.decoder.bias"),
}
UNTIED = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "phi",
        "phi3",
        "gpt_neox",
        "internlm2",
        "stablelm",
        "olmo",
        "olmo2",
        "baichuan",
        "deepseek_v2",
        "deepseek_v3",
    }
)


@dataclass(frozen=True)
class Ends:
    """Names of the embedding and of the head on disk; ``tied`` where the head is the embedding."""

    embedding: str | None
    head: str | None
    tied: bool


def find(weights: Lazy, config: Mapping[str, Any]) -> Ends:
    """Find both ends. Tied is what transformers would tie: the config asks for it, and no other head is stored."""
    names = [
        name
        for name, entry in weights.entries.items()
        if name.endswith(".weight") and embeds(name.removesuffix(".weight")) and len(entry.shape) == 2
    ]
    embedding = min(names, key=lambda name: (name.count("."), name), default=None)
    stored = next((name for name in weights if name in HEADS), None)
    head = stored or _by_class(config)
    if embedding is None or head is None or not _asked(config):
        return Ends(embedding, head, False)
    return Ends(embedding, head, stored is None or same(weights.entries[stored], weights.entries[embedding]))


def _asked(config: Mapping[str, Any]) -> bool:
    text = config.get("text_config")
    asked = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, Mapping) else None)
    return bool(asked) if asked is not None else config.get("model_type") not in UNTIED


def _by_class(config: Mapping[str, Any]) -> str | None:
    """Name the head of a model that stores none, by its class; None where the class has no such head."""
    for kind in map(str, config.get("architectures") or ()):
        if kind.endswith(("ForMaskedLM", "ForPreTraining")):
            robertas = ("roberta", "xlm-roberta", "camembert")
            return HEADS[3] if config.get("model_type") in robertas else HEADS[2]
        if kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
            return HEADS[1] if config.get("model_type") == "gpt_neox" else HEADS[0]
    return None


def with_alias(weights: Lazy, ends: Ends) -> Lazy:
    """Return the weights with a tied head, and the bias tied with it, under their own names."""
    if not ends.tied or ends.head is None or ends.embedding is None:
        return weights
    entries = {**weights.entries, ends.head: weights.entries[ends.embedding]}
    bias, twin = BIASES.get(ends.head, ("", ""))
    if bias in entries:
        entries.setdefault(twin, entries[bias])
    return Lazy(entries)


@dataclass(frozen=True)
class Settled:
    """What became of the tie: the weights, the ends, and the config that fits them."""

    weights: Lazy
    ends: Ends
    config: Mapping[str, Any]


def settle(
    weights: Lazy,
    ends: Ends,
    config: Mapping[str, Any],
    updates: Mapping[str, Sequence[Update]],
    wish: Tied,
    who: str,
    findings: Findings,
) -> Settled:
    """Decide what becomes of a tie after one adapter's updates.

    Nothing changed, or both changed alike: still tied. Both changed, differing: untied knowingly. One alone: the live
    model diverged, so the user chooses (`tied-head-conflict`), unless it is rows of the embedding, which peft ties
    itself. (Where peft keeps a tie, `ensure_weight_tying`, it saves both ends, alike.)
    """
    if not ends.tied or ends.embedding is None or ends.head is None:
        return Settled(weights, ends, config)
    weights = _settle_bias(weights, ends.head, updates)
    first, last = (_changes(updates.get(name, ())) for name in (ends.embedding, ends.head))
    rows_alone = bool(first) and not last and all(isinstance(u, Rows) for u in first)
    if _alike(first, last) or rows_alone:
        if wish == "untie" and (first or last):
            return _untied(weights, ends, config, last or first)
        return _one(weights, ends, config, ends.embedding if first or not last else ends.head)
    if first and last:
        if wish == "tie":
            findings.problem(
                "tied-head-conflict",
                f"{who} brings {ends.embedding} and {ends.head}, and they differ: they cannot be tied",
                "leave out --tie; the model is then untied, as it ran",
                who,
                ends.head,
            )
        return _untied(weights, ends, config)
    changed = ends.embedding if first else ends.head
    if wish == "auto":
        findings.problem(
            "tied-head-conflict",
            f"{who} changes {changed} alone, and the base ties embedding and head: "
            "the model that was trained had two different ones",
            f"--untie keeps it as it ran; --tie uses {changed} for both",
            who,
            changed,
        )
    return _one(weights, ends, config, changed) if wish == "tie" else _untied(weights, ends, config)


def _settle_bias(weights: Lazy, head: str, updates: Mapping[str, Sequence[Update]]) -> Lazy:
    """Drop the alias of a tied bias again, unless an adapter changed the two differently."""
    bias, twin = BIASES.get(head, ("", ""))
    if twin not in weights or not _alike(updates.get(bias, ()), updates.get(twin, ())):
        return weights
    return Lazy({name: entry for name, entry in weights.entries.items() if name != twin})


def _changes(updates: Sequence[Update]) -> list[Update]:
    return [u for u in updates if not isinstance(u, Extend)]


def _one(weights: Lazy, ends: Ends, config: Mapping[str, Any], chosen: str) -> Settled:
    entries = dict(weights.entries)
    entries[str(ends.embedding)] = entries[chosen]
    del entries[str(ends.head)]
    return Settled(Lazy(entries), ends, config)


def _untied(weights: Lazy, ends: Ends, config: Mapping[str, Any], both: Sequence[Update] = ()) -> Settled:
    entries = dict(weights.entries)
    if both:
        entries[str(ends.head)] = entries[str(ends.embedding)]
    bias, twin = BIASES.get(str(ends.head), ("", ""))
    if bias in entries:
        entries.setdefault(twin, entries[bias])
    return Settled(Lazy(entries), replace(ends, tied=False), _with_tie(config, False))


def _with_tie(config: Mapping[str, Any], tied: bool) -> Mapping[str, Any]:
    text = config.get("text_config")
    if isinstance(text, Mapping) and "tie_word_embeddings" in text:
        config = {**config, "text_config": {**text, "tie_word_embeddings": tied}}
    return {**config, "tie_word_embeddings": tied}


def _alike(first: Sequence[Update], last: Sequence[Update]) -> bool:
    """Tell whether two lists of updates do the same; a LoRA on the head may be the embedding's, transposed."""
    return len(first) == len(last) and all(_same_update(a, b) for a, b in zip(first, last, strict=True))


def _same_update(one: Update, other: Update) -> bool:
    if isinstance(one, LowRankEmbedding) and isinstance(other, LowRank):
        return one.scale == other.scale and _transposed(one.b, other.a) and _transposed(one.a, other.b)
    if type(one) is not type(other):
        return False
    if isinstance(one, Rows) and isinstance(other, Rows):
        return one.indices == other.indices and same(one.values, other.values)
    if isinstance(one, Replace) and isinstance(other, Replace):
        return same(one.value, other.value)
    return False


def _transposed(one: Entry, other: Entry) -> bool:
    return one.shape == other.shape[::-1] and torch.equal(one.read(0, None).T.float(), other.read(0, None).float())
