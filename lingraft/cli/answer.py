"""How every verb answers: exit codes, one JSON object, problems and warnings; and the options that verbs share.

Exit 0: done. 1: refused, or a check failed. 2: wrong usage. 130: interrupted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lingraft.problems import CODES, Code, Findings, Problem, Refusal

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Allow = Annotated[list[str], typer.Option("--allow", metavar="CODE", help="Override one refusal knowingly.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a non-empty --out.")]
Base = Annotated[str | None, typer.Option("--base", help="The base model: a path or a Hub id.")]
Adapters = Annotated[list[str], typer.Option("--adapter", metavar="ADAPTER", help="An adapter, in order; repeatable.")]
Out = Annotated[Path, typer.Option("--out", help="The directory to write; it appears when it is complete.")]
Set = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="Override one key.")]
Answer = dict[str, Any]


def answer(call: Callable[[Findings], Answer], json_out: bool, allow: list[str],
           show: Callable[[Answer], str] | None = None) -> NoReturn:  # fmt: skip
    """Call a verb, print its answer and exit as the contract says."""
    unknown = [code for code in allow if code not in CODES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not a problem code; known: {', '.join(CODES)}")
    findings = Findings(frozenset(allow))
    _quiet()
    # Libraries print to stdout now and then; with --json only the answer may stand there.
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        result = call(findings)
        problems = list(findings.problems)
    except Refusal as refusal:
        result, problems = refusal.answer, list(refusal.problems)
        findings.warnings += [w for w in refusal.warnings if w not in findings.warnings]
    except OSError as error:
        result, problems = {}, [_of_os(error)]
    except Exception as error:
        if os.environ.get("LINGRAFT_TRACEBACK"):
            raise
        sys.stdout = stdout
        _bug(error, json_out)
    finally:
        sys.stdout = stdout
    _print(result, problems, findings, json_out, show)
    raise typer.Exit(1 if problems else 0)


def _quiet() -> None:
    """Silence notices of the libraries below that users can do nothing about."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in ("bitsandbytes", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _of_os(error: OSError) -> Problem:
    """Turn what the operating system refused into a problem."""
    path = None if error.filename is None else str(error.filename)
    code: Code = "no-space" if error.errno == errno.ENOSPC else "not-found" if isinstance(error, FileNotFoundError) \
        else "unreadable"  # fmt: skip
    return Problem(code, f"{path or 'a file'}: {error.strerror or error}", "check the path and its permissions", path)


def _bug(error: Exception, json_out: bool) -> NoReturn:
    """Say that lingraft itself failed: not the user's fault, and no traceback unless it is asked for."""
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    if json_out:
        print(json.dumps({"ok": False, "error": told, "problems": [], "warnings": []}, ensure_ascii=False))
    print(f"lingraft failed, which is a bug: {told} (LINGRAFT_TRACEBACK=1 shows where)", file=sys.stderr)
    raise typer.Exit(1)


def _print(result: Answer, problems: list[Problem], findings: Findings, json_out: bool,
           show: Callable[[Answer], str] | None) -> None:  # fmt: skip
    if json_out:
        told = {"ok": not problems, **result, "problems": [p.as_json() for p in problems],
                "warnings": [w.as_json() for w in findings.warnings]}  # fmt: skip
        if findings.allowed:
            told["allowed"] = [p.as_json() for p in findings.allowed]
        print(json.dumps(told, ensure_ascii=False, default=str))
        return
    if result:
        from lingraft.show import plain

        print((show or plain)(result))
    for label, found in (("warning", findings.warnings), ("allowed", findings.allowed), ("problem", problems)):
        for p in found:
            print(f"{label} {p.code}: {p.message} — {p.remedy}", file=sys.stderr)


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


def run_recipe(file: Path, overrides: list[str], findings: Findings, first: str | None = None, last: str | None = None,
               only: str | None = None) -> Answer:  # fmt: skip
    """Run a recipe's stages."""
    from lingraft.pipeline import run
    from lingraft.recipe import load

    return run(load(file, tuple(overrides)), findings, command(), first, last, only)


def run_stage(name: str, file: Path, overrides: list[str], json_out: bool, allow: list[str]) -> NoReturn:
    """Run one stage of a recipe, answer with its result and exit."""

    def call(findings: Findings) -> Answer:
        told = run_recipe(file, overrides, findings, only=name)
        stages = json.loads(Path(told["manifest"]).read_text(encoding="utf-8"))["stages"]
        result: Answer = stages[name].get("result", {})
        return result

    answer(call, json_out, allow)
