"""Verbs on recipes: quickstart, new, check, run, and one verb a training stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lingraft.cli.answer import Allow, Base, Json, Overwrite, Set, answer, command, run_recipe, run_stage

app = typer.Typer()


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

    answer(lambda findings: start(minutes, base, out, findings, command()), json_out, allow, run_summary)


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

    answer(lambda findings: run_recipe(file, overrides, findings, first, last), json_out, allow, run_summary)


@app.command()
def pretrain(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the pretrain stage of a recipe: continued pre-training on plain text."""
    run_stage("pretrain", file, overrides, json_out, allow)


@app.command()
def sft(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the sft stage of a recipe: instruction tuning."""
    run_stage("sft", file, overrides, json_out, allow)


@app.command()
def prefer(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the prefer stage of a recipe: training on preferences."""
    run_stage("prefer", file, overrides, json_out, allow)


@app.command()
def classify(file: Path, overrides: Set = [], json_out: Json = False, allow: Allow = []) -> None:
    """Run the classify stage of a recipe: sequence classification."""
    run_stage("classify", file, overrides, json_out, allow)
