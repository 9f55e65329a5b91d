"""From an app to a server on a port, until it is told to stop."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from foveate.errors import InputError
from foveate.serve.door import Door, is_loopback
from foveate.serve.watching import log_to_stderr

_HEAD = 32 << 10  # bytes of a request's head
_HEAD_SECONDS = 10.0
_QUEUE = 128  # connections that the system lets wait


class Impatient(H11Protocol):
    """Hangs up where a request's head does not come in within ten seconds."""

    _hang_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._hang_up is None:
            self._hang_up = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _forget(self) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
            self._hang_up = None


def demand_token(host: str, token: str | None) -> None:
    """Refuse to be reached by others without a token.

    Raises:
        InputError: The host is no loopback address and there is no token, or one that is soon guessed.
    """
    if token is None and not is_loopback(host):
        raise InputError(f"--host {host} can be reached by others: give a --token that they have to know")
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable()):
        raise InputError("the token is shorter than 16 letters of ASCII: give a longer one")


def bound(host: str, port: int) -> socket.socket:
    """Return a socket on a host and port; port 0 takes one that is free.

    Raises:
        InputError: The port is in use or not allowed, or the host is none of this computer.
    """
    if not 0 <= port < 1 << 16:
        raise InputError(f"port is {port}: give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host} is no name or address of a computer") from error
    own = socket.socket(family, kind, protocol)  # of which asyncio knows that nothing has to wait in it
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(address)
    except OSError as error:
        own.close()
        why = {
            errno.EADDRINUSE: f"port {port} is in use: give another with --port, or 0 for any that is free",
            errno.EACCES: f"port {port} may not be used: give one above 1023 with --port",
            errno.EADDRNOTAVAIL: f"--host {host} is no address of this computer",
        }
        if error.errno not in why:
            raise
        raise InputError(why[error.errno]) from error
    return own


def url_of(own: socket.socket) -> str:
    """Return the address to open in a browser."""
    host, port = own.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: Door, own: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until a signal says stop; what was asked before is answered still.

    Args:
        app: From `build_app`.
        own: Where; closed in the end.
        ready: Called when requests are answered.
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
    server = _Told(config, ready)
    server.run(sockets=[own])


class _Told(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
