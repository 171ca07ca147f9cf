"""report.html: one file that shows what a run or a comparison came to, offline, in English and Chinese.

The page is Jinja templates in this folder (page.html and what it includes), filled with the run's JSON. Every block
is optional: it appears where its facts are. Model answers are untrusted text: everything is escaped, and a content
security policy lets nothing run but the page's own script, and nothing be fetched at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lingraft.evaluate import charts, figures
from lingraft.output import output_file

HOME = Path(__file__).parent
TRAINING = ("pretrain", "sft", "prefer", "classify")


def write_report(out: Path, facts: Mapping[str, Any]) -> None:
    """Write the page to ``out``, complete or not at all; ``facts`` is the JSON of a run or of `evaluate`.

    `evaluate`'s own answer (``{"models": …}``) is taken as ``{"evaluate": answer}``. Error: `no-space`.
    """
    page = render(facts)
    with output_file(out, overwrite=True) as partial_file:
        partial_file.write_text(page, encoding="utf-8")


def render(facts: Mapping[str, Any]) -> str:
    """Return the page as text."""
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    clean = figures.finite({"evaluate": facts} if "models" in facts and "evaluate" not in facts else facts)
    jinja = Environment(
        loader=FileSystemLoader(HOME),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (HOME / "page.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    jinja.filters["pointer"] = figures.pointer
    jinja.globals.update(
        figure=partial(figures.figure, clean),
        change=partial(figures.change, clean),
        shares=charts.shares,
        number=figures.is_number,
        curve=charts.curve,
        marked=marked,
        short=short_names(_model_names(clean)),
        total_seconds=figures.seconds,
    )
    return jinja.get_template("page.html").render(
        facts=clean,
        stages=[name for name in TRAINING if clean.get(name)],
        css=Markup((HOME / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=digest,
        json=as_script(clean),
    )


def as_script(value: Any) -> Markup:
    """Return JSON that may stand inside a <script> element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def marked(example: Any) -> Markup:
    """Return a training example with what the loss is on (between ⟦ and ⟧) marked."""
    parts = str(example).replace("⟧", "⟦").split("⟦")
    return Markup("").join(Markup("<mark>{}</mark>").format(part) if i % 2 else part for i, part in enumerate(parts))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Return for every model the shortest end of its path that names it alone."""
    found = {}
    for name in names:
        parts = name.rstrip("/").split("/")
        ends = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        others = [other.rstrip("/") for other in names if other != name]
        found[name] = next((end for end in ends if not any(o == end or o.endswith("/" + end) for o in others)), name)
    return found


def _model_names(facts: Mapping[str, Any]) -> list[str]:
    return [str(row.get("model")) for row in figures.at(facts, "/evaluate/models") or []]
