"""The command line: one short function per verb that reads, calls and prints. No logic.

answer.py    exit codes, JSON, shared options       recipes.py   quickstart, new, check, run, the stages
weights.py   inspect, merge, verify, convert, …     models.py    plan, evaluate, chat
vocab.py     vocab                                  deploy.py    export, push
"""

from __future__ import annotations

import atexit
import gc
import io
import sys
from typing import Annotated

import typer

from lingraft import __version__
from lingraft.cli import deploy, models, recipes, studio, use, vocab, weights
from lingraft.cli.answer import quiet
from lingraft.language import language, told

app = typer.Typer(
    name="lingraft",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Teach an open-weight language model a new language or domain, and get the weights right.",
)
for room in (recipes, models, vocab, weights, studio, use, deploy):
    app.add_typer(room.app)


def main() -> None:
    """Run the command line; the entry point of the `lingraft` command."""
    quiet()
    _brisk()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that is not UTF-8 must not end in a traceback
    try:
        if language() == "zh":
            from lingraft.language.help import run

            run(app)
        app(standalone_mode=True)
    except SystemExit as left:
        if left.code == 2 and "--json" in sys.argv:  # wrong usage: nothing has been answered yet
            print('{"ok": false, "error": "wrong usage: stderr says what is", "problems": [], "warnings": []}')
        raise
    except KeyboardInterrupt:
        print(told("interrupted; the same command begins again where it can"), file=sys.stderr)
        sys.exit(130)


def _brisk() -> None:
    """Let the collector rest while torch's 160,000 objects come and go: hardly any is garbage.

    That is 0.2 s of every start and 0.4 s of every end, of 5 s that the merge of 0.9 B parameters takes.
    """
    gc.set_threshold(5000)
    atexit.register(gc.freeze)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"lingraft {__version__}")
        raise typer.Exit
