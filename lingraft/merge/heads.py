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
from lingraft.weights.tensors import Entry, Lazy

TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}
PROBE = 7919  # a number of labels that no width of a model is
KINDS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining", "ForConditionalGeneration", "Model")


@dataclass(frozen=True)
class NewHead:
    """A model whose head an adapter replaced: its weights, its config, and what was left out of the base."""

    weights: Lazy
    config: Mapping[str, Any]
    left_out: tuple[str, ...] = ()


def apply_head(
    adapter: Adapter, new: list[str], weights: Lazy, config: Mapping[str, Any], rename: Renaming, findings: Findings
) -> NewHead:
    """Turn a language model into the class that the adapter was trained as, where it brings a head of its own.

    ``new`` lists the tensors that the base does not have. Problem: `missing-adapter-tensors` where the class needs a
    tensor that neither the base nor the adapter has (it was drawn at random in training, and is lost).
    """
    kind = class_of(adapter, config)
    if not new or kind is None:
        return NewHead(weights, config)
    from lingraft.weights.live import parameters

    # Where transformers has names of its own for this family, it reads those on disk for every class of it.
    kept = {name if rename.table else rename.live(name): entry for name, entry in weights.entries.items()}
    brought = {name if rename.table else rename.live(name) for name in new}
    model = _empty(kind, config, adapter, findings)
    # What the class has no parameter for is left out with the base's head: it belonged to that.
    foreign = set() if model is None else set(parameters(model, Lazy(kept))) - set(model.state_dict())
    left = tuple(name for name in kept if (heads(name) or name in foreign) and name not in brought)
    for name in left:
        del kept[name]
    if model is not None:
        _check_complete(model, Lazy(kept), sorted(brought & foreign), adapter, findings)
    changed = _labelled({**config, "architectures": [kind]}, _labels(model, {n: kept[n] for n in brought}))
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
    return {
        **config,
        "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
        "label2id": {f"LABEL_{i}": i for i in range(labels)},
    }


def _empty(kind: str, config: Mapping[str, Any], adapter: Adapter, findings: Findings) -> Any:
    """Build the class without weights and with `PROBE` labels; None where it cannot be built."""
    import torch
    import transformers

    model = getattr(transformers, kind, None)
    if model is None:
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path} was trained as {kind}, which transformers does not have",
            "merge it with peft",
            adapter.path,
        )
        return None
    try:
        with torch.device("meta"):
            return model(model.config_class.from_dict(_labelled(dict(config), PROBE)))
    except Exception:  # a config that cannot be built says nothing about the tensors
        return None


def _labels(model: Any, brought: Mapping[str, Entry]) -> int:
    """Return the number of labels: the rows of the tensor that has as many rows as the class has labels."""
    shapes = {} if model is None else {name: tuple(value.shape) for name, value in model.state_dict().items()}
    matrices = {name: entry.shape[0] for name, entry in brought.items() if len(entry.shape) == 2}
    return next((rows for name, rows in matrices.items() if shapes.get(name, (PROBE,))[0] == PROBE), 2)


def _check_complete(model: Any, weights: Lazy, strange: list[str], adapter: Adapter, findings: Findings) -> None:
    from lingraft.weights.live import parameters

    if strange:
        findings.problem(
            "unused-adapter-tensors",
            f"{adapter.path}: {type(model).__name__} has no {some(strange)}",
            "merge into the model that the adapter was trained on",
            adapter.path,
            strange[0],
        )
    expected = set(model.state_dict()) - set(parameters(model, weights))
    lost = sorted(name for name in expected if not name.endswith(("position_ids", "token_type_ids")))
    if lost:
        findings.problem(
            "missing-adapter-tensors",
            f"{type(model).__name__} needs {some(lost)}, which neither the "
            f"base nor {adapter.path} has: training drew it at random, and the adapter did not keep it",
            "train with it in modules_to_save",
            adapter.path,
            lost[0],
        )
