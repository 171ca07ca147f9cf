"""The command line in Chinese: help texts, headings and usage errors.

Typer and click below it write English; what they write goes through three places that can be handed over: the texts of
verbs and options, the formatter of a help page, and how a usage error is shown. Exit codes stay theirs.
"""

from __future__ import annotations

import io
import re
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from lingraft.language import chinese

NOTE = re.compile(r"\s*\[((?:default|required|env var|x|\d)[^\[\]]*(?:\[[^\[\]]*\])?[^\[\]]*)\]\s*$")
WIDE = r"\u3000-\u303f\u4e00-\u9fff\uff00-\uffef"
WORD = re.compile(rf"[{WIDE}]|[^\s{WIDE}]+|\s+")
START = frozenset("，。；：、）？！”》」…")  # never begin a line


def run(app: typer.Typer) -> NoReturn:
    """Run the command line with everything that typer says in Chinese."""
    command: Any = typer.main.get_command(app)
    for cls in typer.Context.__mro__:
        if "formatter_class" in vars(cls):
            cls.formatter_class = _formatter(cls.formatter_class)  # type: ignore[attr-defined]
    _translate(command)
    try:
        sys.exit(command.main(standalone_mode=False) or 0)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        told = io.StringIO()
        show(file=told)
        print("\n".join(map(chinese, told.getvalue().rstrip("\n").split("\n"))), file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _translate(command: Any) -> None:
    """Put Chinese into a command, its options and the commands below it."""
    if command.help:
        first, *more = command.help.split("\n\n")
        command.help = "\n\n".join([chinese(" ".join(first.split())), *more])
        command.short_help = command.help.split("\n\n")[0]
    for parameter in command.params:
        if getattr(parameter, "help", None):
            parameter.help = chinese(parameter.help)
    for below in getattr(command, "commands", {}).values():
        _translate(below)


def _formatter(english: type) -> type:
    """Return click's formatter with Chinese headings, and lines broken by the width that a terminal gives them."""

    def write_usage(self: Any, prog: str, args: str = "", prefix: str | None = None) -> None:
        english.write_usage(self, prog, args, chinese(prefix or "Usage: "))  # type: ignore[attr-defined]

    def write_heading(self: Any, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{chinese(heading)}：\n")

    def write_text(self: Any, text: str) -> None:
        pad = " " * self.current_indent
        broken = [line for part in text.split("\n") for line in lines(part, self.width - len(pad))]
        self.write("".join(f"{pad}{line}\n" for line in broken))

    def write_dl(self: Any, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        first = min(max(cells(name) for name, _ in rows), col_max) + col_spacing
        for name, text in rows:
            pad = " " * (first + self.current_indent)
            start = f"{'':>{self.current_indent}}{name}"
            wrapped = lines(noted(text), max(self.width - len(pad), 20))
            gap = len(pad) - cells(start)
            lead = start + " " * gap if gap >= col_spacing else f"{start}\n{pad}"
            self.write(lead.rstrip() + "\n" if not text else lead + f"\n{pad}".join(wrapped) + "\n")

    return type(
        "ChineseFormatter",
        (english,),
        {"write_usage": write_usage, "write_heading": write_heading, "write_text": write_text, "write_dl": write_dl},
    )


def noted(text: str) -> str:
    """Return an option's help in Chinese, with the note that click adds behind it: [default: 5.0; required]."""
    note = NOTE.search(text)
    if note is None:
        return chinese(text)
    parts = "；".join(chinese(part) for part in note[1].split("; "))
    return f"{chinese(text[: note.start()])} [{parts}]"


def lines(text: str, width: int) -> list[str]:
    """Break a text at ``width`` cells: anywhere between Chinese characters, at spaces elsewhere."""
    found = [""]
    for word in WORD.findall(text):
        if cells(found[-1]) + cells(word) > width and found[-1] and word not in START:
            found.append("")
        found[-1] += word if found[-1] or not word.isspace() else ""
    return [line.rstrip() for line in found]


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
