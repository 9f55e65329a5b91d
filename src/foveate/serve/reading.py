"""Requests, as people send them, to pictures and names; whatever is wrong is one line."""

import base64
import binascii
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PureWindowsPath

from anyio import CapacityLimiter, fail_after, to_thread
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from foveate.configs import as_dataclass
from foveate.data.naming import clean_name, name_key
from foveate.data.pictures import measure, open_picture
from foveate.errors import InputError, printable
from foveate.foreground.opening import BadPicture, FilePicture
from foveate.readers import as_table, parse_json
from foveate.serve.limits import BUSY, Limits, Refused
from foveate.serve.models import Model

FORM, JSON, RAW = "multipart/form-data", "application/json", "application/octet-stream"
_NAME = 100  # letters of a picture's name that are given back
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_FIELDS = 32  # of a form, besides its pictures
_FIELD = 64 << 10  # bytes
_VALUES = 10_000  # of JSON
_ASKED = ("classes", "only", "about", "risk", "abstain")


@dataclass(frozen=True)
class UploadRequest:
    """A question as it was sent.

    Attributes:
        files: Name and bytes of each picture.
        classes: Names besides the trained ones.
        only: Whether to choose from these alone.
        about: The name that a gaze is about; empty for the answer.
        risk: Of the sets of names that are wanted; None where none are.
        abstain: Whether "none of these" may be the answer.
    """

    files: tuple[tuple[str, bytes], ...]
    classes: tuple[str, ...] = ()
    only: bool = False
    about: str = ""
    risk: float | None = None
    abstain: bool = False


@dataclass(frozen=True)
class _JsonBody:
    """A question in JSON."""

    pictures: list[object]
    classes: list[str] = field(default_factory=list[str])
    only: bool = False
    about: str = ""
    risk: float | None = None
    abstain: bool = False


async def read_question(request: Request, limits: Limits) -> UploadRequest:
    """Read a question: a form, JSON with pictures in base64, or one picture as it is.

    Raises:
        Refused: It is of another kind, has no pictures, or too many of anything.
        InputError: Something in it is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == FORM:
        asked = await _from_form(request, limits)
    elif kind == JSON:
        asked = await to_thread.run_sync(_from_json, await request.body())
    elif kind == RAW or kind.startswith("image/"):
        asked = _from_picture(request, await request.body())
    else:
        raise Refused(
            415, f"the content type is {_short(kind) or 'missing'}: send {FORM}, {JSON}, or a picture"
        )
    if not asked.files:
        raise Refused(400, "there are no pictures: send at least one")
    if len(asked.files) > limits.pictures:
        raise Refused(413, f"there are {len(asked.files)} pictures: send {limits.pictures} at a time")
    return asked


async def read_table(request: Request) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        Refused: The content is of another kind.
        InputError: It is no JSON, or no object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Refused(415, f"the content type is {_short(kind) or 'missing'}: send {JSON}")
    found = as_table(await to_thread.run_sync(_json, await request.body()))
    if found is None:
        raise InputError("the body is no JSON object")
    return found


def checked_names(names: Sequence[object], limits: Limits) -> tuple[str, ...]:
    """Return class names in their one way of writing, each once.

    Raises:
        Refused: There are too many.
        InputError: One is no text, empty, too long, or has an unseen character.
    """
    if len(names) > limits.names:
        raise Refused(413, f"there are {len(names)} class names: give {limits.names} at most")
    found: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip("_ \t\n"):
            raise InputError(f"class name {_short(repr(name))} is no text: give a word")
        found.setdefault(name_key(name), clean_name(name))
    return tuple(found.values())


async def seen(
    asked: UploadRequest, model: Model, limits: Limits, decoders: CapacityLimiter
) -> list[Image.Image]:
    """Decode pictures, a few at a time, and keep of each what the model looks at.

    Args:
        asked: The question.
        model: Who will be asked.
        limits: Of pixels, and of time.
        decoders: How many are decoded at once.

    Raises:
        InputError: One cannot be read, or has too many pixels.
        Refused: It takes too long; of what others wait for there is too much.
    """
    look = partial(_seen, model=model, limits=limits)
    try:
        with fail_after(limits.seconds):
            return [
                await to_thread.run_sync(look, FilePicture(content, name), limiter=decoders)
                for name, content in asked.files
            ]
    except TimeoutError as error:
        raise Refused(503, BUSY, Retry_After="5") from error


def _seen(picture: FilePicture, model: Model, limits: Limits) -> Image.Image:
    (width, height), _ = measure(picture)
    if width * height > limits.pixels:
        most = f"{limits.pixels / 1e6:g} million pixels that are decoded"
        raise BadPicture(picture.name, f"is {width}x{height}, more than the {most}", "make it smaller")
    return model.view(open_picture(picture))


async def _from_form(request: Request, limits: Limits) -> UploadRequest:
    await request.body()  # so that nothing stops the parser half-way, with files that nobody closes
    try:
        form = await request.form(max_files=limits.pictures, max_fields=_FIELDS, max_part_size=_FIELD)
    except HTTPException as error:
        status = 413 if "Too many" in error.detail or "exceeded" in error.detail else 400
        raise Refused(status, f"the form cannot be read ({_short(error.detail)})") from error
    async with request.form():  # which is read; leaving closes its files
        files = [(_name(one.filename, i), await one.read()) for i, one in enumerate(_uploads(form))]
    texts = {name: [one for one in form.getlist(name) if isinstance(one, str)] for name in form}
    stray = [name for name in texts if texts[name] and name not in _ASKED]
    if stray:
        field = _short(stray[0])
        raise InputError(f"the field {field!r} is no file: there are {', '.join(_ASKED)}, and files")
    return _upload(tuple(files), lambda name: texts.get(name, []))


def _uploads(form: FormData) -> Iterator[UploadFile]:
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            yield value


def _from_json(body: bytes) -> UploadRequest:
    written = as_dataclass(_JsonBody, _json(body), "the body")
    files: list[tuple[str, bytes]] = []
    for place, one in enumerate(written.pictures):
        match one:
            case str(text):
                files.append((_name(None, place), _bytes(text, place)))
            case {"data": str(text), **rest} if rest.keys() <= {"name"} and isinstance(
                rest.get("name", ""), str
            ):
                files.append((_name(str(rest.get("name", "")), place), _bytes(text, place)))
            case _:
                raise InputError(
                    f"picture {place} is {_short(repr(one))}: give base64, or {{name, data}} with base64 data"
                )
    rest = written.about, written.risk, written.abstain
    return UploadRequest(tuple(files), tuple(written.classes), written.only, *rest)


def _from_picture(request: Request, body: bytes) -> UploadRequest:
    query = request.query_params
    files = ((_name(query.get("name"), 0), body),) if body else ()
    return _upload(files, query.getlist)


def _upload(files: tuple[tuple[str, bytes], ...], texts: Callable[[str], Sequence[str]]) -> UploadRequest:
    """Return a question whose options are words, by name, each perhaps several times."""
    return UploadRequest(
        files,
        tuple(_words(texts("classes"))),
        _truth("only", texts("only")),
        _last(texts("about")),
        _number("risk", texts("risk")),
        _truth("abstain", texts("abstain")),
    )


def _words(texts: Sequence[str]) -> list[str]:
    """Return names with commas between them, one with a comma of its own in quotes.

    Unlike those of the command line they are never taken for the name of a file.
    """
    rows = csv.reader([text.replace("\n", " ").replace("\r", " ") for text in texts], skipinitialspace=True)
    return [word.strip() for row in rows for word in row if word.strip()]


def _json(body: bytes) -> object:
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    if values > _VALUES:  # of which each takes many times its bytes in memory
        raise Refused(413, f"the body holds {values:,} values: send {_VALUES:,} at most")
    return parse_json(body, "the body")


def _bytes(text: str, place: int) -> bytes:
    try:
        return base64.b64decode(_DATA.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"picture {place} is no base64 ({error})") from error


def _name(given: str | None, place: int) -> str:
    """Return what a picture is called in its answer: the end of a path, printable, and not long."""
    name = printable(PureWindowsPath(given or "").name.replace("\n", " "))
    return name[:_NAME] or f"picture {place}"


def _truth(option: str, words: Sequence[str]) -> bool:
    word = _last(words).lower()
    if word not in ("", "0", "1", "true", "false"):
        raise InputError(f"{option} is {_short(word)!r}: give true or false")
    return word in ("1", "true")


def _number(option: str, words: Sequence[str]) -> float | None:
    word = _last(words)
    try:
        return float(word) if word else None
    except ValueError as error:
        raise InputError(f"{option} is {_short(word)!r}: give a number") from error


def _last(words: Sequence[str]) -> str:
    return words[-1] if words else ""


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= 60 else f"{line[:57]}…"
