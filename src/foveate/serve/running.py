"""Runs the app as a server on a port, until a signal stops it."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from foveate.errors import InputError
from foveate.serve.door import Door, is_loopback, log_to_stderr

_HEAD = 32 << 10  # maximum bytes of a request's head
_HEAD_SECONDS = 10.0
_QUEUE = 128  # connections that wait in the system


class Impatient(H11Protocol):
    """Closes a connection whose request head has not arrived within ten seconds."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._cancel_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def demand_token(host: str, token: str | None) -> None:
    """Refuse an address that other computers can reach, if there is no good token.

    Raises:
        InputError: There is no token and the host is no loopback address, or the token is easy to guess.
    """
    if token is None and not is_loopback(host):
        raise InputError(f"--host {host} can be reached by others: give a --token that they have to know")
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable()):
        raise InputError("the token is shorter than 16 letters of ASCII: give a longer one")


def bound(host: str, port: int) -> socket.socket:
    """Return a socket bound to a host and port; port 0 takes a free one.

    Raises:
        InputError: The port is in use or not allowed, or the host is no address of this computer.
    """
    if not 0 <= port < 1 << 16:
        raise InputError(f"port is {port}: give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host} is no name or address of a computer") from error
    listener = socket.socket(family, kind, protocol)  # of which asyncio knows that nothing has to wait in it
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: f"port {port} is in use: give another with --port, or 0 for any that is free",
            errno.EACCES: f"port {port} may not be used: give one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"--host {host} is no address of this computer",
        }
        if error.errno not in reasons:
            raise
        raise InputError(reasons[error.errno]) from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a socket, for a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: Door, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until a signal stops the server; open requests are still answered.

    Args:
        app: App of `build_app`.
        listener: Socket to listen on; closed at the end.
        ready: Called when the server answers requests.
    """
    log_to_stderr()
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_QUEUE,
        h11_max_incomplete_event_size=_HEAD,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(app.limits.seconds) + 5,
    )
    server = _NotifyingServer(config, ready)
    server.run(sockets=[listener])


class _NotifyingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
