"""Which adapters belong on which base, and in which order: what lingraft.json and manifest.json say.

A chain is the base's fingerprint and those of the adapters live below. It fits where the base given here is the
base of the chain (or a merge of it with the first adapters, as its manifest.json tells) and the adapters given
before are the rest of the chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING

from lingraft.merge.lineage import Lineage
from lingraft.problems import Findings, Refusal, refuse
from lingraft.weights.hf import read_json

if TYPE_CHECKING:
    from lingraft.merge.adapter import Adapter

MANY = 3  # adapters, whose six orders can be tried
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Inside:
    """What a base already is: its own fingerprint, and the root and adapters it was merged from, if it was."""

    fingerprint: str | None = None
    root: str | None = None
    adapters: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """One adapter of the command, with its fingerprint and what it says of itself."""

    path: Path
    fingerprint: str
    lineage: Lineage | None


def inside(base: Path) -> Inside:
    """Read a base's manifest.json; nothing is known of a base without one."""
    if not (base / MANIFEST).is_file():
        return Inside()
    value = read_json(base / MANIFEST)
    root, adapters = value.get("base"), value.get("adapters")
    fingerprint = value.get("fingerprint")
    if not isinstance(root, dict) or not isinstance(adapters, list) or not adapters:
        return Inside(fingerprint)  # the receipt of something else than a merge
    below = tuple(str(a["fingerprint"]) for a in adapters if isinstance(a, dict) and "fingerprint" in a)
    earlier = tuple(str(f) for f in value.get("inside") or ())
    return Inside(fingerprint, root.get("fingerprint"), (*earlier, *below))


def check(base: Path, known: Inside, given: Sequence[Given], findings: Findings) -> None:
    """Hold the adapters against each other and against the base.

    Problems: `already-merged`, `base-mismatch`, `wrong-order`.
    """
    for position, adapter in enumerate(given):
        if adapter.fingerprint in known.adapters:
            findings.problem(
                "already-merged",
                f"{adapter.path} is inside {base} already: its {MANIFEST} lists it",
                "leave this adapter out, or take the base without it",
                adapter.path,
            )
        elif adapter.fingerprint in [other.fingerprint for other in given[:position]]:
            findings.problem("already-merged", f"{adapter.path} is given twice", "name it once", adapter.path)
        elif adapter.lineage is not None:
            _check_chain(base, known, given, position, adapter.lineage, findings)


def _check_chain(
    base: Path, known: Inside, given: Sequence[Given], position: int, lineage: Lineage, findings: Findings
) -> None:
    adapter, below = given[position], tuple(link.fingerprint for link in lineage.adapters)
    before = tuple(other.fingerprint for other in given[:position])
    if lineage.base == known.root:
        before = (*known.adapters, *before)
    elif known.fingerprint is not None and lineage.base != known.fingerprint:
        findings.problem(
            "base-mismatch",
            f"{adapter.path} was trained on the base {_short(lineage.base)} "
            f"({lineage.base_path}); {base} is {_short(known.fingerprint)}",
            f"merge into {lineage.base_path or 'the base it was trained on'}",
            adapter.path,
        )
        return
    if before == below:
        return
    paths = {other.fingerprint: other.path for other in given}
    absent = [link for link in lineage.adapters if link.fingerprint not in (*before, *paths)]
    if absent:
        findings.problem(
            "base-mismatch",
            f"{adapter.path} was trained on top of {', '.join(a.path for a in absent)}, "
            "which is not among the adapters given",
            "give the earlier adapters first: " + " ".join(a.path for a in lineage.adapters),
            adapter.path,
        )
        return
    findings.problem(
        "wrong-order",
        f"{adapter.path} was trained on {' + '.join(str(paths.get(f, _short(f))) for f in below) or 'the bare base'}; "
        f"here it comes after {' + '.join(str(paths.get(f, _short(f))) for f in before) or 'nothing'}",
        f"give them in this order: {' '.join(str(p) for p in _sorted(given))}",
        adapter.path,
    )


def _sorted(given: Sequence[Given]) -> list[Path]:
    return [g.path for g in sorted(given, key=lambda g: len(g.lineage.adapters) if g.lineage else 0)]


def _short(fingerprint: str) -> str:
    return fingerprint[:12]


def may_be_order(refusal: Refusal, adapters: int) -> bool:
    """Tell whether another order is worth a try: several adapters, few enough, and a copy of the base that differs."""
    return 1 < adapters <= MANY and {p.code for p in refusal.problems} == {"base-mismatch"}


def check_others(adapters: Sequence[Adapter], attempt: Callable[[Sequence[Adapter]], object]) -> None:
    """Try the adapters in every other order. Error: `wrong-order` where one fits."""
    for other in permutations(adapters):
        if other == tuple(adapters):
            continue
        try:
            attempt(other)
        except Refusal:
            continue
        named = " ".join(str(adapter.path) for adapter in other)
        refuse(
            "wrong-order",
            f"{adapters[0].path} was not trained on this base itself: the copies of their base that "
            "the adapters keep fit in another order",
            f"give them in this order: {named}",
            adapters[0].path,
        )
