"""From the live model's names to the names on disk: usually the same, sometimes one prefix apart.

GPT-2's published files say ``h.0.attn.c_attn`` where the model says ``transformer.h.0.attn.c_attn``; an encoder's
adapter may lack the ``bert.`` that a masked-LM checkpoint has; and some families keep older names on disk, which
transformers itself lists (``block_sparse_moe`` for ``mlp``). A renaming is taken only where *every* name then fits; a
stray prefix on part of the keys is never stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lingraft.merge.names import NEW_HEADS, Part, heads


@dataclass(frozen=True)
class Renaming:
    """Live names to names on disk: ``add`` goes before each, ``remove`` is taken from the body's, or by ``table``."""

    add: str = ""
    remove: str = ""
    table: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> str:
        """Return the name on disk; '' for a body name without the prefix, which then fits nothing."""
        if self.table:
            return self.table.get(name, name if _stands_outside(name) else "")
        if not self.remove:
            return self.add + name
        if name.startswith(self.remove):
            return name.removeprefix(self.remove)
        return name if _stands_outside(name) else ""

    def live(self, name: str) -> str:
        """Return the live model's name of a name on disk."""
        if self.table:
            return next((live for live, disk in self.table.items() if disk == name), name)
        if self.add:
            return name.removeprefix(self.add)
        return name if _stands_outside(name) else self.remove + name


def match(
    parts: Collection[Part],
    names: Collection[str],
    config: Mapping[str, Any],
    fits: Callable[[Part, Renaming], bool],
    is_new: Callable[[Part], bool],
) -> Renaming | None:
    """Return the one renaming under which every part fits the names on disk, or None.

    A part that may be new (a head of the adapter's own) counts as new only where no renaming finds it on disk.
    """
    for old in (parts, [part for part in parts if not is_new(part)]):
        for rename in _candidates(parts, names, config):
            if all(fits(part, rename) for part in old):
                return rename
    return None


def _candidates(parts: Collection[Part], names: Collection[str], config: Mapping[str, Any]) -> Iterator[Renaming]:
    yield Renaming()
    for prefix in sorted({name.split(".", 1)[0] + "." for name in names if "." in name}):
        yield Renaming(add=prefix)
    for prefix in sorted({part.module.split(".", 1)[0] + "." for part in parts if "." in part.module}):
        yield Renaming(remove=prefix)
    if table := by_transformers(names, config):
        yield Renaming(table=table)


def by_transformers(names: Collection[str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return live names to disk names as transformers renames them when it loads; {} where it does not."""
    try:
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping
        from transformers.core_model_loading import WeightRenaming

        kinds = (*(config.get("architectures") or ()), config.get("model_type"), "legacy")
        rules = [rule for kind in kinds for rule in get_checkpoint_conversion_mapping(str(kind)) or ()]
    except ImportError:  # an older transformers has no such table
        return {}
    table: dict[str, str] = {}
    for name in names:
        live = name
        for rule in rules:
            if isinstance(rule, WeightRenaming):
                live = str(rule.rename_source_key(live)[0])
        table[live] = name
    return table if any(live != disk for live, disk in table.items()) else {}


def _stands_outside(name: str) -> bool:
    # A head stands beside the body in the live model (lm_head beside transformer.…): it has no prefix to lose.
    return heads(name) or name.split(".", 1)[0] in NEW_HEADS
