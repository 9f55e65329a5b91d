"""Lists of pictures in a file: CSV, JSON lines, and the field's `split_zhou_*.json`."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from foveate.data.naming import SPLITS, clean_names, read_split
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.written import json_lines

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
# Where the field's datasets keep their pictures, below the folder of the split file.
INNER_FOLDERS = ("images", "101_ObjectCategories", "jpg", "2750", "UCF-101-midframes", "SUN397")


SELECTION = "selection"
"""Key of a split file under which stands how `foveate select` chose the training pictures."""


@dataclass(frozen=True)
class Row:
    """One line of a list, as written.

    Attributes:
        where: File and line, for messages.
        image: Path of the picture.
        label: A name, or a number in figures.
        name: The name that goes with a number, or "".
        mask: Path of the mask, or "".
        split: As written, or "".
    """

    where: str
    image: str
    label: str
    name: str = ""
    mask: str = ""
    split: str = ""


def read_table(path: Path, images: Path | None = None, columns: Mapping[str, str] | None = None) -> Photos:
    """Read a CSV (comma, semicolon or tab) or JSON-lines list with `image, label[, classname, mask, split]`.

    Args:
        path: The list.
        images: What paths in it are relative to; the list's own folder if None.
        columns: The file's own names for these columns, e.g. `{"image": "filename"}`.

    Raises:
        InputError: A column is missing, a file does not exist, or labels and names contradict each other.
    """
    rows = list(_read_rows(path, columns or {}))
    if not rows:
        raise InputError(f"{path}: no rows; each row needs an image and a label")
    return _photos(path, rows, images or path.parent)


def read_split_file(path: Path, images: Path | None = None) -> tuple[Photos, Path]:
    """Read `{train, val, test: [[path, label, name], ...]}`.

    Returns:
        The photos and the folder their paths are relative to.

    Raises:
        InputError: Another shape, pictures that are not there, or contradicting names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    rows = [row for split in ("train", "val", "test") for row in _split_rows(path, content, split)]
    if not rows:
        raise InputError(f"{path}: no pictures; expected train, val and test lists of [path, label, name]")
    top = _find_images(path, rows[0].image, images)
    return replace(_photos(path, rows, top), selection=_selection(content)), top


def _selection(content: Any) -> str:
    """Return in words how the training pictures were chosen; nothing where they were not."""
    match content:
        case {"selection": {"method": str(method), "fraction": int() | float() as fraction}}:
            return f"{method}, fraction {fraction:g}"
        case _:
            return ""


def find_split_file(folder: Path) -> Path | None:
    """Return the one `split_zhou_<Name>.json` or `split.json` in a folder, or None.

    Raises:
        InputError: There are several.
    """
    named = [p for p in folder.glob("split_zhou_*.json") if "." not in p.stem]  # not e.g. X.official.json
    found = sorted([*named, *folder.glob("split.json")])
    if len(found) > 1:
        raise InputError(f"{folder}: {' and '.join(p.name for p in found)} are there; give the file to read")
    return found[0] if found else None


def _split_rows(path: Path, content: Any, split: str) -> list[Row]:
    items = cast("Mapping[str, Any]", content).get(split, []) if isinstance(content, dict) else None
    if not isinstance(items, list):
        raise InputError(f"{path}: expected train, val and test lists of [path, label, name]")
    rows: list[Row] = []
    for number, item in enumerate(cast("list[Any]", items)):
        match item:
            case [str(image), int(label), str(name)]:
                rows.append(Row(f"{path}, {split}[{number}]", image, str(label), name, "", split))
            case _:
                raise InputError(f"{path}: {split}[{number}] is not [path, label, name]")
    return rows


def _find_images(path: Path, first: str, images: Path | None) -> Path:
    if images is not None:
        return images
    folder = path.parent
    for top in (folder, *(folder / inner for inner in INNER_FOLDERS)):
        if (top / first).is_file():
            return top
    tops = [top for top in sorted(folder.iterdir()) if top.is_dir() and (top / first).is_file()]
    if len(tops) == 1:
        return tops[0]
    why = f"in {' and in '.join(top.name for top in tops)}" if tops else f"neither in {folder} nor one below"
    raise InputError(f"{path}: its first picture {first} is {why}; say where pictures are with --images")


def _read_rows(path: Path, columns: Mapping[str, str]) -> Iterable[Row]:
    wanted = {key: columns.get(key, key) for key in ("image", "label", "classname", "mask", "split")}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error
    is_json = path.suffix.lower() in (".jsonl", ".ndjson")
    lines = _json_lines(path, text) if is_json else _csv_lines(path, text)
    for number, line in lines:
        where = f"{path}, line {number}"
        missing = [wanted[key] for key in ("image", "label") if not line.get(wanted[key], "").strip()]
        if missing:
            raise InputError(f"{where}: no {missing[0]!r}; the columns there are {', '.join(line)}")
        values = {key: line.get(own, "").strip() for key, own in wanted.items()}
        yield Row(
            where, values["image"], values["label"], values["classname"], values["mask"], values["split"]
        )


def _csv_lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    for line in reader:
        if None in line:
            raise InputError(
                f"{path}, line {reader.line_num}: more fields than columns; put names with commas in quotes"
            )
        yield reader.line_num, line


def _json_lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, str]]]:
    for number, content in json_lines(path, text):
        if not isinstance(content, dict):
            raise InputError(f"{path}, line {number}: not an object; write {{'image': ..., 'label': ...}}")
        items = cast("dict[str, Any]", content).items()
        yield number, {key: "" if value is None else str(value) for key, value in items}


def _photos(path: Path, rows: Sequence[Row], top: Path) -> Photos:
    names, label = _labels(path, rows)
    samples = [
        Sample(top / row.image, label[row.label], top / row.mask if row.mask else None, _split(row))
        for row in rows
    ]
    given = [file for sample in samples for file in (sample.picture, sample.mask)]
    absent = [file for file in given if isinstance(file, Path) and not file.is_file()]
    if absent:
        raise InputError(
            f"{path}: {len(absent)} of its files do not exist, first {absent[0]}; "
            f"paths are relative to {top} (say otherwise with --images)"
        )
    return Photos(names, tuple(samples))


def _split(row: Row) -> str | None:
    return SPLITS.get(row.split) or read_split(row.split, row.where)


def _labels(path: Path, rows: Sequence[Row]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Order the classes by number where every label is one, else by name."""
    called: dict[str, str] = {}
    for row in rows:
        name = row.name or row.label
        if called.setdefault(row.label, name) != name:
            other = called[row.label]
            raise InputError(f"{row.where}: label {row.label} is {name!r} here and {other!r} before")
    numbered = all(label.removeprefix("-").isdecimal() for label in called)
    order = sorted(called, key=int) if numbered else sorted(called)
    names = clean_names({label: called[label] for label in order}, str(path))
    return names, {label: row for row, label in enumerate(order)}
