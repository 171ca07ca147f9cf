"""Answers as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def plain(result: Mapping[str, Any], depth: int = 0) -> str:
    """Return a result as indented `key: value` lines; long lists show their first rows and how many follow."""
    lines: list[str] = []
    pad = "  " * depth
    for key, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{pad}{key}:", plain(value, depth + 1)] if value else []
        elif isinstance(value, Sequence) and not isinstance(value, str) and value and isinstance(value[0], Mapping):
            lines.append(f"{pad}{key}: ({len(value)})")
            lines += [f"{pad}  - {_row(item)}" for item in value[:10]]
            if len(value) > 10:
                lines.append(f"{pad}  … {len(value) - 10} more")
        elif value not in (None, [], ""):
            lines.append(f"{pad}{key}: {_value(value)}")
    return "\n".join(lines)


def run_summary(result: Mapping[str, Any]) -> str:
    """Return what a finished run came to: stages, figures, where things are."""
    lines = [
        f"{stage['name']:<10} {stage['seconds']:>8.1f} s{'  (done before)' if stage['skipped'] else ''}"
        for stage in result["stages"]
    ]
    lines.append(f"{'total':<10} {result['seconds']:>8.1f} s")
    models = (result.get("evaluate") or {}).get("models") or []
    for key, label in (
        ("bits_per_character", "bits per character"),
        ("tokens_per_character", "tokens per character"),
        ("english_bits_per_character", "English bits per character"),
    ):
        values = [m[key] for m in models if m.get(key) is not None]
        if len(values) > 1:
            lines.append(f"{label}: {values[0]:.3f} → {values[-1]:.3f} ({values[-1] / values[0] - 1:+.1%})")
    lines += [f"{key}: {result[key]}" for key in ("model", "report") if result.get(key)]
    if result.get("model"):
        lines.append(f"next: lingraft chat {result['model']}")
    return "\n".join(lines)


def _row(item: Mapping[str, Any]) -> str:
    return "  ".join(f"{key}={_value(value)}" for key, value in item.items() if not isinstance(value, Mapping | list))


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
