"""What an adapter directory means: its config, its tensors by role, and what cannot be merged at all.

peft's own loader is lenient: a key that fits nothing is dropped with a warning. Here every tensor has a role or the
adapter is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from lingraft.merge.lineage import Lineage, open_adapter, read_lineage
from lingraft.merge.names import Part, parse
from lingraft.problems import Findings, refuse
from lingraft.weights.hf import read_json
from lingraft.weights.tensors import Lazy

CONFIG = "adapter_config.json"
KINDS = ("LORA", "IA3", "TRAINABLE_TOKENS")
# LoraConfig fields that change what a forward pass computes, in ways that no fixed weight can hold (or that this
# merger does not know): an adapter that sets one is refused by its name.
UNSUPPORTED = ("alora_invocation_tokens", "use_qalora", "layer_replication", "use_bdlora", "arrow_config",
               "kasa_config", "monteclora_config", "velora_config", "megatron_config")  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """An adapter directory, read: nothing of its tensors is in memory."""

    path: Path
    config: Mapping[str, Any]
    weights: Lazy
    parts: tuple[Part, ...]
    lineage: Lineage | None = None

    @property
    def kind(self) -> str:
        return str(self.config.get("peft_type"))

    def scale(self, module: str) -> float:
        """Return lora_alpha / r (or / sqrt(r)) of one module, after rank_pattern and alpha_pattern."""
        rank = self.rank(module)
        alpha = self._pattern("alpha_pattern", module, self.config.get("lora_alpha", 8))
        return float(alpha / sqrt(rank) if self.config.get("use_rslora") else alpha / rank)

    def rank(self, module: str) -> int:
        """Return the rank that the config promises for one module."""
        return int(self._pattern("rank_pattern", module, self.config.get("r", 8)))

    def _pattern(self, field: str, module: str, default: Any) -> Any:
        # The first key that matches the end of the module's path wins, as in peft's get_pattern_key.
        for key, value in (self.config.get(field) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default


def read_adapter(path: Path, findings: Findings) -> Adapter:
    """Read an adapter directory.

    Errors: `not-found`, `corrupt-file`, `unsupported-adapter` (by its name), `unused-adapter-tensors` for keys
    that mean nothing here.
    """
    home = locate(path)
    config = read_json(home / CONFIG)
    weights = open_adapter(home)
    _check_kind(home, config, findings)
    parts, strange = [], []
    for key in weights:
        part = parse(key)
        parts.append(part) if part else strange.append(key)
    if strange and str(config.get("peft_type")) in KINDS:
        findings.problem("unused-adapter-tensors", f"{home}: nothing is known about {_some(strange)}",
                         "check how the adapter was saved; `lingraft inspect` lists its tensors", home, strange[0])
    return Adapter(home, config, weights, tuple(parts), read_lineage(home))


def locate(path: Path) -> Path:
    """Return the directory that holds adapter_config.json: the path itself, or its only such subdirectory.

    peft saves an adapter that is not called 'default' into a subdirectory of its name. Error: `not-found`.
    """
    if (path / CONFIG).is_file():
        return path
    below = sorted(file.parent for file in path.glob(f"*/{CONFIG}")) if path.is_dir() else []
    if len(below) == 1:
        return below[0]
    if below:
        refuse("not-found", f"{path} holds {len(below)} adapters: {', '.join(p.name for p in below)}",
               f"name one of them, e.g. {below[-1]}", path)  # fmt: skip
    refuse("not-found", f"{path} holds no {CONFIG}", "give the directory that `save_pretrained` wrote", path)


def _check_kind(path: Path, config: Mapping[str, Any], findings: Findings) -> None:
    kind = str(config.get("peft_type"))
    if kind not in KINDS:
        findings.problem("unsupported-adapter", f"{path} is a {kind} adapter, which cannot be merged here",
                         "merge it with peft, or train LoRA, DoRA, IA3 or trainable tokens", path / CONFIG)
        return
    for name in UNSUPPORTED:
        if config.get(name):
            findings.problem("unsupported-adapter", f"{path} uses {name}, which no merged weight can express",
                             f"train without {name}, or keep the adapter beside its base", path / CONFIG)


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
