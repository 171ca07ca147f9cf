"""Whatever comes in passes here: who may enter, one line in the log, and every error in OpenAI's form."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lingraft.serve import forms
from lingraft.serve.body import BadBody, TooLarge, throw_away
from lingraft.serve.engine import BadRequest
from lingraft.serve.gate import Full
from lingraft.serve.job import TimedOut
from lingraft.serve.meters import Line, Meters

OPEN = "/health"  # the one path that needs no key
PATHS = ("/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class NotKnown(BadRequest):
    """A model that is not served: 404."""


class NoKey(Exception):
    """No API key, or a wrong one."""


class Stranger(Exception):
    """A Host header that names another machine: a web page that was pointed here."""


class Door:
    """The outermost ASGI application."""

    def __init__(self, inside: ASGIApp, keys: tuple[str, ...], hosts: tuple[str, ...], meters: Meters) -> None:
        self.inside, self.hosts, self.meters = inside, hosts, meters
        self.keys = tuple(key.encode() for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens inside."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        line = Line(uuid.uuid4().hex[:12], scope["path"][:200], (scope.get("client") or ("", 0))[0])
        request.state.line = line
        status: list[int] = []
        read: list[bool] = []

        async def receiving() -> MutableMapping[str, Any]:
            message = await receive()
            if not message.get("more_body", False):
                read.append(True)
            return message

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status.append(message["status"])
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", line.id.encode())]}
            await send(message)

        try:
            self._enter(request)
            scope["app"] = self  # then starlette raises what it does not find, rather than answering itself
            await self.inside(scope, receiving, sending)
        except ClientDisconnect:
            line.facts["error"] = "the client hung up"
        except Exception as error:
            line.facts["error"] = (str(error) or type(error).__name__)[:500]
            if not status:
                if not read:
                    await throw_away(receive)
                await response(error)(scope, receive, sending)
        self._note(line, status[0] if status else 499)

    def _enter(self, request: Request) -> None:
        if self.hosts and _host(request) not in self.hosts:
            raise Stranger
        if not self.keys or request.url.path == OPEN:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = key.strip().encode("utf-8", "surrogateescape")
        known = [hmac.compare_digest(given, own) for own in self.keys]
        if scheme.lower() != "bearer" or not any(known):
            raise NoKey

    def _note(self, line: Line, status: int) -> None:
        path = line.path if line.path in PATHS else "/v1/models" if line.path.startswith("/v1/models/") else "other"
        self.meters.requests.labels(path, str(status)).inc()
        self.meters.seconds.labels(path).observe(line.elapsed())
        if path not in (OPEN, "/metrics") or status >= 400:
            line.write(status)


def _host(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.rpartition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def response(error: BaseException) -> JSONResponse:
    """Return an error as a response."""
    status, body, headers = explain(error)
    return JSONResponse(body, status, headers)


def explain(error: BaseException) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return an error's status, body in OpenAI's form, and headers."""
    if isinstance(error, NoKey):
        return (
            401,
            forms.error("give a valid key: Authorization: Bearer KEY", "authentication_error", None, "invalid_api_key"),
            {"WWW-Authenticate": "Bearer"},
        )
    if isinstance(error, Stranger):
        return 403, forms.error("this server answers on loopback alone", "permission_error"), {}
    if isinstance(error, Full):
        return (
            429,
            forms.error(str(error), "rate_limit_error", None, "rate_limit_exceeded"),
            {"Retry-After": str(error.seconds)},
        )
    if isinstance(error, TooLarge):
        return (
            413,
            forms.error(
                "the request is larger than this server takes", "invalid_request_error", None, "request_too_large"
            ),
            {"Connection": "close"},
        )
    if isinstance(error, NotKnown | BadRequest):
        status = 404 if isinstance(error, NotKnown) else 400
        return status, forms.error(str(error), param=error.param, code=error.code), {}
    if isinstance(error, BadBody):
        return 400, forms.error(str(error)), {}
    if isinstance(error, HTTPException):
        return error.status_code, forms.error(f"{error.detail}: nothing is served here"), dict(error.headers or {})
    if isinstance(error, TimeoutError):
        return 408, forms.error("the request did not arrive in time", code="timeout"), {"Connection": "close"}
    if isinstance(error, TimedOut):
        return (
            504,
            forms.error("the answer took longer than this server allows", "timeout_error", None, "timeout"),
            {"x-should-retry": "false"},
        )
    return 500, forms.error("the server failed; its log says more", "server_error"), {}
