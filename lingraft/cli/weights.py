"""Verbs on weights: inspect, merge, verify, compare, convert, adopt, extract, average."""

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
    one_of,
    run_stage,
)
from lingraft.problems import Findings

app = typer.Typer()
ONTO = ("original", "dequantised", "nf4", "nf4-double", "fp4", "fp4-double", "int8")


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
    onto: Annotated[
        str, typer.Option("--onto", help="A QLoRA's base: original, dequantised, nf4, int8 …")
    ] = "original",
    overwrite: Overwrite = False,
    overrides: Set = [],
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Merge adapters into a base, in the order given, streaming and checked."""
    if is_recipe(base):
        run_stage("merge", Path(base), overrides, json_out, allow)
    named = list(adapters or [])
    if any("," in a and not Path(a).exists() for a in named) or base.startswith("("):
        paths = " ".join(p.strip(" ()'\"") for p in ",".join([*named]).split(",") if p.strip(" ()'\""))
        raise typer.BadParameter(f"adapters are separate words: lingraft merge {base} {paths} --out {out or 'DIR'}")
    if not named or out is None:
        raise typer.BadParameter("lingraft merge BASE ADAPTER [ADAPTER…] --out DIR")
    if tie and untie:
        raise typer.BadParameter("--tie and --untie exclude each other")
    one_of("--dtype", dtype, ("keep", "float32", "float16", "bfloat16"))
    one_of("--onto", onto, ONTO)

    def call(findings: Findings) -> Answer:
        from lingraft.merge.run import merge as merge_to
        from lingraft.models import locate

        return merge_to(
            locate(base),
            [locate(a) for a in named],
            out,
            dtype=dtype,
            shard_size=shard_size,
            to=to,
            tied="tie" if tie else "untie" if untie else "auto",
            onto=onto,  # type: ignore[arg-type]
            overwrite=overwrite,
            findings=findings,
            command=command(),
        )

    def show(result: Answer) -> str:
        from lingraft.merge.describe import describe

        return describe(base, result)

    answer(call, json_out, allow, show)


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
    if is_recipe(path):
        run_stage("verify", Path(path), overrides, json_out, allow)
    from lingraft.verify.describe import describe
    from lingraft.verify.run import verify as verify_path

    answer(lambda findings: verify_path(path, base, adapters, findings), json_out, allow, describe)


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

    def show(result: Answer) -> str:
        from lingraft.verify.describe import describe_comparison

        return describe_comparison(a, b, result)

    answer(call, json_out, allow, show)


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
def adopt(
    src: str,
    out: Path,
    probe: Annotated[Path | None, typer.Option("--probe", help="Text to decide by.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="The tokenizer, where SRC has none.")] = None,
    settings: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="Say what cannot be told.")] = [],
    overwrite: Overwrite = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Turn weights without code or config into a complete Hugging Face directory."""
    wrong = [item for item in settings if "=" not in item]
    if wrong:
        raise typer.BadParameter(f"--set takes NAME=VALUE, not {wrong[0]!r}")

    def call(findings: Findings) -> Answer:
        from lingraft.adopt.run import adopt as take
        from lingraft.models import locate

        return take(
            locate(src),
            out,
            probe=probe,
            tokenizer=None if tokenizer is None else locate(tokenizer),
            settings=dict(item.split("=", 1) for item in settings),
            overwrite=overwrite,
            findings=findings,
        )

    answer(call, json_out, allow)


@app.command()
def extract(
    tuned: str,
    base: str,
    out: Annotated[Path, typer.Option("--out", help="The adapter's directory.")],
    rank: Annotated[int | None, typer.Option("--rank", help="The same rank for every tensor.", min=1)] = None,
    energy: Annotated[float | None, typer.Option("--energy", help="Share of it to keep.", min=0, max=1)] = None,
    overwrite: Overwrite = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Take a LoRA out of a full fine-tune: the difference of two models."""
    if (rank is None) == (energy is None):
        raise typer.BadParameter("give either --rank R or --energy E")

    def call(findings: Findings) -> Answer:
        from lingraft.merge.extract import extract as take
        from lingraft.models import locate

        return take(locate(tuned), locate(base), out, rank=rank, energy=energy, overwrite=overwrite, findings=findings)

    answer(call, json_out, allow)


@app.command()
def average(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    out: Annotated[Path, typer.Option("--out", help="The mean's directory.")],
    weights: Annotated[str, typer.Option("--weights", metavar="W,W,…", help="One a model.")] = "",
    method: Annotated[str, typer.Option("--method", help="linear, ties or dare.")] = "linear",
    base: Base = None,
    density: Annotated[float | None, typer.Option("--density", help="Share of a difference to keep.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="What DARE drops.")] = 42,
    overwrite: Overwrite = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Average models, or adapters, with weights; TIES and DARE average differences to a base."""
    one_of("--method", method, ("linear", "ties", "dare"))
    try:
        shares = [float(w) for w in weights.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"--weights takes numbers, not {weights!r}") from None

    def call(findings: Findings) -> Answer:
        from lingraft.merge.average import average as mean
        from lingraft.models import locate

        return mean(
            [locate(m) for m in models],
            out,
            weights=shares or None,
            method=method,  # type: ignore[arg-type]
            base=None if base is None else locate(base),
            density=density,
            seed=seed,
            overwrite=overwrite,
            findings=findings,
        )

    answer(call, json_out, allow)
