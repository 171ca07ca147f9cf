"""From the live model's names to the names on disk: usually the same, sometimes one prefix apart.

GPT-2's published files say ``h.0.attn.c_attn`` where the model says ``transformer.h.0.attn.c_attn``; an encoder's
adapter may lack the ``bert.`` that a masked-LM checkpoint has. One prefix is added or taken away only where *every*
name then fits; a stray prefix on part of the keys is never stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from lingraft.merge.names import Part

Rename = Callable[[str], str]


def unmatched(parts: Iterable[Part], names: Collection[str], new: Callable[[Part], bool], rename: Rename) -> list[Part]:
    """List the parts whose tensor the base does not have and that bring no new one."""
    return [part for part in parts if rename(part.target) not in names and not new(part)]


def match(parts: Collection[Part], names: Collection[str], new: Callable[[Part], bool]) -> Rename | None:
    """Return the one renaming under which every part fits the names on disk, or None.

    ``new`` tells parts that may bring a tensor the base lacks (a classification head).
    """
    for rename in _candidates(parts, names):
        if not unmatched(parts, names, new, rename) and any(rename(part.target) in names for part in parts):
            return rename
    return None


def _candidates(parts: Collection[Part], names: Collection[str]) -> Iterable[Rename]:
    yield lambda name: name
    firsts = {name.split(".", 1)[0] + "." for name in names if "." in name}
    for prefix in sorted(firsts):
        yield _adding(prefix, names)
    leading = {part.module.split(".", 1)[0] + "." for part in parts if "." in part.module}
    for prefix in sorted(leading):
        yield _removing(prefix, names)


def _adding(prefix: str, names: Collection[str]) -> Rename:
    return lambda name: prefix + name


def _removing(prefix: str, names: Collection[str]) -> Rename:
    # A head stands outside the prefix in the live model (lm_head beside transformer.…), so it may keep its name.
    def rename(name: str) -> str:
        return name.removeprefix(prefix) if name.startswith(prefix) else name if "." not in _module(name) else prefix

    return rename


def _module(name: str) -> str:
    return name.rpartition(".")[0]
