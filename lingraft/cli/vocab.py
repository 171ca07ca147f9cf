"""The verb `vocab`: grow a vocabulary, say beforehand what would pay, or measure tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from lingraft.cli.answer import Allow, Answer, Json, Overwrite, Set, answer, command, is_recipe, run_stage
from lingraft.problems import Findings

app = typer.Typer()


@app.command()
def vocab(
    base: str,
    more: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="FILE")] = None,
    corpus: Annotated[list[str], typer.Option("--corpus", help="Text to learn pieces from; repeatable.")] = [],
    size: Annotated[str, typer.Option("--size", help="New pieces: a number, or auto.")] = "auto",
    unite: Annotated[str | None, typer.Option("--unite", help="A ready-made tokenizer to take pieces from.")] = None,
    all_pieces: Annotated[bool, typer.Option("--all-pieces", help="Take pieces that change other text too.")] = False,
    init: Annotated[str, typer.Option("--init", help="How the new rows begin.")] = "pieces",
    out: Annotated[Path | None, typer.Option("--out", help="The larger model's directory.")] = None,
    measure: Annotated[list[Path], typer.Option("--measure", help="Text to measure tokenizers on; repeatable.")] = [],
    against: Annotated[list[str], typer.Option("--against", help="Another tokenizer by path; repeatable.")] = [],
    picture: Annotated[Path | None, typer.Option("--picture", help="Draw what was measured: .png or .svg.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would pay; train and write nothing.")] = False,
    budget: Annotated[int | None, typer.Option("--budget", help="Tokens that training will see.", min=1)] = None,
    overwrite: Overwrite = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Grow a model's vocabulary from a corpus or by a ready-made tokenizer; or measure tokenizers on a text."""
    corpus, measure = _with_more(more or [], corpus, measure)
    if is_recipe(base) and dry_run:
        raise typer.BadParameter("--dry-run takes a model and --corpus FILE; a recipe is tried by lingraft check")
    if is_recipe(base):
        run_stage("vocab", Path(base), overrides, json_out, allow)
    if size != "auto" and not size.isdigit():
        raise typer.BadParameter(f"--size takes a number of new pieces or auto, not {size!r}")
    if dry_run:
        _forecast(base, corpus, budget, size, json_out, allow)
    growing = out is not None or bool(corpus) or unite is not None
    if growing and (out is None or bool(corpus) == (unite is not None)):
        raise typer.BadParameter("give --out DIR and either --corpus FILE (repeatable) or --unite TOKENIZER")
    if not growing and not measure:
        raise typer.BadParameter("give --corpus or --unite, and --out DIR, to grow; or --measure FILE to measure")
    if (against or picture) and not measure:
        raise typer.BadParameter("--against and --picture need --measure FILE, the text to measure on")

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.vocab.against import measure_all
        from lingraft.vocab.run import extend

        home, result = locate(base), {}
        if out is not None:
            result = extend(
                home,
                out,
                corpus=[Path(c) for c in corpus],
                unite=None if unite is None else Path(unite),
                size="auto" if size == "auto" else int(size),
                init=init,
                all_pieces=all_pieces,
                budget_tokens=budget,
                overwrite=overwrite,
                findings=findings,
                command=command(),
            )
        if measure:
            named = [
                (base, home),
                *([(str(out), out)] if out is not None else []),
                *((name, locate(name)) for name in against),
            ]
            found = measure_all(named, measure, picture, findings, overwrite)
            result = {**result, "measured": found} if out is not None else found
        return result

    def show(result: Answer) -> str:
        from lingraft.vocab.against import as_table
        from lingraft.vocab.run import as_text

        measured = result.get("measured", result if "tokenizers" in result else None)
        grown = [as_text(result)] if "new_pieces" in result else []
        return "\n".join([*grown, *([as_table(measured)] if measured else [])])

    answer(call, json_out, allow, show)


def _with_more(more: list[str], corpus: list[str], measure: list[Path]) -> tuple[list[str], list[Path]]:
    """Give further names to the option they stand behind: a shell turns --corpus *.txt into --corpus a b c."""
    if more and bool(corpus) == bool(measure):
        raise typer.BadParameter(f"one name too many, {more[0]!r}: repeat --corpus or --measure before each file")
    return (corpus + more, measure) if corpus else (corpus, measure + [Path(name) for name in more])


def _forecast(
    base: str, corpus: list[str], budget: int | None, size: str, json_out: bool, allow: list[str]
) -> NoReturn:
    """Say what would pay, and exit."""
    if not corpus:
        raise typer.BadParameter("--dry-run looks at a corpus: give --corpus FILE")

    def call(findings: Findings) -> Answer:
        from lingraft.models import locate
        from lingraft.vocab.forecast import forecast

        wanted = None if size == "auto" else int(size)
        return forecast(locate(base), [Path(c) for c in corpus], budget, wanted, findings)

    def show(result: Answer) -> str:
        from lingraft.vocab.forecast import as_text

        return as_text(result)

    answer(call, json_out, allow, show)
