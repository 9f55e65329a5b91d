"""Limits of requests, and the error for a request that is refused."""

from dataclasses import dataclass

from foveate.configs import check_types
from foveate.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body: Maximum bytes of a request's body.
        pixels: Maximum pixels of a picture; read from its header, before it is decoded.
        pictures: Maximum pictures in a request.
        names: Maximum class names in a request, and maximum names added for all clients.
        requests: Maximum open requests, at work or waiting.
        seconds: Time limit to receive a request; and a second one, of the same length, to answer it.
    """

    body: int = 32 << 20
    pixels: int = 64_000_000
    pictures: int = 64
    names: int = 1000
    requests: int = 64
    seconds: float = 30.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("body", "pixels", "pictures", "names", "requests", "seconds"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}: give a number above 0")


class Refused(Exception):
    """Error for a request that is refused.

    Attributes:
        status: HTTP status, 400 or above.
        reason: Reason in one line.
        headers: Additional headers of the response.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


BUSY = "the server is busy: ask again later"
