"""HTML that is safe by construction: whatever is put into a tag is escaped unless it is a tag itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup, escape

from lingraft.studio.words import Both

EMPTY = ("br", "path", "line")


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """Return an element; ``class_`` and ``data_x`` become class and data-x, None leaves an attribute out."""
    named = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Markup("<{}{}/>").format(Markup(name), named)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), named, join(children))


def join(children: Iterable[Any]) -> Markup:
    """Return several children one after the other; None stands for nothing, `Both` for a text in two languages."""
    return Markup("").join(
        both(child) if isinstance(child, Both) else escape(child) for child in children if child is not None
    )


def both(text: Both) -> Markup:
    """Return both languages, of which CSS shows one."""
    if text.en == text.zh:
        return escape(text.en)
    return tag("span", text.en, class_="en", lang="en") + tag("span", text.zh, class_="zh", lang="zh")


def table(
    heads: Sequence[Any], rows: Sequence[Sequence[Any]], numbers: Iterable[int] = (), **attributes: Any
) -> Markup:
    """Return a table that scrolls sideways in its own box; ``numbers`` are the columns set to the right."""
    right = set(numbers)

    def line(cell: str, values: Sequence[Any]) -> Markup:
        return tag("tr", *(tag(cell, v, class_="n" if i in right else None) for i, v in enumerate(values)))

    return tag(
        "div",
        tag("table", tag("thead", line("th", heads)), tag("tbody", *(line("td", r) for r in rows)), **attributes),
        class_="scroll",
        tabindex="0",
    )


def figures(rows: Iterable[tuple[str, Any, Any]]) -> Markup:
    """Return named values; every row is (field, label, value), and the field is there for scripts to read."""
    return tag(
        "dl",
        *(
            tag("div", tag("dt", label), tag("dd", value, data_field=field))
            for field, label, value in rows
            if value is not None
        ),
        class_="figures",
    )
