"""The parameters of a live transformers model, read from the tensors of a checkpoint, one at a time.

Some models keep older names on disk (`embed_out` for `lm_head`), and some fuse what was published apart (the experts
of a layer). What transformers does when it loads such a checkpoint is done here by its own rules, lazily.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from lingraft.weights.tensors import Entry, Lazy, Tensor

Group = Sequence[tuple[str, str]]  # names on disk, each with the pattern of transformers' rule that it matches


def parameters(model: Any, weights: Lazy) -> dict[str, Entry]:
    """Return a model's parameters by its own names; those that the weights do not give are absent."""
    expected = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    found: dict[str, Entry] = {}
    fused: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in sorted(weights, key=dot_natural_key):
        live, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if live not in expected and name in expected:
            live, pattern = name, None
        if pattern is None:
            found[live] = weights.entries[name]
        else:
            fused[live].append((name, pattern))
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    for live, group in fused.items():
        found.update(_fused(by_pattern[group[0][1]], live, group, weights, model))
    return found


def _fused(rule: WeightConverter, live: str, group: Group, weights: Lazy, model: Any) -> dict[str, Entry]:
    """Return what one rule makes of the tensors on disk; their names and shapes are found out on the meta device."""

    def empty(name: str) -> Tensor:
        return torch.empty(weights.entries[name].shape, device="meta")

    def convert(read: Callable[[str], Tensor]) -> Mapping[str, Tensor]:
        one = deepcopy(rule)
        for name, pattern in group:
            one.add_tensor(live, name, pattern, partial(read, name))
        made: dict[str, Any] = one.convert(live, model=model, config=model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}

    def rows(name: str, start: int, stop: int | None) -> Tensor:
        return convert(lambda source: weights[source].float())[name][start:stop]

    return {
        name: Entry(torch.float32, tuple(value.shape), partial(rows, name)) for name, value in convert(empty).items()
    }
