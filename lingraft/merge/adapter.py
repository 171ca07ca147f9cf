"""What an adapter directory means: its config, its tensors by role, and what cannot be merged at all.

peft's own loader is lenient: a key that fits nothing is dropped with a warning. Here every tensor has a role or the
adapter is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from lingraft.merge import adalora
from lingraft.merge.lineage import Lineage, home, open_adapter, read_lineage
from lingraft.merge.names import Part, parse
from lingraft.problems import Findings
from lingraft.weights.foreign import MLX_REMEDY
from lingraft.weights.hf import read_json
from lingraft.weights.shards import few
from lingraft.weights.tensors import Entry, Lazy

CONFIG = "adapter_config.json"
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile's, and DistributedDataParallel's
KINDS = ("LORA", "IA3", "TRAINABLE_TOKENS")
# LoraConfig fields that change a forward pass in ways that no merged weight expresses, or that are not known here.
UNSUPPORTED = (
    "alora_invocation_tokens",
    "use_qalora",
    "layer_replication",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)


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
        """peft's name of the method: LORA, IA3, TRAINABLE_TOKENS."""
        return str(self.config.get("peft_type"))

    def entry(self, part: Part) -> Entry:
        """Return the tensor of a part."""
        return self.weights.entries[part.key]

    def rank(self, module: str) -> int:
        """Return the rank that the config promises for one module."""
        return int(self._pattern("rank_pattern", module, self.config.get("r", 8)))

    def scale(self, module: str) -> float:
        """Return lora_alpha / r (rsLoRA: / sqrt(r)) of one module, after rank_pattern and alpha_pattern."""
        rank = self.rank(module)
        alpha = self._pattern("alpha_pattern", module, self.config.get("lora_alpha", 8))
        return float(alpha / sqrt(rank) if self.config.get("use_rslora") else alpha / rank)

    def _pattern(self, field: str, module: str, default: Any) -> Any:
        # The first key that matches the end of the module's path wins.
        for key, value in (self.config.get(field) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default


def read_adapter(path: Path, findings: Findings) -> Adapter:
    """Read an adapter directory (also a Trainer's checkpoint-N).

    Errors: `not-found`, `corrupt-file`. Problems: `unsupported-adapter` (by its name), `empty-tensor`,
    `unused-adapter-tensors` for keys that mean nothing here.
    """
    folder = home(path)
    config = read_json(folder / CONFIG)
    weights = open_adapter(folder)
    if config.get("peft_type") == adalora.KIND:
        config, weights = adalora.as_lora(config, weights)
    parts, strange = _parse_all(weights)
    adapter = Adapter(folder, config, weights, tuple(parts), read_lineage(folder))
    if _supported(adapter, findings):
        _whole(adapter, strange, findings)
    return adapter


def _parse_all(weights: Lazy) -> tuple[list[Part], list[str]]:
    """Parse every key; a wrapper's name that stands before all of them (never before some) is no part of theirs."""
    wrapped = next((w for w in WRAPPERS if weights and all(key.startswith(w) for key in weights)), "")
    bare = [key.removeprefix(wrapped) for key in weights]
    named = next((part.adapter for key in bare if (part := parse(key)) and part.adapter), "default")
    parts = [(key, parse(short, named)) for key, short in zip(weights, bare, strict=True)]
    return [replace(part, key=key) for key, part in parts if part], [key for key, part in parts if not part]


def _supported(adapter: Adapter, findings: Findings) -> bool:
    if "peft_type" not in adapter.config:
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path / CONFIG} names no peft_type: it is not peft's",
            MLX_REMEDY if "lora_parameters" in adapter.config else "restore the adapter_config.json that peft saved",
            adapter.path / CONFIG,
        )
        return False
    if adapter.kind not in KINDS:
        # A bottleneck network is lingraft's own: it is not linear, so no weight of the base can hold it.
        live = (
            "use it live: `lingraft chat ADAPTER`"
            if adapter.kind == "BOTTLENECK"
            else ("serve it beside its base with peft")
        )
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path} is a {adapter.kind} adapter, which is not merged here",
            f"{live}; LoRA, DoRA, AdaLoRA, IA3 and trainable tokens can be merged",
            adapter.path / CONFIG,
        )
        return False
    names = [name for name in UNSUPPORTED if adapter.config.get(name)]
    for name in names:
        findings.problem(
            "unsupported-adapter",
            f"{adapter.path} uses {name}, which no merged weight expresses",
            f"train without {name}, or serve the adapter beside its base",
            adapter.path / CONFIG,
        )
    return not names


def _whole(adapter: Adapter, strange: Sequence[str], findings: Findings) -> None:
    if not adapter.weights:
        findings.problem(
            "empty-tensor",
            f"{adapter.path} holds no tensor at all",
            "save the adapter again: a patched state_dict is known to write such files",
            adapter.path,
        )
    empty = [key for key, entry in adapter.weights.entries.items() if 0 in entry.shape]
    for key in empty:
        findings.problem(
            "empty-tensor",
            f"{adapter.path}: {key} was saved with shape {list(adapter.weights.entries[key].shape)}",
            "gather the parameters before saving (ZeRO-3: "
            "stage3_gather_16bit_weights_on_model_save), or merge from the ZeRO state",
            adapter.path,
            key,
        )
    if strange:
        findings.problem(
            "unused-adapter-tensors",
            f"{adapter.path}: no meaning is known for {some(strange)}",
            "check how the adapter was saved; `lingraft inspect` lists its parts",
            adapter.path,
            strange[0],
        )
    names = {part.adapter for part in adapter.parts if part.adapter}
    if len(names) > 1:
        findings.problem(
            "unused-adapter-tensors",
            f"{adapter.path} holds several adapters in one file: {', '.join(sorted(names))}",
            "save each with `save_pretrained`",
            adapter.path,
        )


def some(names: Sequence[str], limit: int = 50) -> str:
    """Join names for a message; a very long list is cut, and says so."""
    return few(names, limit)
