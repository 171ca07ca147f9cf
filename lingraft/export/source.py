"""What is exported: a model directory, or base + adapters as a lazy checkpoint that is never written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lingraft.merge import order
from lingraft.merge.adapter import Adapter, read_adapter
from lingraft.merge.ends import Tied
from lingraft.merge.merged import Merged, decide
from lingraft.merge.run import open_base
from lingraft.models import Stack, stack
from lingraft.problems import Findings
from lingraft.weights.fingerprint import fingerprint
from lingraft.weights.tensors import Checkpoint


@dataclass(frozen=True)
class Source:
    """A model to export: where it came from, and its tensors, computed when they are read."""

    stack: Stack
    base: Checkpoint
    checkpoint: Checkpoint
    adapters: tuple[Adapter, ...] = ()
    decided: Merged | None = None

    @property
    def path(self) -> Path:
        """What the user named: the model, or the last adapter."""
        return self.stack.adapters[-1] if self.stack.adapters else self.stack.base

    def as_json(self) -> dict[str, Any]:
        """Return what a receipt says about where the weights came from."""
        prints = self.decided.fingerprints if self.decided else ()
        return {
            "base": str(self.stack.base),
            "adapters": [{"path": str(a.path), "fingerprint": p} for a, p in zip(self.adapters, prints, strict=True)],
            "applied": list(self.decided.model.applied) if self.decided else [],
        }


def open_source(
    model: str | Path, base: str | None, adapters: Sequence[str | Path], findings: Findings, tied: Tied = "auto"
) -> Source:
    """Open what a user named, with everything checked that can be known before the weights are read.

    Errors: `not-found`, `base-mismatch`, and everything that refuses a merge.
    """
    found = stack(model, base, adapters)
    opened = open_base(found.base)
    if not found.adapters:
        return Source(found, opened, opened)
    read = tuple(read_adapter(path, findings) for path in found.adapters)
    decided = decide(opened, read, findings, tied)
    return Source(found, opened, replace(decided.checkpoint, tensors=decided.cast(None)), read, decided)


def check_base(source: Source, findings: Findings) -> None:
    """Hold the base's bytes against what the adapters were trained on; reads all of the base.

    Problem: `base-mismatch`, where an adapter's lineage names another fingerprint.
    """
    if source.decided is None or not any(a.lineage for a in source.adapters):
        return
    known = replace(source.decided.inside, fingerprint=fingerprint(source.base.tensors))
    given = [
        order.Given(a.path, f, a.lineage) for a, f in zip(source.adapters, source.decided.fingerprints, strict=True)
    ]
    order.check(source.stack.base, known, given, findings)
    findings.settle()
