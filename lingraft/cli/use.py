"""Verbs that use a model: chat, serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lingraft.cli.answer import Adapters, Allow, Answer, Base, Json, answer, one_of
from lingraft.problems import Findings
from lingraft.sizes import parse_size

if TYPE_CHECKING:
    from lingraft.serve.app import Limits
    from lingraft.serve.engine import EngineName

app = typer.Typer()
ENGINES = ("auto", "llamacpp", "transformers", "vllm")
EngineOption = Annotated[str, typer.Option("--engine", help="auto, llamacpp, transformers or vllm.")]
Bits = Annotated[int | None, typer.Option("--bits", help="Bits a weight: 4, 8, 16 or 32; llama.cpp takes 8 by itself.")]
Context = Annotated[int | None, typer.Option("--context", min=16, help="Tokens of a prompt and its answer.")]
Rope = Annotated[str, typer.Option("--rope", help="Beyond the model's own context: yarn, ntk or linear.")]
Draft = Annotated[str | None, typer.Option("--draft", help="A small model of the same tokenizer, to guess ahead.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads of llama.cpp.")]


@app.command()
def serve(
    model: str,
    adapters: Annotated[list[str], typer.Option("--adapter", metavar="NAME=PATH", help="A further name.")] = [],
    base: Base = None,
    name: Annotated[str | None, typer.Option("--name", help="What clients call MODEL; its last part.")] = None,
    host: Annotated[str, typer.Option("--host", help="Other than loopback needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[list[str], typer.Option("--api-key", envvar="LINGRAFT_API_KEY", help="Repeatable.")] = [],
    engine: EngineOption = "auto",
    bits: Bits = None,
    context: Context = None,
    rope: Rope = "yarn",
    draft: Draft = None,
    threads: Threads = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Answers at once.")] = 4,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait; more get 429.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")] = 600.0,
    max_body: Annotated[str, typer.Option("--max-body", help="The largest request, such as 4MB.")] = "4MiB",
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts and answers to the log.")] = False,
    json_out: Json = False,
    allow: Allow = [],
) -> None:
    """Serve a model and adapters of it, as OpenAI's API does."""
    named = _named(adapters)
    _check(engine, bits, rope)
    size = _size(max_body)

    def call(findings: Findings) -> Answer:
        from lingraft.serve.choose import options_for
        from lingraft.serve.run import LOCAL, is_loopback
        from lingraft.serve.run import serve as run

        options = options_for(
            model,
            base,
            named,
            name,
            bits=bits,
            context=context,
            rope=rope,
            concurrency=concurrency,
            draft=_draft(draft),
            threads=threads,
        )
        hosts = LOCAL if is_loopback(host) and not keys else ()
        limits = _limits(
            max_body=size,
            concurrency=concurrency,
            queue=queue,
            timeout=timeout,
            keys=tuple(keys),
            log_prompts=log_prompts,
            hosts=hosts,
        )
        run(options, cast("EngineName", engine), host, port, limits, findings)
        return {}

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    answer(call, json_out, allow)


def _limits(**told: Any) -> Limits:
    from lingraft.serve.app import Limits

    return Limits(**told)


def _draft(name: str | None) -> Path | None:
    from lingraft.models import locate

    return None if name is None else locate(name)


def _named(adapters: list[str]) -> dict[str, str]:
    """Return the adapters by name; PATH alone is called by its last part."""
    named: dict[str, str] = {}
    for given in adapters:
        name, equals, path = given.partition("=")
        name, path = (name, path) if equals else (Path(given).name, given)
        if not name or not path or name in named:
            raise typer.BadParameter(f"--adapter takes NAME=PATH, each name once; not {given!r}")
        named[name] = path
    return named


def _check(engine: str, bits: int | None, rope: str) -> None:
    one_of("--engine", engine, ENGINES)
    one_of("--rope", rope, ("yarn", "ntk", "linear"))
    if bits not in (None, 4, 8, 16, 32):
        raise typer.BadParameter(f"--bits takes 4, 8, 16 or 32; not {bits}")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise typer.BadParameter(f"--max-body takes a size such as 4MB; not {text!r}") from None


@app.command()
def chat(
    model: str,
    base: Base = None,
    adapters: Adapters = [],
    system: Annotated[str | None, typer.Option("--system", help="The system message.")] = None,
    engine: EngineOption = "auto",
    bits: Bits = None,
    context: Context = None,
    rope: Rope = "yarn",
    draft: Draft = None,
    threads: Threads = None,
    allow: Allow = [],
) -> None:
    """Talk with a model in the terminal."""
    _check(engine, bits, rope)

    def call(findings: Findings) -> Answer:
        from lingraft.serve.chat import chat as talk

        sys.stdout = sys.__stdout__
        talk(
            model,
            base,
            adapters,
            system,
            engine=cast("EngineName", engine),
            findings=findings,
            bits=bits,
            context=context,
            rope=rope,
            draft=_draft(draft),
            threads=threads,
        )
        return {}

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    answer(call, False, allow)
