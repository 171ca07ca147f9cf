"""What a verb prints at its end, in Chinese: line by line and cell by cell, from a catalogue of its own.

A summary holds names, figures and what models said beside lingraft's own words, so the messages' templates are not
tried on it. Cells stand two or more spaces apart; a cell keeps the place where it began.
"""

from __future__ import annotations

import re

from lingraft.language.catalogue import Catalogue, shipped
from lingraft.language.help import cells

GAP = re.compile(r"( {2,})")
# Stages stand at the beginning of a line; further in, such a word is the name of a folder.
STAGES = ("vocab", "pretrain", "sft", "prefer", "classify", "merge", "verify", "evaluate", "export", "report")


def summary(text: str) -> str:
    """Return a printed answer in Chinese."""
    known = shipped("summary", "parts", short=0)
    return "\n".join(_line(line, known) for line in text.split("\n"))


def _line(line: str, known: Catalogue) -> str:
    found, place = "", 0
    for part in GAP.split(line):
        place += cells(part)
        if part.strip():
            found += part if found and part.strip() in STAGES else _cell(part, known)
        else:
            found += " " * max(place - cells(found), 2 if found else 0)
    return found


def _cell(cell: str, known: Catalogue) -> str:
    """Translate a cell: whole, or the parts that a semicolon keeps apart."""
    bare = cell.strip()
    parts = [known.translate(part) for part in bare.split("; ")]
    whole = "；".join(parts) if parts != bare.split("; ") else bare
    inner = bare[1:-1] if bare.startswith("(") and bare.endswith(")") else ""
    if inner and whole == bare and known.translate(inner) != inner:
        whole = f"（{known.translate(inner)}）"
    return cell.replace(bare, whole, 1)
