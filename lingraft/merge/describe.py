"""Write the answer of `merge` for people: what went into the result, how it can be known again, what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from shlex import quote
from typing import Any

from lingraft.weights.describe import fact


def describe(base: str, answer: Mapping[str, Any]) -> str:
    """Return a `merge` answer as plain text."""
    lines = [f"{answer['out']}: {' + '.join([base, *(one['adapter'] for one in answer['applied'])])}"]
    for one in answer["applied"]:
        parts = [(one["low_rank"], "low-rank changes"), (one["replaced"], "replaced"), (one["rows"], "rows")]
        did = ", ".join(f"{count:,} {what}" for count, what in parts if count)
        lines.append(fact("adapter", f"{one['adapter']}: all {one['tensors']:,} tensors used ({did})"))
    lines.append(fact("fingerprint", answer["fingerprint"]))
    lines.append(fact("took", f"{answer['seconds']:.1f} s and {answer['peak_memory'] / 1e6:,.0f} MB of memory"))
    lines.append(fact("next", f"lingraft verify {quote(str(answer['out']))} --base {quote(base)}"))
    return "\n".join(lines)
