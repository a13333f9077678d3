"""What every request passes before anything reads it: whose page asks, how much it sends; and headers on every answer.

The server is for the browser of the machine that it runs on. A page from elsewhere that reaches it, by a name that
it lets resolve to 127.0.0.1 (DNS rebinding) or by a form (CSRF), is refused by `Host` and `Origin`.
"""

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 2**20
BODY_SECONDS = 10.0
"""So long a body may take to come."""
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class RefusedError(Exception):
    """The request goes no further."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Guard:
    """Wraps an ASGI app."""

    def __init__(self, app: App, hosts: Iterable[str], *, body_seconds: float = BODY_SECONDS) -> None:
        """`hosts`: what `Host` may be, port included."""
        self._app, self._hosts, self._seconds = app, frozenset(hosts), body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with a line of JSON."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, await self._whole(scope, receive), with_headers)
        except RefusedError as error:
            await answer(with_headers, error.status, str(error))
        except Exception:
            traceback.print_exc(file=sys.stderr)
            if not started:
                await answer(with_headers, 500, "a fault of planner itself; the terminal shows where")

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            raise RefusedError(403, f"this server answers to {', '.join(sorted(self._hosts))} alone")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RefusedError(405, "GET, HEAD and POST alone")
        sites = [value for name, value in headers if name == b"sec-fetch-site"]
        if scope["method"] != "POST":
            return
        origins = [value.decode("latin-1").lower() for name, value in headers if name == b"origin"]
        if origins != [f"http://{hosts[0]}"] or any(site != b"same-origin" for site in sites):
            raise RefusedError(403, "questions are taken from this server's own page alone")
        kinds = [value.split(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
        if kinds != [b"application/json"]:
            raise RefusedError(415, "a question is application/json")

    async def _whole(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole before anything looks at it, as what the app receives; then whether the client left."""
        if scope["method"] != "POST":
            return receive
        try:
            body = await asyncio.wait_for(_body(receive), self._seconds)
        except TimeoutError:
            raise RefusedError(408, f"the question did not come within {self._seconds:g} s") from None
        sent = False

        async def once() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return once


async def _body(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the question did not come whole")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise RefusedError(413, f"a question has {MAX_BODY:,} bytes at most")
        if not message.get("more_body", False):
            return body


async def answer(send: Send, status: int, text: str) -> None:
    """A whole answer of one line of JSON."""
    body = json.dumps({"error": text}).encode() + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
