"""Every number on the page passes through here, and carries where in the JSON it stands.

``<data data-key="/evaluate/models/0/bits_per_character" data-value="6.29…">6.295</data>``: a test, or a reader's
script, can hold what is shown against the JSON that the page brings along. Keys are JSON Pointers (RFC 6901).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

NOTHING = Markup('<span class="none">–</span>')
GAP = "\u00a0"  # a figure and its unit stay on one line
Show = Callable[[float], str]


def at(facts: Mapping[str, Any], key: str) -> Any:
    """Return what stands at a JSON Pointer, or None."""
    here: Any = facts
    for part in (step.replace("~1", "/").replace("~0", "~") for step in key.split("/")[1:]):
        if isinstance(here, Mapping):
            here = here.get(part)
        elif isinstance(here, Sequence) and not isinstance(here, str) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        else:
            return None
    return here


def pointer(name: str) -> str:
    """Return a name as one step of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number (and no bool)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def shower(kind: str) -> Show:
    """Return how a kind of figure is written: see the table, or a number of decimals."""
    if kind.isdigit():
        return lambda value: f"{value:.{int(kind)}f}"
    return {
        "count": lambda v: f"{v:,.0f}",
        "percent": lambda v: f"{v * 100:.1f}{GAP}%",
        "seconds": seconds,
        "bytes": size,
        "small": lambda v: f"{v:.2g}",
        "sign3": lambda v: _signed(f"{v:+.3f}"),
        "change": lambda v: _signed(f"{v * 100:+.1f}{GAP}%"),
    }[kind]


def figure(facts: Mapping[str, Any], key: str, kind: str = "3") -> Markup:
    """Return one figure of the JSON as HTML; a dash where it is missing or not finite."""
    value = at(facts, key)
    if not is_number(value):
        return NOTHING
    return Markup('<data data-key="{}" data-value="{}" value="{}">{}</data>').format(
        key, repr(value), repr(value), shower(kind)(value)
    )


def change(facts: Mapping[str, Any], before: str, after: str) -> Markup:
    """Return the relative change between two figures of the JSON, with its sign."""
    a, b = at(facts, before), at(facts, after)
    if not (is_number(a) and is_number(b)) or a == 0:
        return NOTHING
    value = b / a - 1
    text = shower("change")(value)
    return Markup('<data data-change="{} {}" data-value="{}" value="{}">{}</data>').format(
        before, after, repr(value), repr(value), text
    )


def _signed(text: str) -> str:
    return text.replace("-", "\u2212")


def seconds(value: float) -> str:
    """Write a time as people say it."""
    if value < 60:
        return f"{value:.1f}{GAP}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{GAP}min {rest}{GAP}s" if minutes < 60 else f"{minutes // 60}{GAP}h {minutes % 60}{GAP}min"


def size(value: float) -> str:
    """Write a number of bytes in decimal units."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{value / factor:.1f}{GAP}{unit}"
    return f"{value:.0f}{GAP}B"


def finite(value: Any) -> Any:
    """Return JSON without NaN or infinities (which JSON has not), tuples as lists, other values as text."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
