"""Verbs that carry a model out: export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lingraft.cli.answer import (
    Adapters,
    Allow,
    Answer,
    Base,
    Json,
    Overwrite,
    Set,
    answer,
    command,
    is_recipe,
    run_stage,
)
from lingraft.problems import Findings

app = typer.Typer()


@app.command()
def export(
    model: str,
    to: Annotated[str, typer.Option("--to", help="gguf, gguf-adapter, hf, bnb, awq or gptq.")] = "gguf",
    type_: Annotated[str | None, typer.Option("--type", help="Of a GGUF: F32, F16, Q8_0, Q4_K_M, …; bnb: nf4.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file (or folder) to write.")] = None,
    base: Base = None,
    adapters: Adapters = [],
    data: Annotated[list[str], typer.Option("--data", help="Text to calibrate on (awq, gptq); repeatable.")] = [],
    untie: Annotated[bool, typer.Option("--untie", help="Write the head as it ran, untied.")] = False,
    tie: Annotated[bool, typer.Option("--tie", help="Keep embedding and head one tensor.")] = False,
    overwrite: Overwrite = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Write a model, or base + adapters, for another runtime: one GGUF file for llama.cpp, and others."""
    if is_recipe(model):
        run_stage("export", Path(model), overrides, json_out, allow)
    if out is None:
        raise typer.BadParameter(f"lingraft export {model} --to {to} --out FILE")
    if tie and untie:
        raise typer.BadParameter("--tie and --untie exclude each other")

    def call(findings: Findings) -> Answer:
        from lingraft.export.run import export as write

        return write(
            model,
            out,
            to=to,
            type=type_,
            base=base,
            adapters=adapters,
            data=data,
            tied="tie" if tie else "untie" if untie else "auto",
            overwrite=overwrite,
            findings=findings,
            command=command(),
        )

    answer(call, json_out, allow)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the card, list the files, send nothing.")] = False,
    base: Annotated[str | None, typer.Option("--base", help="The base's Hub id, for the card.")] = None,
    licence: Annotated[str | None, typer.Option("--license", help="Of the result; else the base's.")] = None,
    languages: Annotated[list[str], typer.Option("--language", help="zh, en, …; repeatable.")] = [],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write the card anew.")] = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Upload a model, an adapter or GGUF files to the Hub, with a card written from the receipts."""
    if repo.count("/") > 1 or not repo.strip("/") or repo.startswith(("/", ".")):
        raise typer.BadParameter(f"{repo!r} is no repository: write OWNER/NAME")

    def call(findings: Findings) -> Answer:
        from lingraft.export.push import push as send

        return send(
            folder,
            repo,
            private=private,
            dry_run=dry_run,
            base=base,
            licence=licence,
            languages=languages,
            overwrite=overwrite,
            findings=findings,
        )

    answer(call, json_out, allow)
