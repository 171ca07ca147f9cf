"""manifest.json: the receipt of a merge, so that anybody can tell later what a model is made of, and check it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingraft.merge.adapter import Adapter
from lingraft.merge.lineage import versions
from lingraft.merge.merged import Merged
from lingraft.problems import Findings
from lingraft.weights.fingerprint import Listing
from lingraft.weights.tensors import Weights

FILE = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Cost:
    """What a merge took."""

    seconds: float
    peak_memory: int


def manifest(
    decided: Merged,
    adapters: Sequence[Adapter],
    base: Path,
    base_fingerprint: str,
    stored: Weights,
    written: Listing,
    choices: Mapping[str, Any],
    command: Sequence[str],
    cost: Cost,
    findings: Findings,
) -> dict[str, Any]:
    """Return the receipt: base, adapters and result by fingerprint, what was decided, by which versions, the cost."""
    model, known = decided.model, decided.inside
    ends = model.ends
    rows = None if ends.embedding is None else model.weights.entries.get(ends.embedding)
    return {
        "schema": SCHEMA,
        "fingerprint": written.fingerprint,
        "base": {"path": str(base), "fingerprint": known.root or base_fingerprint},
        "merged_from": None if known.root is None else {"path": str(base), "fingerprint": base_fingerprint},
        "inside": list(known.adapters),
        "adapters": [_adapter(a, f) for a, f in zip(adapters, decided.fingerprints, strict=True)],
        "applied": list(model.applied),
        "untied": decided.untied,
        "left_out": list(model.left_out),
        "vocabulary": {
            "rows": rows.shape[0] if rows else None,
            "files": [str(file) for file in decided.checkpoint.side_files],
        },
        "choices": dict(choices),
        "quantisation": decided.quantisation(stored) if decided.quantisation else None,
        "versions": versions(),
        "command": list(command),
        "seconds": cost.seconds,
        "peak_memory": cost.peak_memory,
        "allowed": [problem.as_json() for problem in findings.allowed],
        "warnings": [warning.as_json() for warning in findings.warnings],
        "tensors": written.digests,
    }


def _adapter(adapter: Adapter, fingerprint: str) -> dict[str, Any]:
    lineage = adapter.lineage
    return {
        "path": str(adapter.path),
        "fingerprint": fingerprint,
        "type": adapter.kind,
        "trained_on": None
        if lineage is None
        else {
            "base": lineage.base,
            "adapters": [a.fingerprint for a in lineage.adapters],
            "quantisation": lineage.quantisation,
        },
    }


class Pace:
    """Lets one thread read a model just ahead of another that works on it, so that the disk reads it once."""

    def __init__(self, ahead: int = 1 << 30) -> None:
        self.ahead, self.first, self.second, self.over = ahead, 0, 0, False
        self._moved = threading.Condition()

    def worked(self, nbytes: int) -> None:
        """Tell that the working thread went on."""
        with self._moved:
            self.second += nbytes
            self._moved.notify_all()

    def read(self, nbytes: int) -> None:
        """Tell that the reading thread went on; waits while it is too far ahead."""
        with self._moved:
            self.first += nbytes
            self._moved.wait_for(lambda: self.over or self.first - self.second < self.ahead)

    def finish(self) -> None:
        """Let the reading thread run to its end."""
        with self._moved:
            self.over = True
            self._moved.notify_all()
