"""New heads: an adapter for classification brings a tensor that its base never had, and drops the base's own head.

The result is the model that was trained: its class, its labels, its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lingraft.merge.adapter import Adapter, some
from lingraft.merge.match import Renaming
from lingraft.merge.names import heads
from lingraft.problems import Findings
from lingraft.weights.tensors import Lazy

TASKS = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification",
         "QUESTION_ANS": "ForQuestionAnswering"}  # fmt: skip
KINDS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration", "Model")


@dataclass(frozen=True)
class NewHead:
    """A model whose head an adapter replaced: its weights, its config, and what was left out of the base."""

    weights: Lazy
    config: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


def apply_head(adapter: Adapter, new: list[str], weights: Lazy, config: Mapping[str, Any], rename: Renaming,
               findings: Findings) -> NewHead:  # fmt: skip
    """Turn a language model into the class that the adapter was trained as, where it brings a head of its own.

    ``new`` lists the tensors that the base does not have. Problem: `missing-adapter-tensors` where the class needs a
    tensor that neither the base nor the adapter has (it was drawn at random in training, and is lost).
    """
    kind = class_of(adapter, config)
    if not new or kind is None:
        return NewHead(weights, config)
    kept = {rename.live(name): entry for name, entry in weights.entries.items()}
    left = tuple(name for name in kept if heads(name) and name not in {rename.live(n) for n in new})
    for name in left:
        del kept[name]
    labels = next((kept[rename.live(n)].shape[0] for n in new if n.endswith(".weight")), 2)
    changed = _labelled({**config, "architectures": [kind]}, labels)
    _check_complete(kind, changed, Lazy(kept), adapter, findings)
    return NewHead(Lazy(kept), changed, left)


def class_of(adapter: Adapter, config: Mapping[str, Any]) -> str | None:
    """Return the class that the adapter was trained as, where its task has a head of its own."""
    mapped = adapter.config.get("auto_mapping")
    named = mapped.get("base_model_class") if isinstance(mapped, Mapping) else None
    if named and any(str(named).endswith(ending) for ending in TASKS.values()):
        return str(named)
    ending = TASKS.get(str(adapter.config.get("task_type")))
    base = str(next(iter(config.get("architectures") or ()), ""))
    if ending is None or not base:
        return None
    stem = next((base.removesuffix(k) for k in KINDS if base.endswith(k)), base)
    return stem + ending


def _labelled(config: dict[str, Any], labels: int) -> dict[str, Any]:
    if len(config.get("id2label") or {}) == labels:
        return config
    return {**config, "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
            "label2id": {f"LABEL_{i}": i for i in range(labels)}}  # fmt: skip


def _check_complete(kind: str, config: Mapping[str, Any], weights: Lazy, adapter: Adapter, findings: Findings) -> None:
    import torch
    import transformers

    model = getattr(transformers, kind, None)
    if model is None:
        findings.problem("unsupported-adapter", f"{adapter.path} was trained as {kind}, which transformers does "
                                                "not have",
                         "merge it with peft", adapter.path)
        return
    try:
        with torch.device("meta"):
            expected = set(model(model.config_class.from_dict(dict(config))).state_dict())
    except Exception:  # a config that cannot be built says nothing about the tensors
        return
    lost = sorted(name for name in expected - set(weights) if not name.endswith(("position_ids", "token_type_ids")))
    if lost:
        findings.problem("missing-adapter-tensors", f"{kind} needs {some(lost)}, which neither the base nor "
                                                    f"{adapter.path} "
                         "has: training drew it at random, and the adapter did not keep it",
                         "train with it in modules_to_save", adapter.path, lost[0])
