"""What a request may be, and what it is told where it is more."""

from dataclasses import dataclass

from foveate.configs import check_types
from foveate.errors import InputError


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Attributes:
        body: Bytes of a request.
        pixels: Of a picture, read in its header before any is decoded.
        pictures: Of a request.
        names: Of a request, and that may be added for all.
        requests: At work or waiting at once.
        seconds: Until a request has come in whole, and again until it is answered.
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
    """A request that is not answered.

    Attributes:
        status: Of HTTP, 400 or above.
        reason: In one line.
        headers: Of the response, besides.
    """

    def __init__(self, status: int, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


BUSY = "the server is busy: ask again later"
