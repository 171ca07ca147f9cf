"""Verbs on models: plan, evaluate, chat."""

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
    Set,
    answer,
    is_recipe,
    run_stage,
)
from lingraft.problems import Findings

app = typer.Typer()


@app.command()
def plan(
    model: str,
    hardware: Annotated[str | None, typer.Option("--hardware", help="cpu, or a card's name.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Such as 24GB.")] = None,
    length: Annotated[int | None, typer.Option("--length", help="Tokens a text; 512, or the recipe's.", min=1)] = None,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Say what full, LoRA and QLoRA training would take, part by part, which fit, and which to choose."""
    if hardware is not None or memory is not None:
        from lingraft.plan.hardware import check

        try:
            check(hardware, memory)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    def call(findings: Findings) -> Answer:
        from lingraft.plan.run import plan as weigh
        from lingraft.recipe_file import load

        recipe = load(Path(model), tuple(overrides)) if is_recipe(model) else None
        return weigh(model, recipe=recipe, hardware=hardware, memory=memory, length=length, findings=findings)

    def show(result: Answer) -> str:
        from lingraft.plan.show import table

        return table(result)

    answer(call, json_out, allow, show)


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    text: Annotated[Path | None, typer.Option("--text", help="Held-out text: .txt, .jsonl.")] = None,
    english: Annotated[Path | None, typer.Option("--english", help="English text, to see what was forgotten.")] = None,
    tasks: Annotated[str, typer.Option("--tasks", help="NAME[=PATH],… through lm-evaluation-harness.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", help="Questions per subject.", min=1)] = None,
    shots: Annotated[int, typer.Option("--shots", help="Worked examples before every question.", min=0)] = 0,
    prompts: Annotated[list[str], typer.Option("--prompt", help="A prompt for every model; repeatable.")] = [],
    samples: Annotated[bool, typer.Option("--samples/--no-samples", help="Draw answers too, not greedy.")] = True,
    train: Annotated[list[Path], typer.Option("--train", help="What was trained on; repeatable.")] = [],
    report: Annotated[Path | None, typer.Option("--report", help="Also write this HTML page.")] = None,
    base: Base = None,
    adapters: Adapters = [],
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Measure several models in one table: bits per character, tasks, answers."""
    if len(models) == 1 and is_recipe(models[0]):
        run_stage("evaluate", Path(models[0]), overrides, json_out, allow)

    def call(findings: Findings) -> Answer:
        from lingraft.evaluate.run import evaluate as measure
        from lingraft.evaluate.tasks import split
        from lingraft.output import check_file_place

        if report is not None:  # not after an hour of measuring
            check_file_place(report)
        result = measure(
            models,
            text=text,
            english=english,
            tasks=split(tasks),
            shots=shots,
            prompts=prompts,
            samples=samples,
            limit=limit,
            train=train,
            base=base,
            adapters=adapters,
            findings=findings,
        )
        if report is not None:
            from lingraft.evaluate.report import write_report

            write_report(report, {"name": report.stem, "evaluate": result})
            result["report"] = str(report)
        return result

    def show(result: Answer) -> str:
        from lingraft.evaluate.table import table

        return table(result)

    answer(call, json_out, allow, show)
