"""A server in a thread of the test, and engines whose pace a test decides."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lingraft.serve.app import Limits, build
from lingraft.serve.engine import Engine
from lingraft.serve.run import listen


@dataclass
class Running:
    """Where a server listens."""

    port: int
    engine: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none", **more: Any) -> Any:
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **more)

    def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send raw bytes and return status, headers and body of the answer."""
        import socket

        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR) if b"Connection: close" not in data else None
            raw = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), headers, body

    def post(self, path: str, body: bytes, key: str = "", headers: str = "") -> tuple[int, dict[str, str], bytes]:
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        return self.send(
            (
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{auth}{headers}"
                f"Content-Length: {len(body)}\r\n\r\n"
            ).encode()
            + body
        )

    def get(self, path: str, key: str = "", host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{auth}\r\n".encode())


@contextmanager
def serving(engine: Engine, limits: Limits | None = None) -> Iterator[Running]:
    """Serve an engine until the block ends."""
    import uvicorn

    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(build(engine, limits or Limits()), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Running(listening.getsockname()[1], engine)
    finally:
        server.should_exit = True
        thread.join(30)


@dataclass
class Held:
    """A real engine that waits before it answers, until it is let go."""

    inside: Any
    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def run(self, prompt: Any, settings: Any, emit: Any) -> None:
        self.begun.release()
        try:
            assert self.go.wait(60)
            self.inside.run(prompt, settings, emit)
        finally:
            self.ended.release()
