"""ASGI middleware that each request passes first: it counts, limits, and accepts or refuses requests.

The metrics and the log of the server are here too.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.datastructures import Headers

from foveate.serve.limits import BUSY, Limits, Refused

# Metrics of a server, and its log: one line of JSON per request, without any of its content.


LOG = logging.getLogger("foveate.serve")
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_PICTURES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Prometheus metrics of one server.

    Args:
        waiting: Returns the number of questions that wait for the model.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory and CPU time of the process
        labels = ["path", "status"]
        self.requests = Counter("foveate_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "foveate_request_seconds",
            "Time from a request's head to the end of its answer.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.bytes = Counter("foveate_received_bytes", "Bytes of requests' bodies.", registry=registry)
        self.pictures = Histogram(
            "foveate_pictures_together",
            "Pictures the model was asked about together.",
            registry=registry,
            buckets=_PICTURES,
        )
        self.open = Gauge("foveate_requests_open", "Requests at work or waiting.", registry=registry)
        gauge = Gauge("foveate_questions_waiting", "Questions that wait for the model.", registry=registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _AsJson(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower()}
        line |= getattr(record, "fields", {}) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Write the server's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_AsJson())
    for name, level in ((LOG.name, logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def log_request(**fields: object) -> None:
    """Log one request; fields must hold nothing that a client has sent, except its size."""
    LOG.info("request", extra={"fields": fields})


def since(start: float) -> float:
    """Return the seconds since a `time.perf_counter()` value, rounded to milliseconds."""
    return round(time.perf_counter() - start, 3)


# The middleware.


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN = "foveate_token"
"""Name of the cookie with the token; the query's name is without "foveate_"."""

OPEN = ("/health",)
"""Paths that are answered without a token, and also when the server is busy."""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is a loopback, which no other computer can reach."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Door:
    """Checks requests before an app answers them.

    Without a token, the Host header of a request must be a loopback; this stops a web page that gives the
    server's address a name of its own (DNS rebinding). A request from a page of another origin is always
    refused.

    Args:
        app: The app. It also answers refused requests: it gets the `Refused` as `scope["refused"]`.
        limits: Limits of a request's size and time, and of the number of open requests.
        metrics: Counts the requests.
        paths: Paths of the app; requests for other paths are counted together.
        token: Token that requests must carry; None if none is required.
    """

    def __init__(
        self, app: App, limits: Limits, metrics: Metrics, paths: Collection[str], token: str | None = None
    ) -> None:
        self.app, self.limits, self.metrics, self.paths, self.token = app, limits, metrics, paths, token
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, response = time.perf_counter(), dict[str, int]()
        body = _Body(receive, self.limits)

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                response["status"] = message["status"]
            await send(message)

        scope["refused"] = self._refusal(Headers(scope=scope), scope)
        self._open += 1
        self.metrics.open.set(self._open)
        try:
            await self.app(scope, body.receive, watched)
        finally:
            self._open -= 1
            self.metrics.open.set(self._open)
            path = scope["path"] if scope["path"] in self.paths else "other"
            status, seconds = response.get("status", 500), since(start)
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.observe(seconds)
            self.metrics.bytes.inc(body.read)
            log_request(
                method=scope["method"] if scope["method"].isalpha() else "other",
                path=path,
                status=status,
                seconds=seconds,
                bytes=body.read,
            )

    def _refusal(self, headers: Headers, scope: Scope) -> Refused | None:
        """Return why a request is refused; None if it is accepted."""
        host = headers.get("host", "")
        hostname = urlsplit(f"//{host}").hostname if _is_host(host) else None
        if not hostname or (self.token is None and not is_loopback(hostname)):
            return Refused(403, "the request names another host than this one")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return Refused(403, "the request comes from a page of another origin")
        if scope["path"] in OPEN:
            return None
        if self.token is not None and not self._has_token(headers, scope):
            return Refused(401, "the token is missing or wrong", WWW_Authenticate="Bearer")
        if self._open >= self.limits.requests:
            return Refused(503, BUSY, Retry_After="1", Connection="close")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self.limits.body:
            return _too_large(self.limits)
        return None

    def _has_token(self, headers: Headers, scope: Scope) -> bool:
        assert self.token is not None
        query = dict(pair.partition("=")[::2] for pair in scope["query_string"].decode("latin-1").split("&"))
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(TOKEN)
        except CookieError:
            cookie = None
        candidates = (
            headers.get("authorization", "").removeprefix("Bearer "),
            query.get(TOKEN.removeprefix("foveate_"), ""),
            cookie.value if cookie else "",
        )
        return any(hmac.compare_digest(candidate.encode(), self.token.encode()) for candidate in candidates)


class _Body:
    """A request's body while it is received; bytes are counted, and the time is limited."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits, self.read = receive, limits, 0
        self._deadline = asyncio.get_running_loop().time() + limits.seconds
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:  # the next message is the disconnect of the client; it has no time limit
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            seconds = f"{self._limits.seconds:g} seconds"
            raise Refused(408, f"the request has not come in within {seconds}", Connection="close") from error
        self.read += len(message.get("body", b""))
        if self.read > self._limits.body:
            raise _too_large(self._limits)
        self._whole = not message.get("more_body", False)
        return message


def _is_host(host: str) -> bool:
    return host.isascii() and not set(host) & set("/@?#\\ ")


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the request has more than {limits.body:,} bytes: send less", Connection="close")
