"""`lingraft serve MODEL [--adapter NAME=PATH]…`: an OpenAI-compatible server on this machine.

Binds to loopback unless told otherwise, and then only with an API key. SIGTERM and Ctrl-C let running answers end.
"""

from __future__ import annotations

import ipaddress
import signal
import socket
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING

from lingraft.known import never_checked
from lingraft.language import told
from lingraft.problems import Findings, refuse
from lingraft.progress import say
from lingraft.serve.engine import Engine, EngineName, Options

if TYPE_CHECKING:
    from lingraft.serve.app import Limits

LOCAL = ("localhost", "127.0.0.1", "[::1]")


def serve(options: Options, engine: EngineName, host: str, port: int, limits: Limits, findings: Findings) -> None:
    """Load the model and answer until a signal comes. Errors: those of the engine, `unreadable` for a taken port."""
    for name in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            refuse("does-not-fit", f"the server needs {name}", "pip install 'lingraft[serve]'")
    if not is_loopback(host) and not limits.keys:
        refuse(
            "does-not-fit",
            f"--host {host} lets other machines in, and there is no API key",
            "add --api-key KEY (or set LINGRAFT_API_KEY), or leave --host out",
            host,
        )
    listening = listen(host, port)
    from lingraft.serve.choose import open_engine

    loaded = open_engine(options, engine, findings)
    tell_unchecked(options)
    try:
        answer(loaded, listening, limits)
    finally:
        loaded.close()


def answer(engine: Engine, listening: socket.socket, limits: Limits) -> None:
    """Serve an engine on a listening socket until SIGTERM or Ctrl-C; running answers are finished first."""
    import uvicorn

    from lingraft.serve.app import build

    config = uvicorn.Config(
        build(engine, limits),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.timeout) + 5,
    )
    host, port = listening.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    say(f"{engine.kind}: {', '.join(engine.names)}; context {engine.context:,} tokens")
    say(f"http://{where}:{port}/v1")
    # uvicorn raises the signal again when it has finished; here it has done its work by then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _done)
    uvicorn.Server(config).run(sockets=[listening])


def tell_unchecked(options: Options) -> None:
    """Say which of the models no record says to have been verified or evaluated."""
    main = options.main[-1] if options.main else options.base
    for path in dict.fromkeys([main, *(chain[-1] for chain in options.adapters.values() if chain)]):
        for warning in never_checked(path):
            say(f"{told('warning')} {warning.code}: {told(warning.message)} — {told(warning.remedy)}")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one. Error: `unreadable`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host.strip("[]"), port))
        found.listen(512)
    except (OSError, OverflowError) as error:
        found.close()
        refuse(
            "unreadable", f"port {port} of {host} cannot be opened: {error}", "choose another --port or --host", host
        )
    return found


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a host name."""
    if host in LOCAL:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _done(_: int, __: FrameType | None) -> None:
    """Do nothing: uvicorn has its own handler while it runs."""
