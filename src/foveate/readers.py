"""Readers of text files from users and other programs: plain lines, CSV, JSON, JSON Lines, YAML.

All such files are read in this module only. Each reader limits size, depth and numbers. An error is one
line that names the file.
"""

import csv
import io
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    NoReturn,
    TypeVar,
    cast,
)

from foveate.errors import InputError

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

TEXT_LIMIT = 2 << 30
_YAML_LIMIT = 256 << 10  # the YAML parser reads 70 kB per second
_DEEPEST = 100  # levels of nested lists and tables; real files have about 10
_MAX_ENTRIES = 100_000  # in a YAML file, with repeated aliases counted
# A byte-order mark gives the encoding; UTF-32's starts like UTF-16's, so it comes first.
_BYTE_ORDER_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_ODD_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")  # an integer beyond 64 bits, or a float beyond the range
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp")

IMAGE_COLUMNS = (
    *("image", "file_name", "filename", "file", "image_path", "filepath", "image_file", "path", "img"),
    *("picture", "photo", "file_path", "img_path", "image_name", "img_name"),
)
LABEL_COLUMNS = ("label", "class", "category", "target", "class_label", "class_name", "classname")


def read_bytes(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """Read a whole file.

    Args:
        path: A regular file; reading a pipe could block.
        limit: Largest size in bytes.

    Raises:
        InputError: The file does not exist, is no regular file, is too large, or is not readable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'a pipe or a device'}, no file")
        if status.st_size > limit:
            raise InputError(f"{path}: has {status.st_size:,} bytes, more than the {limit:,} that are read")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a path with a null byte raises ValueError
        if isinstance(error, InputError):
            raise
        unreadable = isinstance(error, OSError) and not isinstance(
            error, FileNotFoundError | NotADirectoryError
        )
        reason = f"cannot be read ({cast('OSError', error).strerror})" if unreadable else "no such file"
        raise InputError(f"{path}: {reason}") from error


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: As `read_bytes`; or the file is not UTF-8.
    """
    return decoded(read_bytes(path, limit), str(path))


def decoded(raw: bytes, where: str) -> str:
    """Decode UTF-8 bytes.

    Args:
        raw: Bytes with or without a byte-order mark.
        where: Name of the source in messages.

    Raises:
        InputError: The bytes are not UTF-8.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if raw.startswith(mark):
            raise InputError(f"{where}: not UTF-8 text, but {encoding}: save it as UTF-8")
    if b"\0" in raw:
        raise InputError(f"{where}: not UTF-8 text, for it holds zero bytes: save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{where}, line {line}: not UTF-8 text (byte {raw[error.start]:#04x}): save it as UTF-8"
        ) from error


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines, stripped, with their numbers.

    Only a newline ends a line: names may contain U+2028, U+0085 and the like.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if stripped := line.strip():
            yield number, stripped


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: As `read_text` and `parse_json`.
    """
    return parse_json(read_bytes(path), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse a JSON text.

    Args:
        text: The text; bytes are UTF-8.
        where: Name of the source in messages: a file, or a file and a line number.

    Raises:
        InputError: The text is not UTF-8, is no JSON, or is nested too deeply; or it has a number that
            is not finite (NaN, Infinity, 1e400), an integer beyond 64 bits, or half of a surrogate pair.
    """
    text = decoded(text, where) if isinstance(text, bytes) else text
    value = None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        fault = _fault(value, text)
    except RecursionError:
        fault = "nested too deeply"
    except ValueError as error:  # Python's limit on digits raises ValueError too
        fault = one_line(error).partition("; use sys.")[0]
    if fault:
        raise InputError(f"{where}: not valid JSON ({fault})")
    return value


def parse_table(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON text that is an object.

    Raises:
        InputError: As `parse_json`; or the value is a list, a number or a string.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: holds no settings, but a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _fault(value: object, text: str) -> str:
    """Return what is wrong with a value (depth, numbers, characters), or an empty string."""
    if _HALF_PAIR.search(text):
        # U+DC80 to U+DCFF stand for bytes of file names and are allowed.
        json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    odd = _ODD_NUMBER.search(text) is not None
    kinds = (dict, list, int, float) if odd else (dict, list)
    level: list[Any] = [value]
    for _ in range(_DEEPEST):
        for number in level if odd else ():
            if isinstance(number, float) and not math.isfinite(number):
                return "a number is beyond all bounds"
            if isinstance(number, int) and not -(1 << 63) <= number < 1 << 64:
                return "a whole number is beyond 64 bits"
        children = (
            container.values() if isinstance(container, dict) else container
            for container in level
            if isinstance(container, dict | list)
        )
        level = [item for group in children for item in group if isinstance(item, kinds)]
        if not level:
            return ""
    return "nested too deeply"


def json_lines(path: Path, text: str | None = None) -> Iterator[tuple[int, Any]]:
    """Read a JSON Lines file; yield line numbers and values. Empty lines are skipped.

    Args:
        path: The file.
        text: Content of the file, if it was read before.

    Raises:
        InputError: As `read_text`; or a line is no JSON.
    """
    for number, line in text_lines(read_text(path) if text is None else text):
        yield number, parse_json(line, f"{path}, line {number}")


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a CSV table with a header; fields are separated by comma, semicolon or tab.

    The apostrophe that `csv_text` puts before a formula is removed.

    Returns:
        The stripped column names; and each row as a table by column, with its line number. Missing
        fields at the end of a row are empty. Empty rows are left out.

    Raises:
        InputError: As `read_text`; or two columns have the same name, a row has more fields than
            columns, or a field is too long.
    """
    text = read_text(path)
    first_line = next((line for _, line in text_lines(text)), "")
    # newline="" and keepends: a quoted field may contain line breaks.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=max(",;\t", key=first_line.count))
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for raw_fields in reader:
            fields = [_without_apostrophe(field) for field in raw_fields]
            if not any(field.strip() for field in fields):
                continue
            if not columns:
                columns = _header(fields, f"{path}, line {reader.line_num}")
            else:
                while len(fields) > len(columns) and not fields[-1].strip():
                    fields.pop()
                if len(fields) > len(columns):
                    raise InputError(
                        f"{path}, line {reader.line_num}: more fields than columns;"
                        " put names with commas in quotes"
                    )
                padded = [*fields, *([""] * (len(columns) - len(fields)))]
                rows.append((reader.line_num, dict(zip(columns, padded, strict=True))))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: no table ({one_line(error)})") from error
    return columns, rows


def _header(fields: Sequence[str], where: str) -> list[str]:
    columns = [field.strip() for field in fields]
    while columns and not columns[-1]:
        columns.pop()
    seen: set[str] = set()
    for column in columns:
        if _column_key(column) in seen:
            raise InputError(f"{where}: the column {column!r} stands there twice: rename or remove one")
        seen.add(_column_key(column))
    return columns


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV; spreadsheets read the cells as text and numbers, never as formulas.

    An apostrophe is put before a text that would be a formula; `read_csv` removes it.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_no_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _no_formula(cell: object) -> object:
    """Put an apostrophe before a text that is a formula, or is a formula after its own apostrophes."""
    risky = isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if risky else cell


def _without_apostrophe(field: str) -> str:
    return field[1:] if field.startswith("'") and _no_formula(field[1:]) == field else field


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the column with one of these names; earlier names have priority. None if there is none.

    Case, outer spaces, and the separator of words (space, dash, underscore) do not matter.
    """
    by_key = {_column_key(column): column for column in columns}
    return next((by_key[_column_key(name)] for name in names if _column_key(name) in by_key), None)


def _column_key(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


@cache
def _loader() -> "type[yaml.SafeLoader]":
    """Return a loader for which 1e-3 is a number and 2024-01-01 text.

    PyYAML follows YAML 1.1, where 1e-3 is text and 2024-01-01 a date. It is imported when YAML is read:
    exported models run where it is not installed.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML declares it)
            character: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
            for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def read_yaml(path: Path) -> object:
    """Read a YAML file; 1e-3 is a number.

    Raises:
        InputError: As `read_text`; or the file is no YAML, has a duplicate key, has aliases that contain
            themselves or repeat too much, is nested too deeply, or has a value that JSON has no type for.
    """
    import yaml

    text = read_text(path, _YAML_LIMIT)
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise InputError(f"{path} is no YAML: nested too deeply")
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None:
            _check_node(node, path, {}, ())
        return yaml.load(text, _loader())
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        reason = one_line(error, 400).replace('in "<unicode string>", ', "")
        raise InputError(f"{path} is no YAML: {reason}") from error


def _check_node(node: "yaml.Node", path: Path, sizes: dict[int, int], ancestors: tuple[int, ...]) -> int:
    """Refuse what a YAML file must not contain; return the number of entries, repeated ones counted."""
    where = f"{path}, line {node.start_mark.line + 1}"
    if id(node) in ancestors:
        raise InputError(f"{where}: an alias stands inside what it repeats: write it out")
    if id(node) in sizes:
        return sizes[id(node)]
    if len(ancestors) > _DEEPEST:
        raise InputError(f"{where}: nested too deeply")
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
        raise InputError(f"{where}: a value of the kind {node.tag}: write plain lists, names and numbers")
    size = 1 + sum(_check_node(child, path, sizes, (*ancestors, id(node))) for child in _children(node, path))
    if size > _MAX_ENTRIES:
        raise InputError(f"{where}: aliases repeat too much, {size:,} entries: write it out")
    sizes[id(node)] = size
    return size


def _children(node: "yaml.Node", path: Path) -> "Iterator[yaml.Node]":
    """Yield the entries of a node. Duplicate keys are refused, because YAML would keep the last one."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise InputError(f"{path}, line {line}: {key.value!r} stands there twice: rename one")
            seen.add(str(key.value))
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def as_table(value: object) -> dict[str, Any] | None:
    """Return a dictionary with string keys; None if the value is no dictionary."""
    if not isinstance(value, Mapping):
        return None
    return {str(name): item for name, item in cast("Mapping[object, Any]", value).items()}


def one_line(error: BaseException, limit: int | None = 160) -> str:
    """Return the start of an error message on one line, or the class name if there is no message."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
