"""The verb `studio`: a local web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lingraft.cli.answer import Answer, Json, answer
from lingraft.problems import Findings

app = typer.Typer()


@app.command()
def studio(
    port: Annotated[
        int | None,
        typer.Option("--port", help="Where to listen; else the first free one from 7860 on.", min=0, max=65535),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; beyond this machine only with --password.")
    ] = "127.0.0.1",
    runs: Annotated[Path, typer.Option("--runs", help="The folder of runs, or one run.")] = Path("runs"),
    password: Annotated[
        str | None, typer.Option("--password", envvar="LINGRAFT_STUDIO_PASSWORD", help="Ask for this word.")
    ] = None,
    json_out: Json = False,
) -> None:
    """Open a local web page: runs with live curves, weights, vocabularies, models side by side."""

    def call(_: Findings) -> Answer:
        from lingraft.studio.run import studio as serve

        serve(runs.expanduser(), host, port, password)
        return {}

    answer(call, json_out, [])
