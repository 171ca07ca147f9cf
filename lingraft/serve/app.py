"""The HTTP front: OpenAI's endpoints in front of an engine.

door (log, API key, errors in OpenAI's form)  →  body  →  fields  →  gate (429)  →  answers  →  JSON or SSE
"""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from lingraft.serve import forms
from lingraft.serve.body import read_json
from lingraft.serve.door import Door, NotKnown
from lingraft.serve.engine import BadRequest, Engine, Prompt, Settings
from lingraft.serve.gate import Gate
from lingraft.serve.job import Answers, TimedOut, tasks_for
from lingraft.serve.meters import Line, Meters
from lingraft.serve.requests import ChatRequest, CompletionRequest, EmbeddingRequest, checked
from lingraft.serve.stream import Stream

MOST = 128  # answers of one request


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    max_body: int = 4 << 20
    concurrency: int = 4
    queue: int = 64
    timeout: float = 600.0
    keys: tuple[str, ...] = ()
    log_prompts: bool = False
    hosts: tuple[str, ...] = ()  # names in a Host header that are answered; empty: any


@dataclass
class Front:
    """An engine with its limits and meters."""

    engine: Engine
    limits: Limits
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.gate = Gate(self.limits.concurrency, self.limits.queue)
        self.meters = Meters(lambda: self.gate.running, lambda: self.gate.waiting)
        self.pool = ThreadPoolExecutor(self.limits.concurrency, thread_name_prefix="answer")

    async def health(self, _: Request) -> Response:
        """GET /health: the server is up and its model loaded."""
        return JSONResponse({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: for Prometheus."""
        return Response(self.meters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self, _: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse(forms.model_list(self.engine.names, self.created))

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = self.named(request.path_params["name"])
        parent = None if name == self.engine.names[0] else self.engine.names[0]
        return JSONResponse(forms.model_card(name, self.created, parent))

    async def chat(self, request: Request) -> Response | Stream:
        """POST /v1/chat/completions."""
        body = checked(ChatRequest, await read_json(request, self.limits.max_body))
        settings = body.settings()
        line: Line = request.state.line
        if self.limits.log_prompts:
            line.facts["messages"] = body.conversation
        form = forms.Form(True, self.named(body.model), settings.top_logprobs)
        return await self._answer(request, body, [body.conversation], settings, form)

    async def completions(self, request: Request) -> Response | Stream:
        """POST /v1/completions."""
        body = checked(CompletionRequest, await read_json(request, self.limits.max_body))
        settings = body.settings()
        if self.limits.log_prompts:
            request.state.line.facts["prompt"] = body.prompt
        form = forms.Form(False, self.named(body.model), settings.top_logprobs)
        return await self._answer(request, body, list(body.prompts), settings, form)

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        body = checked(EmbeddingRequest, await read_json(request, self.limits.max_body))
        name = self.named(body.model)
        request.state.line.facts["model"] = name
        async with self.gate.place():
            work = asyncio.get_running_loop().run_in_executor(self.pool, self.engine.embed, body.input, name)
            vectors, used = await work
        data = [
            {"object": "embedding", "index": i, "embedding": _coded(v, body.encoding_format)}
            for i, v in enumerate(vectors)
        ]
        return JSONResponse(
            {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": used, "total_tokens": used}}
        )

    def named(self, name: str | None) -> str:
        """Return a model's name as it is listed; the first where none is given. Error: NotKnown."""
        if name is None:
            return self.engine.names[0]
        if name not in self.engine.names:
            raise NotKnown(
                f"the model {name[:200]!r} does not exist; /v1/models lists what there is", "model", "model_not_found"
            )
        return name

    async def _answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        prompts: list[Prompt],
        settings: Settings,
        form: forms.Form,
    ) -> Response | Stream:
        n = body.n or 1
        if n * len(prompts) > MOST:
            raise BadRequest(f"{n * len(prompts)} answers are asked for at once; {MOST} may be", "n")
        tasks = tasks_for(prompts, replace(settings, model=form.model), n)
        line: Line = request.state.line
        line.facts |= {"model": form.model, "stream": body.stream}
        deadline = time.monotonic() + self.limits.timeout
        answers = Answers(self.engine, tasks, body.stream, deadline)
        wants_usage = bool(body.stream_options and body.stream_options.include_usage)
        stream = Stream(self, request, answers, form, n, wants_usage, line)
        return stream if body.stream else await stream.whole()

    async def hold(self, answers: Answers, work: Callable[[], Awaitable[None]], request: Request) -> None:
        """Do ``work`` with the answers under way; stop them where it fails. Error: ClientDisconnect."""
        watch = asyncio.create_task(_hung_up(request))
        running = asyncio.create_task(self._run(answers, work))
        try:
            await asyncio.wait({watch, running}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            running.cancel()
            await asyncio.wait({running})
            raise ClientDisconnect
        finally:
            watch.cancel()

    async def _run(self, answers: Answers, work: Callable[[], Awaitable[None]]) -> None:
        wanted = len(answers.tasks)
        try:
            async with asyncio.timeout(max(answers.deadline - time.monotonic(), 0)):
                await self.gate.enter(wanted)
        except TimeoutError:
            raise TimedOut from None
        started = time.monotonic()
        running = answers.start(self.pool, min(wanted, self.limits.concurrency))
        # The place is free when the engine's threads are, also where this task is called off while it waits for them.
        running.add_done_callback(lambda _: self.gate.leave(wanted, time.monotonic() - started))
        try:
            await work()
        finally:
            answers.stop()
            await asyncio.wait({running})


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _coded(vector: list[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def build(engine: Engine, limits: Limits) -> Any:
    """Return the ASGI application."""
    front = Front(engine, limits)
    routes = [
        Route("/health", front.health),
        Route("/metrics", front.metrics),
        Route("/v1/models", front.models),
        Route("/v1/models/{name:path}", front.model),
        Route("/v1/chat/completions", front.chat, methods=["POST"]),
        Route("/v1/completions", front.completions, methods=["POST"]),
        Route("/v1/embeddings", front.embeddings, methods=["POST"]),
    ]
    return Door(Router(routes, redirect_slashes=False), limits.keys, limits.hosts, front.meters)
