"""What every request passes: host names, limits of size, number and time, security headers, metrics and log."""

import time
from collections import Counter
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ascl_lightning.serving.limits import Limits
from ascl_lightning.serving.problems import problem
from ascl_lightning.serving.telemetry import Telemetry

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
LOCAL = ("localhost",)
_UNCOUNTED = ("/healthz", "/readyz", "/metrics", "/static/")
_CLIENT_LEFT = 499


class Guard:
    """Answers a request by an application, or refuses it.

    Args:
        app: The application.
        limits: Limits of the server.
        telemetry: Counts and logs requests.
        hosts: Host names that requests may be addressed to, beside addresses in numbers. A web site that gives its own
            name the address of this machine (DNS rebinding) could otherwise read the gallery with the user's browser.
    """

    def __init__(self, app: ASGIApp, limits: Limits, telemetry: Telemetry, hosts: Collection[str] = LOCAL) -> None:
        self._app, self._limits, self._telemetry = app, limits, telemetry
        self._hosts = frozenset(name.lower() for name in hosts)
        self._places = {"search": limits.concurrency, "picture": limits.pictures}
        self._taken: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        begun = time.perf_counter()
        self._telemetry.in_progress.inc()
        try:
            await self._answer(exchange)
        finally:
            self._telemetry.in_progress.dec()
            self._telemetry.record(dict(scope), exchange.status or _CLIENT_LEFT, time.perf_counter() - begun)

    async def _answer(self, exchange: "_Exchange") -> None:
        if exchange.host not in self._hosts and not _is_numeric(exchange.host):
            await exchange.refuse(400, "This name is not that of the server: start it with --allow_host NAME")
            return
        group = _group(exchange.scope["path"])
        if group is not None and self._taken[group] >= self._places[group]:
            await exchange.refuse(429, "Too many requests at a time: try again in a second")
            return
        self._taken[str(group)] += 1
        try:
            with anyio.move_on_after(self._limits.seconds) as exchange.time:
                if exchange.announced > self._limits.body_bytes:
                    await exchange.refuse_body()
                else:
                    await self._app(exchange.scope, exchange.receive, exchange.send)
            if exchange.status is None and exchange.time.cancelled_caught:
                await exchange.refuse(*_late(exchange.has_body))
        finally:
            self._taken[str(group)] -= 1


class _Exchange:
    """A request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope, self._receive, self._send, self._limits = scope, receive, send, limits
        self._headers = Headers(scope=scope)
        self._received = 0
        self.status: int | None = None
        """Status of the answer; None before it."""
        self.has_body = False
        """Whether the whole body has arrived."""
        self.time: Any = None

    @property
    def host(self) -> str:
        """Name of the host that the request is addressed to, without its port."""
        name, colon, port = self._headers.get("host", "").lower().rpartition(":")
        return (name if colon and port.isdigit() else name + colon + port).strip("[]")

    @property
    def announced(self) -> int:
        """Size of the body by its header; 0 without one."""
        length = self._headers.get("content-length", "0")
        return int(length) if length.isdigit() and len(length) < 20 else 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._received += len(message.get("body", b""))
        self.has_body = self.has_body or not message.get("more_body", False)
        if self._received > self._limits.body_bytes:
            raise HTTPException(413, self._too_large)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            if self.time is not None:
                self.time.deadline = anyio.current_time() + self._limits.sending_seconds
        await self._send(message)

    async def refuse(self, status: int, reason: str) -> None:
        answer = problem(self._headers, status, reason)
        await answer(self.scope, self.receive, self.send)

    async def refuse_body(self) -> None:
        # browsers show an answer only if they could send everything
        while self._received < 4 * self._limits.body_bytes:
            message = await self._receive()
            self._received += len(message.get("body", b""))
            if not message.get("more_body", False):
                break
        await self.refuse(413, self._too_large)

    @property
    def _too_large(self) -> str:
        return f"The request is larger than {self._limits.body_bytes / 1e6:g} MB: send a smaller picture"


def _is_numeric(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _group(path: str) -> str | None:
    if path.startswith(_UNCOUNTED):
        return None
    return "picture" if path.startswith("/v1/images/") else "search"


def _late(has_body: bool) -> tuple[int, str]:
    if has_body:
        return 503, "The server did not answer in time: try again, or ask for less"
    return 408, "The request did not arrive in time"
