"""How fast `lingraft serve` is: against llama.cpp's own server on the same GGUF, and against `transformers serve`.

    python benchmarks/serve.py MODEL [--clients 1,4,16] [--tokens 64] [--rounds 5] [--threads N]
                               [--transformers 'PYTHON -m transformers.cli.transformers'] [--soak 2000] [--json OUT]

MODEL is a Hugging Face directory; its GGUF is made once (Q8_0, or --bits). The servers are processes of their own, all
up during the whole run; in each round every one is asked in turn by the same clients (one process, raw sockets), in an
order that changes with the round. A client asks for one streamed, greedy answer after another, to prompts that no one
asked before; transformers, which takes long, in the first round alone. Told are medians over the rounds: tokens a
second of all clients together, the time to the first token, and ratios within each round. `llama.cpp` is xllamacpp's
own HTTP server, with the parameters that lingraft's engine has.

--soak N sends N requests of good and bad clients (hanging up, broken JSON, huge bodies, wrong keys, strange model
names) and watches that every good one is answered and that memory stays flat.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingraft import models
from lingraft.output import write_json
from lingraft.problems import Findings
from lingraft.serve.gguf_cache import gguf_for

CONTEXT = 1024
BARE = """
import sys, time, pathlib, tempfile
from lingraft.serve.llama_load import Load, parameters
from lingraft.serve.engine import Options
from lingraft.serve.gguf_facts import read_facts
import xllamacpp
gguf, port, places, threads = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
options = Options(gguf, concurrency=places, threads=threads)
load = Load(gguf, [], options, int(sys.argv[5]), read_facts(gguf), None, False)
params = parameters(load, pathlib.Path(tempfile.mkdtemp()))
params.hostnames, params.port, params.api_keys, params.n_threads_http = ["127.0.0.1"], port, [], places + 2
server = xllamacpp.Server(params)
time.sleep(10**6)
"""


@dataclass
class Server:
    """A server under test."""

    name: str
    command: list[str]
    port: int
    model: str
    process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        """Start it and wait until it lists its models."""
        with log.open("wb") as sink:
            self.process = subprocess.Popen(self.command, stdout=sink, stderr=sink)
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                if asyncio.run(ask(self, "hello", 1)).tokens:
                    return
            time.sleep(0.3)
        raise SystemExit(f"{self.name} did not answer in 300 s")

    def stop(self) -> None:
        """End it, as a user would."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


@dataclass
class Heard:
    """What one client measured of one answer."""

    first: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    status: int = 0


@dataclass
class Figures:
    """What one server reached with so many clients, round by round."""

    speed: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)


async def ask(server: Server, prompt: str, most: int, key: str = "") -> Heard:
    """Ask for one streamed answer; tokens are counted by the events that carry text."""
    body = json.dumps(
        {
            "model": server.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "max_tokens": most,
            "temperature": 0,
        }
    ).encode()
    heard, started = Heard(), time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request(body, key))
    try:
        heard.status = int((await reader.readuntil(b"\r\n")).split()[1])
        while line := await reader.readline():
            if line.startswith(b"data: {") and b'"content":"' in line and b'"content":""' not in line:
                heard.tokens += 1
                heard.first = heard.first or time.perf_counter() - started
            elif line.startswith(b"data: [DONE]"):
                break
    finally:
        writer.close()
    heard.seconds = time.perf_counter() - started
    return heard


def request(body: bytes, key: str = "", path: str = "/v1/chat/completions") -> bytes:
    """Return the bytes of a POST."""
    auth = f"Authorization: Bearer {key}\r\n" if key else ""
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n{auth}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def crowd(server: Server, clients: int, each: int, most: int, salt: str) -> tuple[float, float]:
    """Let clients ask one answer after another; return tokens a second together and the median first token."""

    async def one(number: int) -> list[Heard]:
        return [await ask(server, f"{salt}{number}{i}: tell me a long story about the sea.", most) for i in range(each)]

    started = time.perf_counter()
    heard = [h for client in await asyncio.gather(*map(one, range(clients))) for h in client]
    seconds = time.perf_counter() - started
    if any(h.status != 200 or not h.tokens for h in heard):
        raise SystemExit(f"{server.name} failed with {clients} clients: {[h.status for h in heard]}")
    return sum(h.tokens for h in heard) / seconds, statistics.median(h.first for h in heard)


def measure(servers: Sequence[Server], counts: Sequence[int], tokens: int, rounds: int) -> dict[str, Any]:
    """Measure every server with every number of clients, in turns."""
    told: dict[str, Any] = {}
    for clients in counts:
        figures = {server.name: Figures() for server in servers}
        for turn in range(rounds):
            turns = [*servers[turn % len(servers) :], *servers[: turn % len(servers)]]
            for server in turns if turn == 0 else [s for s in turns if s.name != "transformers"]:
                speed, first = asyncio.run(crowd(server, clients, max(1, 4 // clients), tokens, f"{turn}-"))
                figures[server.name].speed.append(speed)
                figures[server.name].first.append(first)
        told[str(clients)] = _summed(figures)
        show(clients, told[str(clients)])
    return told


def _summed(figures: dict[str, Figures]) -> dict[str, Any]:
    ours = figures["lingraft"]
    return {
        name: {
            "tokens_per_second": statistics.median(f.speed),
            "first_token": statistics.median(f.first),
            "lingraft_is": statistics.median(a / b for a, b in zip(ours.speed, f.speed, strict=False)),
            "speeds": [round(s, 1) for s in f.speed],
        }
        for name, f in figures.items()
    }


def show(clients: int, told: dict[str, Any]) -> None:
    """Print one block of the table."""
    for name, f in told.items():
        print(
            f"{clients:>3} clients  {name:<13} {f['tokens_per_second']:8.1f} tokens/s   first token "
            f"{f['first_token'] * 1000:7.1f} ms   lingraft/{name} {f['lingraft_is']:.3f}",
            flush=True,
        )


async def soak(server: Server, count: int, key: str) -> dict[str, Any]:
    """Send good and bad requests, sixteen at a time; return what came of them and how memory went."""
    good, bad, memory, turn = [], 0, [], iter(range(count))

    async def client() -> None:
        nonlocal bad
        for number in turn:
            if number % max(count // 20, 1) == 0:
                memory.append(resident(server))
            if number % 2:
                await misbehave(server, number, key)
                bad += 1
            else:
                good.append(await ask(server, f"{number}: say something", 8, key))

    await asyncio.gather(*(client() for _ in range(16)))
    memory.append(resident(server))
    warm = memory[len(memory) // 4]
    answered = sum(h.status == 200 and h.tokens > 0 for h in good)
    return {
        "good": len(good),
        "answered": answered,
        "bad": bad,
        "alive": server.process is not None and server.process.poll() is None,
        "memory_warm": warm,
        "memory_end": memory[-1],
        "memory_peak": max(memory[len(memory) // 4 :]),
        "growth": memory[-1] / warm - 1,
    }


def resident(server: Server) -> int:
    """Return a server's own memory in bytes: what is resident and not of a file."""
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) * 1024 if found else 0


async def misbehave(server: Server, number: int, key: str) -> None:
    """Be one of several bad clients."""
    long = json.dumps({"messages": [{"role": "user", "content": "go on"}], "stream": True, "max_tokens": 400}).encode()
    strange = json.dumps({"model": "../../../../etc/passwd\u0000", "messages": [{"role": "user", "content": "x"}]})
    kinds = [
        (request(long, key), "hang up"),
        (request(b'{"messages": [', key), "400"),
        (request(long, "wrong"), "401"),
        (request(b"x" * 6_000_000, key), "413"),
        (request(strange.encode(), key), "404"),
        (request(long, key)[:-20], "hang up"),
        (b"\x16\x03\x01 nonsense\r\n\r\n", "400"),
        (request(b"{}", key, "/v1/models/..%2f..%2fetc"), "405"),
    ]
    data, expected = kinds[number // 2 % len(kinds)]
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        writer.write(data)
        if expected == "hang up":
            await asyncio.sleep(0.05)
        else:
            status = (await reader.readuntil(b"\r\n")).split()[1].decode()
            if status != expected:
                raise SystemExit(f"a bad client was answered {status} rather than {expected}: {data[:200]!r}")
    writer.close()


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def servers_for(args: argparse.Namespace, gguf: Path, places: int) -> list[Server]:
    """Return the contestants."""
    ports = [free_port() for _ in range(3)]
    ours = [
        sys.executable,
        "-m",
        "lingraft",
        "serve",
        str(gguf),
        "--port",
        str(ports[0]),
        "--concurrency",
        str(places),
        "--context",
        str(CONTEXT),
        "--threads",
        str(args.threads),
    ]
    bare = [sys.executable, "-c", BARE, str(gguf), str(ports[1]), str(places), str(args.threads), str(CONTEXT)]
    found = [Server("lingraft", ours, ports[0], gguf.stem), Server("llama.cpp", bare, ports[1], gguf.stem)]
    if args.transformers:
        command = [*shlex.split(args.transformers), "serve", str(args.model), "--port", str(ports[2])]
        found.append(Server("transformers", command, ports[2], str(args.model)))
    return found


def main() -> None:
    """Run what was asked and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--transformers", default="", help="the command, where it is installed")
    parser.add_argument("--soak", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.model = models.locate(args.model)
    gguf = gguf_for(models.Stack(args.model), args.bits, Findings())
    told: dict[str, Any] = {"gguf": gguf.name, "threads": args.threads, "tokens": args.tokens, "rounds": args.rounds}
    counts = [int(n) for n in args.clients.split(",") if n]
    servers = servers_for(args, gguf, max([*counts, 4]))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # then the servers are stopped, too
    try:
        if args.rounds:
            for server in servers:
                server.start(Path(f"/tmp/serve-{server.name}.log"))
            told["clients"] = measure(servers, counts, args.tokens, args.rounds)
            for server in servers:
                server.stop()
        if args.soak:
            told["soak"] = soaked(args, gguf)
    finally:
        for server in servers:
            server.stop()
    if args.json:
        write_json(args.json, told)


def soaked(args: argparse.Namespace, gguf: Path) -> dict[str, Any]:
    """Soak a server of its own, behind a key."""
    server = servers_for(argparse.Namespace(**{**vars(args), "transformers": ""}), gguf, 4)[0]
    server.command += ["--api-key", "secret", "--queue", "100"]
    with Path("/tmp/serve-soak.log").open("wb") as sink:
        server.process = subprocess.Popen(server.command, stdout=sink, stderr=sink)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 1):
                break
            time.sleep(0.3)
        told = asyncio.run(soak(server, args.soak, "secret"))
    finally:
        server.stop()
    print(json.dumps(told))
    return told


if __name__ == "__main__":
    main()
