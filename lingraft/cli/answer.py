"""How every verb answers: exit codes, one JSON object, problems and warnings; and the options that verbs share.

Exit 0: done. 1: refused, or a check failed. 2: wrong usage. 130: interrupted.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lingraft.language import told, told_summary
from lingraft.outcome import Outcome, attempt
from lingraft.problems import CODES, Findings
from lingraft.progress import say

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Allow = Annotated[list[str], typer.Option("--allow", metavar="CODE", help="Override one refusal knowingly.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a non-empty --out.")]
Base = Annotated[str | None, typer.Option("--base", help="The base model: a path or a Hub id.")]
Adapters = Annotated[list[str], typer.Option("--adapter", metavar="ADAPTER", help="An adapter, in order; repeatable.")]
Out = Annotated[Path, typer.Option("--out", help="The directory to write; it appears when it is complete.")]
Set = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="Override one key.")]
Answer = dict[str, Any]


def answer(
    call: Callable[[Findings], Answer], json_out: bool, allow: list[str], show: Callable[[Answer], str] | None = None
) -> NoReturn:
    """Call a verb, print its answer and exit as the contract says."""
    unknown = [code for code in allow if code not in CODES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not a problem code; known: {', '.join(CODES)}")
    # Libraries print to stdout now and then; with --json only the answer may stand there.
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        outcome = attempt(call, frozenset(allow))
    except KeyboardInterrupt:  # typer itself would exit with 130 and say nothing
        say("interrupted; the same command begins again where it can")
        if json_out:
            print(json.dumps({"ok": False, "error": "interrupted", "problems": [], "warnings": []}), file=stdout)
        raise typer.Exit(130) from None
    finally:
        sys.stdout = stdout
    _print(outcome, json_out, show)
    raise typer.Exit(0 if outcome.ok else 1)


def quiet() -> None:
    """Silence notices of the libraries below that users can do nothing about."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("bitsandbytes", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _print(outcome: Outcome, json_out: bool, show: Callable[[Answer], str] | None) -> None:
    if json_out:
        print(_json(outcome.as_json()))
    elif outcome.result:
        from lingraft.show import plain

        if text := (show or plain)(outcome.result):
            print(told_summary(text))
    if outcome.bug is not None:
        say(f"lingraft failed, which is a bug: {outcome.bug} (LINGRAFT_TRACEBACK=1 shows where)")
    if json_out:
        return
    for label, found in (("warning", outcome.warnings), ("allowed", outcome.allowed), ("problem", outcome.problems)):
        for p in found:
            print(f"{told(label)} {p.code}: {told(p.message)} — {told(p.remedy)}", file=sys.stderr)


def _json(value: Answer) -> str:
    """Write the answer on one line; escaped where stdout cannot say it: names of files need not be UTF-8."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return text


def command() -> list[str]:
    """Return the command line as a receipt records it."""
    return ["lingraft", *sys.argv[1:]]


def is_recipe(name: str | Path) -> bool:
    """Tell whether a name means a recipe: it ends in .yaml."""
    return str(name).endswith((".yaml", ".yml"))


def one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that an option does not take, as wrong usage."""
    if value not in known:
        raise typer.BadParameter(f"{option} takes {', '.join(known)}; not {value!r}")


def run_recipe(
    file: Path,
    overrides: list[str],
    findings: Findings,
    first: str | None = None,
    last: str | None = None,
    only: str | None = None,
) -> Answer:
    """Run a recipe's stages."""
    from lingraft.pipeline import run
    from lingraft.recipe_file import load
    from lingraft.train.distributed import launch

    with launch.led():
        return run(load(file, tuple(overrides)), findings, command(), first, last, only)


def run_stage(name: str, file: Path, overrides: list[str], json_out: bool, allow: list[str]) -> NoReturn:
    """Run one stage of a recipe, answer with its result and exit."""

    def call(findings: Findings) -> Answer:
        told = run_recipe(file, overrides, findings, only=name)
        stages = json.loads(Path(told["manifest"]).read_text(encoding="utf-8"))["stages"]
        result: Answer = stages[name].get("result", {})
        return result

    answer(call, json_out, allow)
