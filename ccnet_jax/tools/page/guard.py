"""What stands before the page: only its own pages may ask it, and browsers are told to load nothing else."""

import json
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class Guard:
    """An ASGI application around another.

    A page of another site cannot read answers, since no header allows it. It could still point a name of its
    own at 127.0.0.1 (DNS rebinding), and would then count as this page, or make the network work by sending
    images. So requests must name one of `hosts`, and must not come from a page of elsewhere.

    Args:
      app: that answers what passes.
      hosts: names in the Host header that are answered; None for all.
    """

    def __init__(self, app: App, hosts: Iterable[str] | None):
        self._app, self._hosts = app, None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                added = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
                added = [header for header in added if header[0] not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif message := self._refusal(scope):
            await _refuse(with_headers, message)
        else:
            await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Message) -> str | None:
        """Why a request is not answered; None where it is."""
        headers = {name: text.decode("latin-1") for name, text in scope["headers"]}
        host = headers.get(b"host", "")
        if self._hosts is not None and _name_in(host) not in self._hosts:
            return f"this page answers at {' and '.join(sorted(self._hosts))} only; open it there"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "another site's page may not ask this one"
        return None


def _name_in(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none, or there is more than these two."""
    try:
        parts = urllib.parse.urlsplit(f"//{host}")
        is_plain = not (parts.path or parts.query or parts.fragment or "@" in host or host != host.strip())
        return parts.hostname if is_plain and (parts.port is None or parts.port > 0) else None
    except ValueError:
        return None


async def _refuse(send: Send, message: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": message}).encode()})
