"""Reads pictures and names from requests; each error is one line."""

import base64
import binascii
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PureWindowsPath
from typing import Any

from anyio import CapacityLimiter, fail_after, to_thread
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from foveate.configs import as_dataclass
from foveate.data.naming import clean_name, name_key
from foveate.errors import InputError, printable
from foveate.foreground.opening import BadPicture, FilePicture
from foveate.foreground.pictures import measure, open_picture
from foveate.readers import as_table, parse_json
from foveate.serve.limits import BUSY, Limits, Refused
from foveate.serve.models import Model

FORM, JSON, RAW = "multipart/form-data", "application/json", "application/octet-stream"
_NAME_LENGTH = 100  # letters of a picture's name that are returned
_DATA = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_FIELDS = 32  # maximum fields of a form, besides its pictures
_FIELD_BYTES = 64 << 10
_MAX_VALUES = 10_000  # in a JSON body
_OPTIONS = ("classes", "only", "about", "risk", "abstain")


@dataclass(frozen=True)
class UploadRequest:
    """A question as it was sent.

    Attributes:
        files: Name and bytes of each picture.
        classes: Class names besides the trained ones.
        only: Whether to choose from `classes` alone.
        about: Class whose regions are shown; empty for the predicted class.
        risk: Risk of the sets of names (see `Classifier.predict`); None if no sets are requested.
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
    """Read a question: a form, JSON with pictures in base64, or the bytes of one picture.

    Raises:
        Refused: The content type is another, there are no pictures, or something exceeds its limit.
        InputError: A value is wrong.
    """
    content_type = _content_type(request)
    if content_type == FORM:
        upload = await _from_form(request, limits)
    elif content_type == JSON:
        upload = await to_thread.run_sync(_from_json, await request.body())
    elif content_type == RAW or content_type.startswith("image/"):
        upload = _from_picture(request, await request.body())
    else:
        raise Refused(
            415, f"the content type is {_short(content_type) or 'missing'}: send {FORM}, {JSON}, or a picture"
        )
    if not upload.files:
        raise Refused(400, "there are no pictures: send at least one")
    if len(upload.files) > limits.pictures:
        raise Refused(413, f"there are {len(upload.files)} pictures: send {limits.pictures} at a time")
    return upload


async def read_table(request: Request) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        Refused: The content type is another.
        InputError: The body is no JSON, or no object.
    """
    content_type = _content_type(request)
    if content_type != JSON:
        raise Refused(415, f"the content type is {_short(content_type) or 'missing'}: send {JSON}")
    table = as_table(await to_thread.run_sync(_json, await request.body()))
    if table is None:
        raise InputError("the body is no JSON object")
    return table


async def read_names(request: Request) -> list[object]:
    """Read the names to add, from a JSON object with a list of them; there is at least one."""
    names: Any = (await read_table(request)).get("names")
    if not isinstance(names, list) or not names:
        raise InputError('there are no names to add: send {"names": ["barn owl"]}')
    return names


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def checked_names(names: Sequence[object], limits: Limits) -> tuple[str, ...]:
    """Return class names in their canonical spelling, each once.

    Raises:
        Refused: There are too many.
        InputError: A name is no text, empty, too long, or has an invisible character.
    """
    if len(names) > limits.names:
        raise Refused(413, f"there are {len(names)} class names: give {limits.names} at most")
    checked: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip("_ \t\n"):
            raise InputError(f"class name {_short(repr(name))} is no text: give a word")
        checked.setdefault(name_key(name), clean_name(name))
    return tuple(checked.values())


async def decoded_views(
    upload: UploadRequest, model: Model, limits: Limits, decoders: CapacityLimiter
) -> list[Image.Image]:
    """Decode the pictures of a question, a few at a time; keep of each the view that the model makes.

    Args:
        upload: The question.
        model: The model that will be asked.
        limits: Limits of pixels and of time.
        decoders: Limits how many pictures are decoded at once.

    Raises:
        InputError: A picture cannot be read, or has too many pixels.
        Refused: It takes too long, because the server is busy.
    """
    decode = partial(_view, model=model, limits=limits)
    try:
        with fail_after(limits.seconds):
            return [
                await to_thread.run_sync(decode, FilePicture(content, name), limiter=decoders)
                for name, content in upload.files
            ]
    except TimeoutError as error:
        raise Refused(503, BUSY, Retry_After="5") from error


def _view(picture: FilePicture, model: Model, limits: Limits) -> Image.Image:
    (width, height), _ = measure(picture)
    if width * height > limits.pixels:
        limit = f"{limits.pixels / 1e6:g} million pixels that are decoded"
        raise BadPicture(picture.name, f"is {width}x{height}, more than the {limit}", "make it smaller")
    return model.view(open_picture(picture))


async def _from_form(request: Request, limits: Limits) -> UploadRequest:
    await request.body()  # read first: an error within the parser would leave open files
    try:
        form = await request.form(max_files=limits.pictures, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)
    except HTTPException as error:
        status = 413 if "Too many" in error.detail or "exceeded" in error.detail else 400
        raise Refused(status, f"the form cannot be read ({_short(error.detail)})") from error
    async with request.form():  # already parsed; the exit closes its files
        files = [(_name(file.filename, i), await file.read()) for i, file in enumerate(_uploads(form))]
    texts = {name: [value for value in form.getlist(name) if isinstance(value, str)] for name in form}
    unknown = [name for name in texts if texts[name] and name not in _OPTIONS]
    if unknown:
        field = _short(unknown[0])
        raise InputError(f"the field {field!r} is no file: there are {', '.join(_OPTIONS)}, and files")
    return _upload(tuple(files), lambda name: texts.get(name, []))


def _uploads(form: FormData) -> Iterator[UploadFile]:
    for _, value in form.multi_items():
        if isinstance(value, UploadFile):
            yield value


def _from_json(body: bytes) -> UploadRequest:
    question = as_dataclass(_JsonBody, _json(body), "the body")
    files: list[tuple[str, bytes]] = []
    for index, picture in enumerate(question.pictures):
        match picture:
            case str(text):
                files.append((_name(None, index), _bytes(text, index)))
            case {"data": str(text), **rest} if rest.keys() <= {"name"} and isinstance(
                rest.get("name", ""), str
            ):
                files.append((_name(str(rest.get("name", "")), index), _bytes(text, index)))
            case _:
                raise InputError(
                    f"picture {index} is {_short(repr(picture))}: give base64, or {{name, data}} with base64"
                    " data"
                )
    options = question.about, question.risk, question.abstain
    return UploadRequest(tuple(files), tuple(question.classes), question.only, *options)


def _from_picture(request: Request, body: bytes) -> UploadRequest:
    query = request.query_params
    files = ((_name(query.get("name"), 0), body),) if body else ()
    return _upload(files, query.getlist)


def _upload(files: tuple[tuple[str, bytes], ...], texts: Callable[[str], Sequence[str]]) -> UploadRequest:
    """Build a question from texts; `texts` returns all values of an option, by its name."""
    return UploadRequest(
        files,
        tuple(_words(texts("classes"))),
        _truth("only", texts("only")),
        _last(texts("about")),
        _number("risk", texts("risk")),
        _truth("abstain", texts("abstain")),
    )


def _words(texts: Sequence[str]) -> list[str]:
    """Split comma-separated names; a name that contains a comma is in quotes.

    Unlike on the command line, a name is never the name of a file.
    """
    rows = csv.reader([text.replace("\n", " ").replace("\r", " ") for text in texts], skipinitialspace=True)
    return [word.strip() for row in rows for word in row if word.strip()]


def _json(body: bytes) -> object:
    values = sum(body.count(character) for character in (b",", b"[", b"{"))
    if values > _MAX_VALUES:  # in memory, each value takes many times its bytes
        raise Refused(413, f"the body holds {values:,} values: send {_MAX_VALUES:,} at most")
    return parse_json(body, "the body")


def _bytes(text: str, index: int) -> bytes:
    try:
        return base64.b64decode(_DATA.sub("", text, count=1), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"picture {index} is no base64 ({error})") from error


def _name(filename: str | None, index: int) -> str:
    """Return a picture's name for its answer: the last part of its path, printable and shortened."""
    name = printable(PureWindowsPath(filename or "").name.replace("\n", " "))
    return name[:_NAME_LENGTH] or f"picture {index}"


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
