"""Text that people and other programs wrote, read: plain lines, CSV, JSON, JSON a line, YAML.

All such files are read here and nowhere else. Each reader is bounded (size, depth, numbers), and whatever is
wrong with a file is one line that names it.
"""

import csv
import io
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from foveate.errors import InputError

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

TEXT_LIMIT = 2 << 30
_YAML_LIMIT = 256 << 10  # its parser reads 70 kB a second
_DEEPEST = 100  # levels of lists and tables; files that mean something have 10
_ENTRIES = 100_000  # of a YAML file, with what its aliases repeat
# A byte-order mark says how text is written; UTF-32's begins like UTF-16's, so it comes first.
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_ODD_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")  # an integer beyond 64 bits, or a float beyond all
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "merge", "timestamp")

IMAGE_COLUMNS = (
    *("image", "file_name", "filename", "file", "image_path", "filepath", "image_file", "path", "img"),
    *("picture", "photo"),
)
LABEL_COLUMNS = ("label", "class", "category", "target", "class_label")


def read_bytes(path: Path, limit: int = TEXT_LIMIT) -> bytes:
    """Read a whole file.

    Args:
        path: A regular file: a pipe would be waited for.
        limit: Most bytes that it may have.

    Raises:
        InputError: It is not there, no regular file, too large, or may not be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'a pipe or a device'}, no file")
        if found.st_size > limit:
            raise InputError(f"{path}: has {found.st_size:,} bytes, more than the {limit:,} that are read")
        return path.read_bytes()
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        why = "no such file" if missing else f"cannot be read ({error.strerror})"
        raise InputError(f"{path}: {why}") from error


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Read a text file in UTF-8, with or without a byte-order mark.

    Raises:
        InputError: As `read_bytes`; or it is not UTF-8.
    """
    return decoded(read_bytes(path, limit), str(path))


def decoded(raw: bytes, where: str) -> str:
    """Return UTF-8 bytes as text.

    Args:
        raw: With or without a byte-order mark.
        where: What messages call it.

    Raises:
        InputError: It is not UTF-8.
    """
    for mark, name in _MARKS.items():
        if raw.startswith(mark):
            raise InputError(f"{where}: not UTF-8 text, but {name}: save it as UTF-8")
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
    """Yield the lines that hold something, stripped, with their numbers.

    A line ends at a newline only: U+2028, U+0085 and the like may stand in a name.
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
    """Return the value of a JSON text.

    Args:
        text: The text; bytes are UTF-8.
        where: What messages call it: a file, or a file and its line.

    Raises:
        InputError: It is not UTF-8 or no JSON, nested too deeply, or holds a number that is none (NaN,
            Infinity, 1e400), an integer beyond 64 bits, or half of a surrogate pair.
    """
    text = decoded(text, where) if isinstance(text, bytes) else text
    value = None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        fault = _fault(value, text)
    except RecursionError:
        fault = "nested too deeply"
    except ValueError as error:  # Python's own limit on digits is one, too
        fault = one_line(error).partition("; use sys.")[0]
    if fault:
        raise InputError(f"{where}: not valid JSON ({fault})")
    return value


def parse_table(text: str | bytes, where: str) -> dict[str, Any]:
    """Return the object that a JSON text is.

    Raises:
        InputError: As `parse_json`; or it is a list, a number or a text.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: holds no settings, but a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def as_dataclass(kind: type[T], values: object, where: str, *, more: bool = False) -> T:
    """Return what was written as a dataclass, each field of the type that it declares.

    Args:
        kind: The dataclass.
        values: A table, as JSON or YAML has it.
        where: What messages call it; nothing where whoever hears them says it.
        more: Whether other entries are passed over; they are refused otherwise.

    Raises:
        InputError: An entry is missing, unknown, or of another type.
    """
    before = f"{where}: " if where else ""
    table = as_table(values)
    if table is None:
        raise InputError(f"{before}is no table, but {_shown(values)}")
    known = {field.name: field for field in fields(cast("Any", kind)) if field.init}
    stray = next((name for name in table if name not in known), None)
    if stray is not None and not more:
        raise InputError(f"{before}there is no {stray!r}; there are {', '.join(known)}")
    hints = get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, field in known.items():
        if name in table:
            if not fits(table[name], hints[name]):
                raise InputError(f"{before}{name} is {_shown(table[name])}, which it cannot be")
            given[name] = tuple(table[name]) if get_origin(hints[name]) is tuple else table[name]
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{before}{name} is missing")
    return kind(**given)


def fits(value: object, hint: Any) -> bool:
    """Return whether a value of JSON is of a declared type; a list fits a tuple, a whole number a float."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inside)
    if origin is Literal:
        return isinstance(value, str) and value in inside
    if hint is Any or hint is object:
        return True
    if origin in (list, tuple, Sequence):
        return _fits_row(value, inside)
    if origin in (dict, Mapping):
        table = cast("dict[object, object]", value) if isinstance(value, dict) else None
        return table is not None and all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in table.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _fits_row(value: object, inside: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return False
    row = cast("Sequence[object]", value)
    kinds = [one for one in inside if one is not Ellipsis]
    if Ellipsis in inside or len(kinds) == 1:
        return all(fits(one, kinds[0]) for one in row)
    return len(row) == len(kinds) and all(map(fits, row, kinds))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _fault(value: object, text: str) -> str:
    """Return what is wrong with a value: depth, numbers, letters; nothing if all is well."""
    if _HALF_PAIR.search(text):
        # What stands for bytes of a file name (U+DC80 to U+DCFF) is no fault.
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
        inside = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        )
        level = [one for group in inside for one in group if isinstance(one, kinds)]
        if not level:
            return ""
    return "nested too deeply"


def json_lines(path: Path, text: str | None = None) -> Iterator[tuple[int, Any]]:
    """Read JSON, one value a line, with the numbers of the lines; empty lines are passed over.

    Args:
        path: The file.
        text: What it holds, if that is known.

    Raises:
        InputError: As `read_text`; or a line is no JSON.
    """
    for number, line in text_lines(read_text(path) if text is None else text):
        yield number, parse_json(line, f"{path}, line {number}")


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Read a table with a header: comma, semicolon or tab between the fields.

    Returns:
        The columns, stripped; and each row by column, with the number of its line. A row that is too short
        has empty fields at its end. Empty rows are left out.

    Raises:
        InputError: As `read_text`; two columns of one name, a row with more fields than columns, or a field
            that is too long.
    """
    text = read_text(path)
    first = next((line for _, line in text_lines(text)), "")
    # newline="" and keepends: a quoted field may hold line ends of its own.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=max(",;\t", key=first.count))
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for fields in reader:
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
    """Return rows as CSV that a spreadsheet takes for text and numbers, never for formulas."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_no_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _no_formula(cell: object) -> object:
    """Put a quote before a text that a spreadsheet would run."""
    risky = isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") and cell and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if risky else cell


def find_column(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the column that has one of these names, the first of them preferred; None if none has.

    Case, spaces at the ends, and whether words have a space, a dash or an underscore between them do not
    matter.
    """
    by_key = {_column_key(column): column for column in columns}
    return next((by_key[_column_key(name)] for name in names if _column_key(name) in by_key), None)


def _column_key(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


@cache
def _loader() -> "type[yaml.SafeLoader]":
    """Return a loader for which 1e-3 is a number and 2024-01-01 text.

    PyYAML follows YAML 1.1, where it is the other way round. It is imported when YAML is read: exported
    models run where it is not installed.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML declares it)
            first: [(tag, form) for tag, form in some if tag != "tag:yaml.org,2002:timestamp"]
            for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    return Loader


def read_yaml(path: Path) -> object:
    """Read a YAML file; numbers such as 1e-3 are numbers.

    Raises:
        InputError: As `read_text`; it is no YAML, says something twice, holds or repeats itself, is nested
            too deeply, or has a value of a kind that JSON does not know.
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
        why = one_line(error, 400).replace('in "<unicode string>", ', "")
        raise InputError(f"{path} is no YAML: {why}") from error


def _check_node(node: "yaml.Node", path: Path, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Refuse what a YAML file should not hold; return how many entries there are in it, repeats counted."""
    line = f"{path}, line {node.start_mark.line + 1}"
    if id(node) in above:
        raise InputError(f"{line}: an alias stands inside what it repeats: write it out")
    if id(node) in sizes:
        return sizes[id(node)]
    if len(above) > _DEEPEST:
        raise InputError(f"{line}: nested too deeply")
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _PLAIN_TAGS:
        raise InputError(f"{line}: a value of the kind {node.tag}: write plain lists, names and numbers")
    size = 1 + sum(_check_node(one, path, sizes, (*above, id(node))) for one in _inside(node, path))
    if size > _ENTRIES:
        raise InputError(f"{line}: aliases repeat too much, {size:,} entries: write it out")
    sizes[id(node)] = size
    return size


def _inside(node: "yaml.Node", path: Path) -> "Iterator[yaml.Node]":
    """Yield the entries of a node; a key that stands twice is refused, for YAML would keep the last."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                again = key.start_mark.line + 1
                raise InputError(f"{path}, line {again}: {key.value!r} stands there twice: rename one")
            seen.add(str(key.value))
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def as_table(value: object) -> dict[str, Any] | None:
    """Return a dictionary with texts as keys; None for anything that is no dictionary."""
    if not isinstance(value, Mapping):
        return None
    return {str(name): item for name, item in cast("Mapping[object, Any]", value).items()}


def one_line(error: Exception, most: int = 160) -> str:
    """Return the beginning of an error's message in one line, or its class where it has none."""
    return " ".join(str(error).split())[:most] or type(error).__name__
