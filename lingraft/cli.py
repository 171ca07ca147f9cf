"""The command line: one short function per verb that reads, calls and prints. No logic.

Exit 0: done. 1: refused, or a check failed. 2: wrong usage. 130: interrupted. ``--json`` prints exactly one object on
stdout; everything for people goes to stderr or, without ``--json``, to stdout at the end.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from lingraft import __version__
from lingraft.problems import CODES, Code, Findings, Problem, Refusal

app = typer.Typer(
    name="lingraft", add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Teach an open-weight language model a new language or domain, and get the weights right.",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Allow = Annotated[list[str], typer.Option("--allow", metavar="CODE", help="Override one refusal knowingly.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a non-empty --out.")]
Base = Annotated[str | None, typer.Option("--base", help="The base model: a path or a Hub id.")]
Adapters = Annotated[list[str], typer.Option("--adapter", metavar="ADAPTER", help="An adapter, in order; repeatable.")]
Out = Annotated[Path, typer.Option("--out", help="The directory to write; it appears when it is complete.")]
Set = Annotated[list[str], typer.Option("--set", metavar="A.B=C", help="Override one key.")]
Answer = dict[str, Any]


def main() -> None:
    """Run the command line; the entry point of the `lingraft` command."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"lingraft {__version__}")
        raise typer.Exit


def answer(call: Callable[[Findings], Answer], json_out: bool, allow: list[str],
           show: Callable[[Answer], str] | None = None) -> None:  # fmt: skip
    """Call a verb, print its answer and exit as the contract says."""
    unknown = [code for code in allow if code not in CODES]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is not a problem code; known: {', '.join(CODES)}")
    findings = Findings(frozenset(allow))
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it reports missing GPU kernels at import
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


def _is_recipe(name: str | Path) -> bool:
    return str(name).endswith((".yaml", ".yml"))


def _command() -> list[str]:
    return ["lingraft", *sys.argv[1:]]


def _run(file: Path, overrides: list[str], findings: Findings, first: str | None = None, last: str | None = None,
         only: str | None = None) -> Answer:  # fmt: skip
    from lingraft.pipeline import run
    from lingraft.recipe import load

    return run(load(file, tuple(overrides)), findings, _command(), first, last, only)


@app.command()
def quickstart(
    minutes: Annotated[float, typer.Option("--minutes", help="Time for the whole job.", min=0.5)] = 5.0,
    base: Base = None,
    out: Annotated[Path, typer.Option("--out", help="The run folder.")] = Path("runs/quickstart"),
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Turn a real English model into one that reads Chinese, end to end, in a few minutes."""
    from lingraft.quickstart.run import quickstart as start
    from lingraft.show import run_summary

    answer(lambda findings: start(minutes, base, out, findings, _command()), json_out, allow, run_summary)


@app.command()
def new(name: str, file: Path, json_out: Json = False, overwrite: Overwrite = False) -> None:
    """Copy a recipe that ships with lingraft to FILE, to be edited."""
    from lingraft.quickstart.recipes import copy

    answer(lambda _: copy(name, file, overwrite), json_out, [])


@app.command()
def check(
    file: Path,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Also train, save and reopen one real batch.")] = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Refuse what is wrong with a recipe before an hour is spent."""
    from lingraft.check import check as check_recipe

    answer(lambda findings: check_recipe(file, tuple(overrides), dry_run, findings), json_out, allow)


@app.command("run")
def run_(
    file: Path,
    first: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run again from this stage.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Stop after this stage.")] = None,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Run all stages of a recipe, skipping what is done."""
    from lingraft.show import run_summary

    answer(lambda findings: _run(file, overrides, findings, first, last), json_out, allow, run_summary)


@app.command()
def vocab(
    base: str,
    corpus: Annotated[list[str], typer.Option("--corpus", help="Text to learn pieces from; repeatable.")] = [],
    size: Annotated[str, typer.Option("--size", help="New pieces: a number, or auto.")] = "auto",
    unite: Annotated[str | None, typer.Option("--unite", help="A ready-made tokenizer to take pieces from.")] = None,
    all_pieces: Annotated[bool, typer.Option("--all-pieces", help="Take pieces that change other text too.")] = False,
    init: Annotated[str | None, typer.Option("--init", help="How the new rows begin.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The larger model's directory.")] = None,
    overwrite: Overwrite = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Grow a model's vocabulary from a corpus, or by a ready-made tokenizer (or run a recipe's stage)."""
    if _is_recipe(base):
        _stage("vocab", Path(base), overrides, json_out, allow)
    if out is None or bool(corpus) == (unite is not None):
        raise typer.BadParameter("give --out DIR and either --corpus FILE (repeatable) or --unite TOKENIZER")
    if size != "auto" and not size.isdigit():
        raise typer.BadParameter(f"--size takes a number of new pieces or auto, not {size!r}")

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.vocab.run import extend

        return extend(locate(base), out, corpus=[Path(c) for c in corpus], unite=None if unite is None else Path(unite),
                      size="auto" if size == "auto" else int(size), all_pieces=all_pieces, overwrite=overwrite,
                      findings=findings, **({} if init is None else {"init": init}))  # fmt: skip

    answer(call, json_out, allow)


def _stage(name: str, file: Path, overrides: list[str], json_out: bool, allow: list[str]) -> None:
    """Run one stage of a recipe and answer with its result."""

    def call(findings: Findings) -> Answer:
        result = _run(file, overrides, findings, only=name)
        folder = Path(result["manifest"]).read_text(encoding="utf-8")
        stage: Answer = json.loads(folder)["stages"][name].get("result", {})
        return stage

    answer(call, json_out, allow)


@app.command()
def pretrain(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the pretrain stage of a recipe: continued pre-training on plain text."""
    _stage("pretrain", file, overrides, json_out, allow)


@app.command()
def sft(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the sft stage of a recipe: instruction tuning."""
    _stage("sft", file, overrides, json_out, allow)


@app.command()
def merge(
    base: str,
    adapters: Annotated[list[str] | None, typer.Argument(metavar="ADAPTER...")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The merged model's directory.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="keep, float32, float16 or bfloat16.")] = "keep",
    shard_size: Annotated[str, typer.Option("--shard-size", help="The largest shard.")] = "5GB",
    to: Annotated[str, typer.Option("--to", help="The format to write.")] = "hf",
    untie: Annotated[bool, typer.Option("--untie", help="Write the head as it ran, untied.")] = False,
    tie: Annotated[bool, typer.Option("--tie", help="Keep embedding and head one tensor.")] = False,
    onto: Annotated[str, typer.Option("--onto", help="original or dequantised: a QLoRA's base.")] = "original",
    overwrite: Overwrite = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Merge adapters into a base, in the order given, streaming and checked."""
    if _is_recipe(base):
        _stage("merge", Path(base), overrides, json_out, allow)
    named = list(adapters or [])
    if any("," in a and not Path(a).exists() for a in named) or base.startswith("("):
        paths = " ".join(p.strip(" ()'\"") for p in ",".join([*named]).split(",") if p.strip(" ()'\""))
        raise typer.BadParameter(f"adapters are separate words: lingraft merge {base} {paths} --out {out or 'DIR'}")
    if not named or out is None:
        raise typer.BadParameter("lingraft merge BASE ADAPTER [ADAPTER…] --out DIR")
    if tie and untie:
        raise typer.BadParameter("--tie and --untie exclude each other")
    _one_of("--dtype", dtype, ("keep", "float32", "float16", "bfloat16"))
    _one_of("--onto", onto, ("original", "dequantised"))

    def call(findings: Findings) -> Answer:
        from lingraft.merge.run import merge as merge_to
        from lingraft.models import locate

        return merge_to(locate(base), [locate(a) for a in named], out, dtype=dtype, shard_size=shard_size, to=to,
                        tied="tie" if tie else "untie" if untie else "auto", onto=onto, overwrite=overwrite,
                        findings=findings, command=_command())  # fmt: skip

    answer(call, json_out, allow)


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise typer.BadParameter(f"{option} takes {', '.join(known)}; not {value!r}")


@app.command()
def verify(
    path: str,
    base: Base = None,
    adapters: Adapters = [],
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Prove an adapter's update, a merged model against base + adapters, or a receipt against its weights."""
    if _is_recipe(path):
        _stage("verify", Path(path), overrides, json_out, allow)
    from lingraft.verify.run import verify as verify_path

    answer(lambda findings: verify_path(path, base, adapters, findings), json_out, allow)


@app.command()
def inspect(
    path: str,
    fingerprint: Annotated[bool, typer.Option("--fingerprint", help="Read everything and fingerprint it.")] = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Say what a file or folder is, what each part is for, which path to use next, and what is broken."""

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.weights.inspect import inspect as look

        return look(locate(path), fingerprint, findings)

    def show(result: Answer) -> str:
        from lingraft.weights.inspect import describe

        return describe(result)

    answer(call, json_out, allow, show)


@app.command()
def compare(a: str, b: str, json_out: Json = False, allow: Allow = []) -> None:
    """Compare any two checkpoints, tensor by tensor; exit 1 where they differ."""

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.verify.compare import compare as hold

        return hold(locate(a), locate(b), findings)

    answer(call, json_out, allow)


@app.command()
def convert(
    src: str,
    dst: Path,
    to: Annotated[str, typer.Option("--to", help="hf, meta, gguf, llama2c, state-dict.")],
    type_: Annotated[str | None, typer.Option("--type", help="Of a GGUF: F32, F16, BF16, Q8_0, Q4_0, …")] = None,
    shards: Annotated[int | None, typer.Option("--shards", help="Of Meta's format: 1, 2, 4 or 8.")] = None,
    overwrite: Overwrite = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Convert any readable format into any writable one, bit for bit."""

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.weights.convert import convert as convert_to

        return convert_to(locate(src), dst, to=to, findings=findings, overwrite=overwrite, type=type_, shards=shards)

    answer(call, json_out, allow)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    text: Annotated[Path | None, typer.Option("--text", help="Held-out text: .txt, .jsonl.")] = None,
    english: Annotated[Path | None, typer.Option("--english", help="English text, to see what was forgotten.")] = None,
    tasks: Annotated[str, typer.Option("--tasks", help="NAME[=PATH],… through lm-evaluation-harness.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", help="Questions per subject.", min=1)] = None,
    prompts: Annotated[list[str], typer.Option("--prompt", help="A prompt for every model; repeatable.")] = [],
    base: Base = None,
    adapters: Adapters = [],
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Measure several models in one table: bits per character, tasks, answers."""
    if len(models) == 1 and _is_recipe(models[0]):
        _stage("evaluate", Path(models[0]), overrides, json_out, allow)

    def call(findings: Findings) -> Answer:
        from lingraft.evaluate.run import evaluate as measure

        return measure(models, text=text, english=english, tasks=[t for t in tasks.split(",") if t], prompts=prompts,
                       limit=limit, base=base, adapters=adapters, findings=findings)  # fmt: skip

    answer(call, json_out, allow)


@app.command()
def chat(
    model: str,
    base: Base = None,
    adapters: Adapters = [],
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
) -> None:
    """Talk with a model in the terminal."""

    def call(_: Findings) -> Answer:
        from lingraft.serve.chat import chat as talk

        sys.stdout = sys.__stdout__
        talk(model, base, adapters, system)
        return {}

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    answer(call, False, [])


if __name__ == "__main__":
    main()
