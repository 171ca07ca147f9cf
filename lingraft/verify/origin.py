"""Is this the base that the adapter was trained on? By lineage where there is one, and by the rows it carries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lingraft.merge import evidence
from lingraft.merge.adapter import Adapter
from lingraft.merge.plan import Plan
from lingraft.problems import Findings, Refusal
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.json_file import read_json
from lingraft.weights.tensors import Checkpoint, Lazy

REMEDY = "give the base that the adapter was trained on"


def check_origin(adapter: Adapter, base: Checkpoint, below: Lazy, made: Plan, findings: Findings) -> None:
    """Note `base-mismatch` where lineage or saved rows say that the adapter belongs to other weights.

    The base from before its vocabulary grew is accepted: silently where the extended one's receipt names it, with a
    warning where only the rows say so.
    """
    rows = Findings(findings.allow)
    evidence.check_rows(adapter, below, made, rows)
    findings.absorb(Refusal(*rows.problems, *rows.allowed))
    if adapter.lineage is None:
        evidence.check_named_base(adapter, below, made, True, findings)
        return
    found = fingerprint(base.tensors)
    if rows.problems or found in (adapter.lineage.base, _ancestor(Path(adapter.lineage.base_path))):
        return
    told = (
        f"{adapter.path} was trained on {adapter.lineage.base[:16]}… ({adapter.lineage.base_path}); {base.path} is "
        f"{found[:16]}…"
    )
    if _smaller(below, made):
        findings.warn(
            "base-mismatch", f"{told}: the base before its vocabulary grew, by its rows", REMEDY, adapter.path
        )
    else:
        findings.problem("base-mismatch", told, REMEDY, adapter.path)


def _ancestor(extended: Path) -> str | None:
    """Return the fingerprint of the base that a vocabulary stage started from, by its receipt."""
    try:
        value = read_json(extended / "manifest.json").get("base")
    except Refusal:
        return None
    return str(value.get("fingerprint")) if isinstance(value, Mapping) else None


def _smaller(below: Lazy, made: Plan) -> bool:
    """Tell whether the adapter brings a matrix with more rows than the base has."""
    return any(
        len(value.shape) == 2 and name in below.entries and value.shape[0] > below.entries[name].shape[0]
        for name, value in made.replaced.items()
    )
