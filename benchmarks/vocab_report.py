"""What the comparison of starts came to: the table and the curves of `benchmarks/vocab.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

CONTROL = "none"
STARTS = (CONTROL, "random", "mean", "pieces", "focus", "omp", "distil")
SCREEN, FINAL = 10_000, 50_000  # training tokens
LATER = (0.4, 0.7, 1.0)  # of the tokens a start may take in all: where bits per character are measured again
DECAY = 0.8  # likewise: from there on the learning rate falls to nothing


def curves(results: Mapping[str, Any], name: str) -> list[list[dict[str, float]]]:
    """Return a start's curves, one a seed."""
    return [value["curve"] for key, value in results.items() if key.rpartition("/")[0] == name and value.get("curve")]


def table(results: Mapping[str, Any]) -> str:
    """Return what was reached as a table in Markdown: mean ± half the range over seeds, and against the control."""
    lines = [
        "| start | preparation | at the beginning | after 10,000 tokens | at the end, equal compute |",
        "|---|---:|---:|---:|---:|",
    ]
    ends = {name: [c[-1]["bits"] for c in curves(results, name) if len(c) > 2 + len(LATER)] for name in STARTS}
    for name in STARTS:
        found = curves(results, name)
        cells = [
            _cell([c[i]["bits"] for c in found if len(c) > i], [c[i]["bits"] for c in curves(results, CONTROL)])
            for i in (0, 2)
        ]
        seconds = next((v.get("preparation", 0.0) for k, v in results.items() if k.startswith(f"{name}/")), 0.0)
        lines.append(f"| {name} | {seconds:.0f} s | {cells[0]} | {cells[1]} | {_cell(ends[name], ends[CONTROL])} |")
    return "\n".join(lines)


def _cell(bits: Sequence[float], control: Sequence[float]) -> str:
    if not bits:
        return "–"
    spread = f" ± {(max(bits) - min(bits)) / 2:.3f}" if len(bits) > 1 else ""
    return f"{mean(bits):.3f}{spread} ({mean(bits) / mean(control) - 1:+.1%})"


def plot(results: Mapping[str, Any], out: Path) -> None:
    """Draw bits per character against training tokens, preparation included: a line a start, a band over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name in STARTS:
        found = curves(results, name)
        if not found:
            continue
        one = next(value for key, value in results.items() if key.startswith(f"{name}/"))
        shift = one.get("preparation", 0.0) * results[f"{CONTROL}/0"]["tokens_per_second"]
        points = [[c[i] for c in found if len(c) > i] for i in range(max(map(len, found)))]
        x = [mean(p["tokens"] for p in column) + shift for column in points]
        y = [mean(p["bits"] for p in column) for column in points]
        (line,) = axes.plot(
            x,
            y,
            marker="o",
            markersize=3,
            linewidth=2.5 if name == CONTROL else 1.5,
            color="black" if name == CONTROL else None,
            label="no new piece" if name == CONTROL else name,
        )
        axes.fill_between(
            x,
            [min(p["bits"] for p in c) for c in points],
            [max(p["bits"] for p in c) for c in points],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set_xlabel("training tokens (preparation counted as the tokens its time would have paid for)")
    axes.set_ylabel("bits per character, held-out Chinese")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.1f}")
    axes.yaxis.set_minor_formatter("{x:.1f}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)
