"""From the live model's names to the names on disk: usually the same, sometimes one prefix apart.

GPT-2's published files say ``h.0.attn.c_attn`` where the model says ``transformer.h.0.attn.c_attn``; an encoder's
adapter may lack the ``bert.`` that a masked-LM checkpoint has. One prefix is added or taken away only where *every*
name then fits; a stray prefix on part of the keys is never stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from lingraft.merge.names import Part, heads


@dataclass(frozen=True)
class Renaming:
    """Live names to names on disk: ``add`` goes before every name, or ``remove`` is taken from the body's names."""

    add: str = ""
    remove: str = ""

    def __call__(self, name: str) -> str:
        """Return the name on disk; '' for a body name without the prefix, which then fits nothing."""
        if not self.remove:
            return self.add + name
        if name.startswith(self.remove):
            return name.removeprefix(self.remove)
        return name if _stands_outside(name) else ""

    def live(self, name: str) -> str:
        """Return the live model's name of a name on disk."""
        if self.add:
            return name.removeprefix(self.add)
        return name if _stands_outside(name) else self.remove + name


def unmatched(parts: Iterable[Part], names: Collection[str], new: Callable[[Part], bool],
              rename: Renaming) -> list[Part]:  # fmt: skip
    """List the parts whose tensor the base does not have and that bring no new one."""
    return [part for part in parts if rename(part.target) not in names and not new(part)]


def match(parts: Collection[Part], names: Collection[str], new: Callable[[Part], bool]) -> Renaming | None:
    """Return the one renaming under which every part fits the names on disk, or None.

    ``new`` tells parts that may bring a tensor the base lacks (a classification head).
    """
    for rename in _candidates(parts, names):
        fits = any(rename(part.target) in names for part in parts) or all(new(part) for part in parts)
        if fits and not unmatched(parts, names, new, rename):
            return rename
    return None


def _candidates(parts: Collection[Part], names: Collection[str]) -> Iterator[Renaming]:
    yield Renaming()
    for prefix in sorted({name.split(".", 1)[0] + "." for name in names if "." in name}):
        yield Renaming(add=prefix)
    for prefix in sorted({part.module.split(".", 1)[0] + "." for part in parts if "." in part.module}):
        yield Renaming(remove=prefix)


def _stands_outside(name: str) -> bool:
    # A head stands beside the body in the live model (lm_head beside transformer.…): it has no prefix to lose.
    return heads(name) or name.count(".") == 1
