"""Other people's tensor names → Hugging Face's: Meta's, and the prefixes that trainers leave on every key.

A prefix is taken off only where *every* key has it: half-matching keys are a fault that must stay visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from lingraft.weights import meta_names

T = TypeVar("T")
WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_forward_module.", "model.module.")
META_ONLY = ("tok_embeddings.weight", "layers.0.attention.wq.weight")


def without_wrappers(tensors: Mapping[str, T]) -> dict[str, T]:
    """Take off the prefixes that DDP, torch.compile and FSDP put before every key."""
    found = dict(tensors)
    while found and (prefix := next((w for w in WRAPPERS if all(name.startswith(w) for name in found)), None)):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def is_meta(names: Mapping[str, object]) -> bool:
    """Tell whether tensors carry Meta's names."""
    return all(name in names for name in META_ONLY)


def to_hf(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return tensors under Hugging Face names; what is not known by another name keeps its own.

    Meta's q and k stay in Meta's rotary layout: only the caller knows the number of heads.
    """
    found = without_wrappers(tensors)
    if not is_meta(found):
        return found
    kept = {name: value for name, value in found.items() if not name.endswith(meta_names.UNUSED)}
    return {meta_names.hf_name(name) or name: value for name, value in kept.items()}
