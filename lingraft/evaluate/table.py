"""The answer of `evaluate` as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lingraft.evaluate.figures import is_number, shower
from lingraft.evaluate.report import short_names

COLUMNS = (
    ("bits_per_character", "bits/char", "3"),
    ("bits_per_byte", "bits/byte", "3"),
    ("tokens_per_character", "tokens/char", "3"),
    ("english_bits_per_character", "English bits/char", "3"),
    ("bytes", "size", "bytes"),
    ("tokens_per_second", "tokens/s", "1"),
)


def table(answer: Mapping[str, Any]) -> str:
    """Return the models' figures, tasks, differences and answers as lines for people."""
    models = answer["models"]
    names = short_names([row["model"] for row in models])
    columns = [column for column in COLUMNS if any(is_number(row.get(column[0])) for row in models)]
    rows = [["model", *(title for _, title, _ in columns)]]
    rows += [[names[row["model"]], *(_cell(row.get(key), kind) for key, _, kind in columns)] for row in models]
    for task in models[0]["tasks"]:
        rows[0].append(task)
        for row, line in zip(models, rows[1:], strict=True):
            line.append(_cell(_main(row["tasks"][task]), "3"))
    parts = [
        _aligned(rows),
        *(_difference(found, names) for found in answer["differences"]),
        *_contamination(answer.get("contamination") or {}),
    ]
    for item in answer["answers"]:
        parts.append(f"> {item['prompt']}")
        for way, label in (("answers", ""), ("sampled", ", sampled")):
            parts += [
                f"  {names.get(model, model)}{label}: {' '.join(text.split())}"
                for model, text in item.get(way, {}).items()
            ]
    return "\n".join(parts)


def _contamination(told: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {_share(found)} of its {found['n']}-grams stand in the training text"
        for name, found in told.items()
        if isinstance(found, Mapping)
    ]


def _share(found: Mapping[str, Any]) -> str:
    return "too short to tell how much" if found["share"] is None else f"{found['share']:.1%}"


def _main(metrics: Mapping[str, float]) -> float | None:
    return metrics.get("acc", next(iter(metrics.values()), None))


def _cell(value: Any, kind: str) -> str:
    return shower(kind)(value).replace("\u00a0", " ") if is_number(value) else "-"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def _difference(found: Mapping[str, Any], names: Mapping[str, str]) -> str:
    what = found["measure"].replace("_", " ")
    who = names.get(found["model"], found["model"])
    share = "" if found["relative"] is None else f" ({found['relative']:+.1%})"
    text = f"{who}: {what} {found['difference']:+.3f}{share}"
    if found["low"] is None:
        return f"{text}; one unit alone gives no interval"
    verdict = "clear" if found["significant"] else "not distinguishable from noise"
    return (
        f"{text}, 95 % interval {found['low']:+.3f} … {found['high']:+.3f} over {found['units']} "
        f"{found['unit'].split()[0]}s: {verdict}"
    )
