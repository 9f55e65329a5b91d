"""Reads lists of pictures from files: CSV, JSON lines, and `split_zhou_*.json`."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, cast

from foveate.data.naming import clean_names, in_order, read_split
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.files import is_file
from foveate.readers import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, json_lines, read_csv, read_json

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
# Picture folders of common datasets, relative to the folder of the split file.
INNER_FOLDERS = ("images", "101_ObjectCategories", "jpg", "2750", "UCF-101-midframes", "SUN397")
_LABEL = r"-?\d{1,18}"

SELECTION = "selection"
"""Key in a split file for the way `foveate select` chose the training pictures."""


@dataclass(frozen=True)
class ListRow:
    """One line of a list, as written.

    Attributes:
        where: File and line, for error messages.
        image: Path of the picture.
        label: A name, or a number as text.
        name: The name for a number, or "".
        mask: Path of the mask, or "".
        split: Name of the split, or "".
    """

    where: str
    image: str
    label: str
    name: str = ""
    mask: str = ""
    split: str = ""


def read_table(path: Path, images: Path | None = None, columns: Mapping[str, str] | None = None) -> Photos:
    """Read a list with `image, label[, classname, mask, split]`.

    It is a CSV file (comma, semicolon or tab), JSON lines, or a JSON file with a list of objects.

    Args:
        path: The list.
        images: Base folder of relative paths; None uses the list's own folder.
        columns: The file's own names for these columns, e.g. `{"image": "filename"}`.

    Raises:
        InputError: A column is missing, a file does not exist, or labels and names contradict each other.
    """
    rows = list(_read_rows(path, columns or {}))
    if not rows:
        raise InputError(f"{path}: no rows; each row needs an image and a label")
    return _photos(path, rows, images or path.parent, *_classes(rows, str(path), {}))


def read_split_file(path: Path, images: Path | None = None) -> tuple[Photos, Path]:
    """Read `{train, val, test: [[path, label, name], ...]}`; see `split_rows` and `split_classes`.

    Returns:
        The photos and the folder their paths are relative to.

    Raises:
        InputError: The file has another structure, pictures do not exist, or names contradict each
            other.
    """
    content = read_json(path)
    rows = split_rows(content, str(path))
    top = _find_images(path, rows[0].image, images)
    photos = _photos(path, rows, top, *split_classes(content, rows, str(path)))
    return replace(photos, selection=_selection(content)), top


def _selection(content: Any) -> str:
    """Return how the training pictures were selected, as text; "" if they were not."""
    match content:
        case {"selection": {"method": str(method), "fraction": int() | float() as fraction}}:
            return f"{method}, fraction {fraction:g}"
        case _:
            return ""


def find_split_file(folder: Path) -> Path | None:
    """Return the single `split_zhou_<Name>.json` or `split.json` in a folder, or None.

    Raises:
        InputError: There are several split files.
    """
    official = [p for p in folder.glob("split_zhou_*.json") if "." not in p.stem]  # not e.g. X.official.json
    files = sorted([*official, *folder.glob("split.json")])
    if len(files) > 1:
        raise InputError(f"{folder}: {' and '.join(p.name for p in files)} are there; give the file to read")
    return files[0] if files else None


def split_rows(content: Any, source: str) -> list[ListRow]:
    """Return the rows of a parsed split file, with whole numbers as labels.

    Raises:
        InputError: There are no rows, or they have another structure.
    """
    rows: list[ListRow] = []
    for split in ("train", "val", "test"):
        items = cast("Mapping[str, Any]", content).get(split) if isinstance(content, dict) else content
        if items is None:
            continue
        if not isinstance(content, dict) or not isinstance(items, list):
            raise InputError(f"{source}: expected train, val and test lists of [path, label, name]")
        for number, item in enumerate(cast("list[Any]", items)):
            where = f"{source}, {split}[{number}]"
            match item:
                case [str(path), int() | str() as label, str(name)] if re.fullmatch(_LABEL, str(label)):
                    rows.append(ListRow(where, path, str(int(label)), name, "", split))
                case _:
                    raise InputError(f"{where} is not [path, label, name]")
    if not rows:
        raise InputError(f"{source}: no pictures; expected train, val and test lists of [path, label, name]")
    return rows


def split_classes(
    content: Any, rows: Sequence[ListRow], source: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names of a parsed split file, and their indices by label.

    Its entry `names`, if it is there, lists all classes by label; some of them may have no picture. Published
    files have none.

    Raises:
        InputError: `names` is no list of names, or names contradict each other.
    """
    listed = content.get("names", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in cast("list[Any]", listed)):
        raise InputError(f"{source}: names is no list of class names: get the file again")
    names_by_label = {str(label): name for label, name in enumerate(cast("list[str]", listed))}
    return _classes(rows, source, names_by_label)


def _find_images(path: Path, first: str, images: Path | None) -> Path:
    if images is not None:
        return images
    folder = path.parent
    for top in (folder, *(folder / inner for inner in INNER_FOLDERS)):
        if is_file(locate([first], top)[0]):
            return top
    subfolders = sorted(top for top in folder.iterdir() if top.is_dir())
    hits = [top for top in subfolders if is_file(locate([first], top)[0])]
    if len(hits) == 1:
        return hits[0]
    where = (
        f"in {' and in '.join(top.name for top in hits)}" if hits else f"neither in {folder} nor one below"
    )
    raise InputError(f"{path}: its first picture {first} is {where}; say where pictures are with --images")


def locate(paths: Sequence[str], top: Path) -> list[Path]:
    """Return the paths of the files in a list.

    Windows paths and absolute paths of another machine are matched by their ends: the same number of
    leading folders is removed from all of them, namely the number for which most files exist.

    Args:
        paths: Paths as the list writes them.
        top: Base folder of relative paths and of path ends.
    """
    located = [top / path for path in paths]
    foreign = [row for row, path in enumerate(paths) if _is_foreign(path) and not located[row].is_file()]
    parts = {
        row: PurePosixPath(re.sub(r"^[A-Za-z]:", "", paths[row].replace("\\", "/"))).parts for row in foreign
    }
    ends = {row: [part for part in end if part != "/"] for row, end in parts.items() if ".." not in end}
    most_hits, best_skip = 0, 0
    for skip in range(max(map(len, ends.values()), default=0)):
        hits = sum(len(end) > skip and top.joinpath(*end[skip:]).is_file() for end in ends.values())
        if hits > most_hits:
            most_hits, best_skip = hits, skip
    for row, end in ends.items():
        if most_hits and len(end) > best_skip:
            located[row] = top.joinpath(*end[best_skip:])
    return located


def _is_foreign(path: str) -> bool:
    return "\\" in path or path.startswith("/") or re.match(r"[A-Za-z]:", path) is not None


def _read_rows(path: Path, columns: Mapping[str, str]) -> Iterable[ListRow]:
    is_json = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
    lines = _json_lines(path) if is_json else _csv_lines(path, columns)
    columns_by_header: dict[tuple[str, ...], dict[str, str | None]] = {}
    for number, line in lines:
        where = f"{path}, {'item' if path.suffix.lower() == '.json' else 'line'} {number}"
        header = tuple(line)
        if header not in columns_by_header:
            columns_by_header[header] = {key: _column(key, header, columns) for key in _COLUMNS}
        column_of = columns_by_header[header]
        values = {key: line[column].strip() if column else "" for key, column in column_of.items()}
        empty_key = next((key for key in ("image", "label") if not values[key]), None)
        if empty_key and column_of[empty_key]:
            raise InputError(f"{where}: {column_of[empty_key]!r} is empty; fill it in, or remove the line")
        if empty_key:
            raise InputError(
                f"{where}: no {empty_key!r}; the columns there are {', '.join(line)}"
                f" (if it has another name, say which: --columns {empty_key}=...)"
            )
        yield ListRow(where, *(values[key] for key in ("image", "label", "classname", "mask", "split")))


_COLUMNS: Mapping[str, Sequence[str]] = {
    "image": IMAGE_COLUMNS,
    "label": LABEL_COLUMNS,
    "classname": ("classname", "class_name", "label_name"),
    "mask": ("mask", "mask_path", "mask_file"),
    "split": ("split", "subset", "partition"),
}


def read_columns(text: str) -> dict[str, str]:
    """Parse "image=photo,label=species": the list's own names of the known columns.

    Raises:
        InputError: The text has another form, or names an unknown column.
    """
    names: dict[str, str] = {}
    for word in text.split(","):
        key, equals, column = (part.strip() for part in word.partition("="))
        if not equals or not column or key not in _COLUMNS:
            raise InputError(
                f"columns is {text!r}: write image=..., label=..., with commas between them; there are"
                f" {', '.join(_COLUMNS)}"
            )
        names[key] = column
    return names


def has_labels(path: Path) -> bool:
    """Return whether the first line shows that a file is a list of pictures and labels."""
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            first = next((line for _, line in _json_lines(path)), {})
        else:
            first = read_csv(path)[0]
    except InputError:
        return False
    return all(find_column(first, _COLUMNS[key]) for key in ("image", "label"))


def _column(key: str, header: Sequence[str], columns: Mapping[str, str]) -> str | None:
    return find_column(header, [columns[key]] if key in columns else _COLUMNS[key])


def _csv_lines(path: Path, columns: Mapping[str, str]) -> Iterable[tuple[int, dict[str, str]]]:
    header, rows = read_csv(path)
    unknown = [f"{key}={column}" for key, column in columns.items() if find_column(header, [column]) is None]
    if unknown:
        raise InputError(f"{path}: has no column for {unknown[0]}; the columns there are {', '.join(header)}")
    return rows


def _json_lines(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """Yield the objects of JSON lines, or of a JSON file that is a list, with their numbers."""
    is_list = path.suffix.lower() == ".json"
    for number, content in enumerate(read_json(path), start=1) if is_list else json_lines(path):
        if not isinstance(content, dict):
            where = f"{path}, {'item' if is_list else 'line'} {number}"
            raise InputError(f"{where}: not an object; write {{'image': ..., 'label': ...}}")
        items = cast("dict[str, Any]", content).items()
        yield (
            number,
            {
                key: "" if value is None or isinstance(value, dict | list) else str(value)
                for key, value in items
            },
        )


def _photos(
    path: Path, rows: Sequence[ListRow], top: Path, names: tuple[str, ...], label_of: Mapping[str, int]
) -> Photos:
    pictures = locate([row.image for row in rows], top)
    mask_paths = [row.mask for row in rows if row.mask]
    masks = dict(zip(mask_paths, locate(mask_paths, top), strict=True))
    samples = [
        Sample(picture, label_of[row.label], masks.get(row.mask), read_split(row.split, row.where))
        for row, picture in zip(rows, pictures, strict=True)
    ]
    files = [file for sample in samples for file in (sample.picture, sample.mask)]
    missing = [file for file in files if isinstance(file, Path) and not is_file(file)]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of its files do not exist, first {missing[0]}; "
            f"paths are relative to {top} (say otherwise with --images)"
        )
    _check_duplicates(path, rows, samples, names)
    return Photos(names, tuple(samples))


def _check_duplicates(
    path: Path, rows: Sequence[ListRow], samples: Sequence[Sample], names: Sequence[str]
) -> None:
    """Refuse a picture with two labels; warn about a picture in two splits."""
    first_samples: dict[object, Sample] = {}
    leaked: list[Sample] = []
    for row, sample in zip(rows, samples, strict=True):
        previous = first_samples.setdefault(sample.picture, sample)
        if previous.label != sample.label:
            both = f"{names[previous.label]!r} and {names[sample.label]!r}"
            raise InputError(f"{row.where}: {row.image} has two labels, {both}: keep one")
        if previous.split != sample.split:
            leaked.append(sample)
    if leaked:
        first = leaked[0]
        warnings.warn(
            f"{path}: {len(leaked)} pictures are listed twice, in two splits, first {first.name}, in"
            f" {first_samples[first.picture].split} and in {first.split}",
            stacklevel=2,
        )


def _classes(
    rows: Iterable[ListRow], source: str, names_by_label: dict[str, str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Order the classes by number if every label is a number, otherwise by name; add those of the rows."""
    for row in rows:
        name = row.name or row.label
        if names_by_label.setdefault(row.label, name) != name:
            previous = names_by_label[row.label]
            raise InputError(f"{row.where}: label {row.label} is {name!r} here and {previous!r} before")
    order = in_order(names_by_label)
    names = clean_names({label: names_by_label[label] for label in order}, source)
    return names, {label: index for index, label in enumerate(order)}
