"""`lingraft studio [--port N] [--host 127.0.0.1] [--runs DIR] [--password WORD]`: serve the page until Ctrl-C.

Nothing leaves the machine: no analytics, no shared link, no fonts or scripts from elsewhere, no look at the Hub.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
from pathlib import Path
from typing import Any

from lingraft.problems import refuse
from lingraft.progress import say
from lingraft.studio.guard import Guard, is_loopback

QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
PORT = 7860
PORTS = 20  # tried one after the other where no port is asked for


def studio(root: Path, host: str = "127.0.0.1", port: int | None = None, password: str | None = None) -> None:
    """Serve until interrupted. Errors: `not-found` (no gradio), `recipe-invalid` (an open host without a password,
    a port that is taken).
    """
    if not is_loopback(host) and not password:
        refuse(
            "recipe-invalid",
            f"--host {host} opens this machine's files to others",
            "add --password WORD, or stay on 127.0.0.1 and tunnel: ssh -L 7860:127.0.0.1:7860 HOST",
        )
    if importlib.util.find_spec("gradio") is None:
        refuse("not-found", "the studio needs gradio", "pip install 'lingraft[studio]'")
    os.environ.update(QUIET)
    with listen(host, port) as listener:
        app = application(root, password)
        import uvicorn

        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"studio: {address} (Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        # uvicorn raises the signal again when it has finished; the way out is the ordinary one, which tidies up.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])


def application(root: Path, password: str | None = None) -> Guard:
    """Return the web application: gradio's page behind the guard."""
    os.environ.update(QUIET)
    import gradio as gr
    from fastapi import FastAPI

    from lingraft.studio.drop import SCRIPT, Drops
    from lingraft.studio.page import STYLE, build, theme

    drops = Drops()
    own = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    own.add_route("/drop/{batch}", drops.take, methods=["POST"])
    app: Any = gr.mount_gradio_app(
        own,
        build(root, drops),
        "/",
        footer_links=[],
        theme=theme(),
        css=STYLE.read_text(encoding="utf-8"),
        head=f"<script>{SCRIPT.read_text(encoding='utf-8')}</script>",
        show_error=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    return Guard(app, password)


def listen(host: str, port: int | None) -> socket.socket:
    """Return a bound socket; without ``port``, the first free one from 7860 on. Error: `recipe-invalid`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    first, last = (PORT, PORT + PORTS) if port is None else (port, port + 1)
    for number in range(first, last):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
        except OSError as error:
            found.close()
            if number + 1 == last:
                refuse(
                    "recipe-invalid",
                    f"the studio cannot listen on {host}:{first}: {error}",
                    "choose another --port or --host",
                )
        else:
            return found
    raise AssertionError("every way out is above")
