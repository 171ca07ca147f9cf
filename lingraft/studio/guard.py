"""Who may talk with the studio: this machine's own browser, on this page; beyond loopback, who knows the password.

The page reads and writes the paths that its user types, so a page from elsewhere in the same browser must not drive it:
the Host header must name where the studio listens (else a foreign name could be rebound to 127.0.0.1), and a request
that comes from another origin is refused. A content security policy keeps the page itself from asking anybody outside,
whatever a model writes into its answers.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'self'",
        "base-uri 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True)
class Guard:
    """An ASGI application around another: it refuses strangers and adds the headers."""

    inner: App
    password: str | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        refused = self._refused(headers)
        if refused is not None:
            await _answer(send, *refused)
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        await self.inner(scope, receive, with_headers)

    def _refused(self, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if self.password is None and not is_loopback(_name(f"//{host}")):
            return 403, "this name is not the studio's: open it as http://127.0.0.1"
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host:
            return 403, "another page may not use the studio"
        if self.password is not None and not _knows(headers.get("authorization", ""), self.password):
            return 401, "the studio's password is asked for; any user name will do"
        return None


def _name(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _knows(authorization: str, password: str) -> bool:
    """Check HTTP Basic credentials in constant time; the user name is not looked at."""
    scheme, _, given = authorization.partition(" ")
    try:
        word = base64.b64decode(given, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(word, password.encode())


async def _answer(send: Send, status: int, text: str) -> None:
    asks = [(b"www-authenticate", b'Basic realm="lingraft studio", charset="UTF-8"')] if status == 401 else []
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-type", b"text/plain; charset=utf-8"), *asks, *HEADERS],
        }
    )
    await send({"type": "http.response.body", "body": text.encode()})
