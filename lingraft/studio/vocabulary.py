"""The page of vocabularies: a sentence cut by two tokenizers, every piece in its colour, with the counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from lingraft.outcome import attempt
from lingraft.studio.cut import Cut, Piece, cut
from lingraft.studio.folders import find_runs, look
from lingraft.studio.html import figures, join, tag
from lingraft.studio.local import local, start_of
from lingraft.studio.shown import problem
from lingraft.studio.words import Both, Words
from lingraft.weights.json_file import json_or_nothing

SENTENCE = "很多人以为，夏天热是因为地球离太阳近。The wall is long, 长城很长。"
EMPTY = Both("a folder, tokenizer.json or .model file", "文件夹、tokenizer.json 或 .model 文件")
COLOURS = 6
SHOWN = 5  # new pieces behind the sentence that the page begins with


def page(words: Words, root: Path) -> None:
    """Build the page; it follows every key."""
    before, after = _first_pair(root)
    with gr.Row():
        one = words.text(
            label=Both("Tokenizer before", "扩充前的分词器"),
            value=before,
            elem_id="cut-before",
            max_lines=1,
            min_width=240,
            placeholder=EMPTY,
        )
        two = words.text(
            label=Both("Tokenizer after", "扩充后的分词器"),
            value=after,
            elem_id="cut-after",
            max_lines=1,
            min_width=240,
            placeholder=EMPTY,
        )
    text = words.text(
        label=Both("Type a sentence", "输入一句话"), value=SENTENCE + _new(before, after), lines=2, elem_id="cut-text"
    )
    view = gr.HTML(elem_id="cut-view")
    # Without triggers: when the page is shown and at every change. Cutting at once would delay the start by seconds.
    gr.on(None, render, [one, two, text], view, show_progress="hidden", trigger_mode="always_last")


def _first_pair(root: Path) -> tuple[str, str]:
    """Return the base's and the grown tokenizer of the newest run that grew one."""
    for folder in find_runs(root):
        this = look(folder)
        grown = folder / "vocab"
        if (grown / "tokenizer.json").is_file() or (grown / "tokenizer.model").is_file():
            return start_of(this), str(grown)
        if this.model() is not None:
            return start_of(this), str(this.model())
    return "", ""


def _new(before: str, after: str) -> str:
    """Return some of the pieces that the second tokenizer has more, so that a difference is seen at once."""
    old, new = (_pieces(Path(path) / "tokenizer.json") for path in (before, after))
    more = [piece for piece in new - old if any("一" <= char <= "鿿" for char in piece)] if old else []
    return "，".join(sorted(more, key=lambda piece: (-len(piece), piece))[:SHOWN])


def _pieces(file: Path) -> set[str]:
    """Return the pieces of a tokenizer.json that are written as they are read (byte-level ones are not)."""
    told = json_or_nothing(file)
    model, added = told.get("model"), told.get("added_tokens")
    known = model.get("vocab") if isinstance(model, dict) else None
    extra = [item.get("content") for item in added if isinstance(item, dict)] if isinstance(added, list) else []
    return {piece for piece in (*(known if isinstance(known, dict) else ()), *extra) if isinstance(piece, str)}


def render(before: str, after: str, text: str) -> str:
    """Return both cuts as HTML."""
    return str(
        tag("div", *(_side(name, path, text) for name, path in (("before", before), ("after", after))), class_="cuts")
    )


def _side(side: str, path: str, text: str) -> Markup | None:
    if not path.strip():
        return None
    found: list[Cut] = []

    def call(_: Any) -> dict[str, Any]:
        found.append(cut(local(path), text))
        return {}

    outcome = attempt(call)
    if not found:
        bug = tag("p", outcome.bug, class_="notice bad") if outcome.bug else None
        return tag("section", bug, *(problem("problem", p) for p in outcome.problems), data_side=side)
    this = found[0]
    return tag(
        "section",
        tag("h3", _short(path), title=path),
        figures(
            [
                ("tokens", Both("Tokens", "词元数"), tag("span", f"{len(this.pieces):,}", data_value=len(this.pieces))),
                (
                    "tokens_per_character",
                    Both("Tokens per character", "每字符词元数"),
                    tag("span", f"{this.tokens_per_character:.3f}", data_value=this.tokens_per_character),
                ),
                (
                    "byte_share",
                    Both("Parts of characters", "不完整的字符"),
                    tag("span", f"{this.byte_share:.1%}", data_value=this.byte_share),
                ),
                ("size", Both("Pieces known", "词表大小"), tag("span", f"{this.size:,}", data_value=this.size)),
            ]
        ),
        tag("div", *(_piece(i, p) for i, p in enumerate(this.pieces)), class_="pieces"),
        data_side=side,
    )


def _piece(place: int, piece: Piece) -> Markup:
    kind = f"piece c{place % COLOURS}" if piece.whole else "piece part"
    shown = join([piece.text.replace("\n", "↵").replace("\t", "⇥")])
    return tag("span", shown, class_=kind, title=f"id {piece.id}", data_id=piece.id)


def _short(path: str) -> str:
    parts = Path(path).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else path
