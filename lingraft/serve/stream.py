"""Write answers to a client: in one piece, or as server-sent events while they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from lingraft.serve import forms
from lingraft.serve.engine import Piece
from lingraft.serve.job import Answers, Event
from lingraft.serve.meters import Line

if TYPE_CHECKING:
    from lingraft.serve.app import Front

QUIET = 15.0  # seconds without a token after which a stream sends a comment, so that nobody thinks it dead
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Stream:
    """The answers of one request on their way to a client; an ASGI application, as starlette's responses are."""

    def __init__(
        self, front: Front, request: Request, answers: Answers, form: forms.Form, n: int, wants_usage: bool, line: Line
    ) -> None:
        self.front, self.request, self.answers, self.form, self.n = front, request, answers, form, n
        self.wants_usage, self.line = wants_usage, line
        self.choices = [forms.Choice() for _ in answers.tasks]
        self.offsets = [0 for _ in answers.tasks]
        self.begun = False

    async def whole(self) -> Response:
        """Wait for everything and return it as one JSON object."""

        async def gather() -> None:
            async for events in self.answers.events(QUIET):
                for index, piece in events:
                    self._take(index, piece)

        await self.front.hold(self.answers, gather, self.request)
        self._note()
        return JSONResponse(self.form.whole(self.choices, self.n))

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send events while they come. An error before the first of them is an error response; later, an event."""
        from lingraft.serve.door import explain

        async def follow() -> None:
            async for events in self.answers.events(QUIET):
                if not await self._begin(events, send):
                    continue
                data = b"".join(self._written(events)) or b": still at work\n\n"
                await send({"type": "http.response.body", "body": data, "more_body": True})

        try:
            await self.front.hold(self.answers, follow, self.request)
            end = forms.sse(self.form.used(self.choices, self.n)) if self.wants_usage else b""
            end += b"data: [DONE]\n\n"
        except Exception as error:
            if not self.begun:
                raise
            self.line.facts["error"] = str(error) or type(error).__name__
            end = forms.sse(explain(error)[1])
        self._note()
        await send({"type": "http.response.body", "body": end, "more_body": False})

    async def _begin(self, events: list[Event], send: Send) -> bool:
        """Send the headers before the first event; a failure that comes before it is raised instead."""
        if self.begun:
            return True
        failed = next((piece for _, piece in events if isinstance(piece, BaseException)), None)
        if failed is not None:
            raise failed
        self.begun = True
        seconds = self.line.elapsed()
        self.line.facts["first_token"] = round(seconds, 3)
        self.front.meters.first.observe(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        opening = [forms.sse(told) for i in range(len(self.choices)) if (told := self.form.first(i))]
        await send({"type": "http.response.body", "body": b"".join(opening), "more_body": True})
        return True

    def _written(self, events: list[Event]) -> list[bytes]:
        """Return the events of what came; raise what failed."""
        told: list[dict[str, Any]] = []
        for index, piece in events:
            self._take(index, piece)
            if isinstance(piece, Piece) and (piece.text or piece.logprobs):
                told.append(self.form.chunk(index, piece, self.offsets[index]))
                self.offsets[index] += sum(len(item["token"]) for item in piece.logprobs)
            elif piece is None:
                told.append(self.form.last(index, self.choices[index].finish))
        return [forms.sse(one) for one in told]

    def _take(self, index: int, piece: Piece | BaseException | None) -> None:
        if isinstance(piece, BaseException):
            raise piece
        if piece is not None:
            self.choices[index].add(piece)

    def _note(self) -> None:
        """Note what was used, in the log and the meters."""
        used = forms.usage(self.choices, self.n)
        self.line.facts |= {"prompt_tokens": used["prompt_tokens"], "completion_tokens": used["completion_tokens"]}
        if self.front.limits.log_prompts:
            self.line.facts["answers"] = ["".join(choice.text) for choice in self.choices]
        for kind, count in (("prompt", used["prompt_tokens"]), ("completion", used["completion_tokens"])):
            self.front.meters.tokens.labels(self.form.model, kind).inc(count)
