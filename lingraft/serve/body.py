"""Read a request's body: not too large, not too slow, and JSON."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.types import Receive

PATIENCE = 60.0  # seconds for a body to arrive
POLITENESS = 64 << 20  # bytes of a refused body that are read and thrown away, so that the client hears the answer


class TooLarge(Exception):
    """The body has more bytes than the server takes."""


class BadBody(Exception):
    """The body is no JSON object."""


async def read_json(request: Request, most: int) -> dict[str, Any]:
    """Return the body's object. Errors: TooLarge, BadBody, TimeoutError, ClientDisconnect."""
    raw = await asyncio.wait_for(_read(request, most), PATIENCE)
    try:
        value = json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadBody("the body must be a JSON object")
    return value


async def _read(request: Request, most: int) -> bytes:
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        raise TooLarge
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


async def throw_away(receive: Receive) -> None:
    """Read the rest of a body that nobody wants, for a while: a client that is cut off never sees its answer."""

    async def drain() -> None:
        size = 0
        while size < POLITENESS:
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return

    try:
        await asyncio.wait_for(drain(), 5.0)
    except TimeoutError:
        return


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
