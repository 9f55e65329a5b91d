"""Labels of whole pictures as other programs keep them, in and out: what goes out comes in again as it was.

| form | what it is |
|---|---|
| csv | `image,label`, which `foveate fit` reads |
| label-studio | Label Studio's JSON: tasks with choices |
| coco | COCO's JSON: a box around the whole picture, of the category |
| cvat | "CVAT for images 1.1": XML with a tag a picture |
| yolo | data.yaml, train.txt and labels/*.txt: a box around the whole picture |

A picture that shows none of the names has an annotation without a result, an image without one, or an empty
file. Boxes of one picture that say different things are refused: they are no label of the whole.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast
from xml.etree import ElementTree

import yaml

from foveate.data.listing import list_pictures
from foveate.data.naming import clean_name
from foveate.data.pictures import measure
from foveate.errors import InputError
from foveate.readers import as_table, csv_text, parse_json, read_bytes, read_csv, read_text, read_yaml

WHOLE = "0.5 0.5 1 1"
"""Of a box in YOLO's words: its middle and its size, as shares of the picture."""

_LIMIT = 256 << 20  # bytes of a file of labels


@dataclass(frozen=True)
class Labelled:
    """Pictures and what they show.

    Attributes:
        names: Of the classes, in their order.
        labels: The name of each picture, by its path with "/" between folders; None is none of the names.
    """

    names: tuple[str, ...]
    labels: Mapping[str, str | None]

    def __post_init__(self) -> None:
        for image, label in self.labels.items():
            if label is not None and label not in self.names:
                raise InputError(f"{image} is labelled {label!r}, which is none of {len(self.names)} names")


def read_labels(path: Path) -> Labelled:
    """Read labels in any of the forms.

    Args:
        path: A file, or a folder that has YOLO's data.yaml, CVAT's annotations.xml, or one JSON file.

    Raises:
        InputError: It is of no such form, damaged, or says several things of one picture.
    """
    file = _in_folder(path) if path.is_dir() else path
    try:
        match file.suffix.lower():
            case ".csv" | ".tsv":
                return _of(_from_csv(file))
            case ".xml":
                return _from_cvat(file)
            case ".yaml" | ".yml":
                return _from_yolo(file)
            case _:
                content = parse_json(read_bytes(file, _LIMIT), str(file))
                return _of(_from_studio(content)) if isinstance(content, list) else _from_coco(content)
    except InputError as error:
        raise error if str(file) in str(error) else InputError(f"{file}: {error}") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{file} has no labels in a form we read ({what}): {', '.join(FORMS)}") from error


def written(form: str, found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    """Return labels as another program reads them: name, media type and content of a file.

    Args:
        form: One of `FORMS`.
        found: The labels.
        files: Where each picture is; COCO and CVAT need its size.

    Raises:
        InputError: A picture cannot be read, or two would have one label file of YOLO's.
    """
    return FORMS[form](found, files)


def _in_folder(folder: Path) -> Path:
    usual = [folder / name for name in ("data.yaml", "data.yml", "annotations.xml", "labels.csv")]
    found = [path for path in usual if path.is_file()] or sorted(folder.glob("*.json"))
    if len(found) != 1:
        what = f"{' and '.join(path.name for path in found)}: give the file" if found else "no file of labels"
        raise InputError(f"{folder} has {what}")
    return found[0]


def _of(pairs: Iterable[tuple[object, object]], names: Iterable[object] = ()) -> Labelled:
    """Gather labels; names that were not told before come in their order."""
    labels: dict[str, str | None] = {}
    known = dict.fromkeys(map(_named, names))
    for image, given in pairs:
        if not isinstance(image, str) or not image:
            raise InputError(f"a picture is called {image!r}: give its path")
        label = None if given is None else _named(given)
        if image in labels and labels[image] != label:
            raise InputError(f"{image} is labelled {labels[image]!r} and {label!r}: leave one")
        labels[image] = label
        if label is not None:
            known.setdefault(label)
    return Labelled(tuple(known), labels)


def _named(given: object) -> str:
    """Return the name of a class in its one way of writing."""
    name = clean_name(given) if isinstance(given, str) else ""
    if not name:
        raise InputError(f"a class is called {given!r}: give it a name")
    return name


def _one(image: object, labels: Iterable[object]) -> object:
    """Return the one label of a picture; None where it has none."""
    found = list(dict.fromkeys(labels))
    if len(found) > 1:
        raise InputError(f"{image} is labelled {found[0]!r} and {found[1]!r}: leave one")
    return found[0] if found else None


# --- CSV ---


def _to_csv(found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    """A picture that shows none of the names is left out: `fit` has nothing to learn from it."""
    rows = [
        (str(files.get(image, image)), label) for image, label in found.labels.items() if label is not None
    ]
    return "labels.csv", "text/csv", csv_text([("image", "label"), *rows]).encode()


def _from_csv(file: Path) -> Iterator[tuple[object, object]]:
    _, rows = read_csv(file)
    for _, row in rows:
        yield row["image"], row["label"] or None


# --- Label Studio ---


def _to_studio(found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    tasks: list[dict[str, Any]] = []
    for number, (image, label) in enumerate(found.labels.items(), 1):
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        result = [] if label is None else [choice]
        tasks.append({"id": number, "data": {"image": image}, "annotations": [{"result": result}]})
    return "label-studio.json", "application/json", _json(tasks)


def _from_studio(content: Any) -> Iterator[tuple[object, object]]:
    for task in content:
        image = _picture_of(task["data"])
        if "annotations" not in task:  # "JSON-MIN", or a task that nobody has seen yet
            continue
        kept = [one for one in task["annotations"] if not one.get("was_cancelled")]
        results = [result for one in kept for result in one["result"] if result.get("type") == "choices"]
        if kept:
            yield image, _one(image, [name for result in results for name in result["value"]["choices"]])


def _picture_of(data: Mapping[str, Any]) -> str:
    """Return the path of a task's picture, without what Label Studio puts before it."""
    given = data["image"] if "image" in data else next(iter(data.values()))
    path = cast("str", given).partition("?d=")[2] or cast("str", given)
    return path.removeprefix("/data/upload/")


# --- COCO ---


def _to_coco(found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, label) in enumerate(found.labels.items(), 1):
        (width, height), _ = measure(files[image])
        images.append({"id": number, "file_name": image, "width": width, "height": height})
        if label is not None:
            whole = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
            category = found.names.index(label) + 1
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": images[-1]["id"], "category_id": category, **whole})
    categories = [{"id": place, "name": name} for place, name in enumerate(found.names, 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    return "coco.json", "application/json", _json(content)


def _from_coco(content: Any) -> Labelled:
    names: dict[Any, object] = {one["id"]: one["name"] for one in content["categories"]}
    images: dict[Any, object] = {one["id"]: one["file_name"] for one in content["images"]}
    said: dict[Any, list[object]] = {number: [] for number in images}
    for one in content["annotations"]:
        said[one["image_id"]].append(names[one["category_id"]])
    pairs = ((images[number], _one(images[number], some)) for number, some in said.items())
    return _of(pairs, names.values())


# --- CVAT ---


def _to_cvat(found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(_below(root, "meta", "task"), "labels")
    for name in found.names:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (image, label) in enumerate(found.labels.items()):
        (width, height), _ = measure(files[image])
        told = {"id": str(number), "name": image, "width": str(width), "height": str(height)}
        own = ElementTree.SubElement(root, "image", told)
        if label is not None:
            ElementTree.SubElement(own, "tag", {"label": label, "source": "manual"})
    ElementTree.indent(root)
    content = cast("bytes", ElementTree.tostring(root, "utf-8", xml_declaration=True))
    return "annotations.xml", "application/xml", content


def _below(element: ElementTree.Element, *tags: str) -> ElementTree.Element:
    for tag in tags:
        element = ElementTree.SubElement(element, tag)
    return element


def _from_cvat(file: Path) -> Labelled:
    content = read_bytes(file, _LIMIT)
    if b"<!" in content.replace(b"<!--", b""):  # entities could grow, or name files
        raise InputError("it declares a document type: export it again from CVAT")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InputError(f"it is no XML ({error})") from error
    if root.tag != "annotations":
        raise InputError(f"it holds {root.tag!r}, not annotations: export it as CVAT for images 1.1")
    names = [one.text or "" for one in root.iterfind("meta//labels/label/name")]
    pairs: list[tuple[object, object]] = []
    for one in root.iterfind("image"):
        image = one.attrib["name"]
        pairs.append(
            (image, _one(image, [inner.attrib["label"] for inner in one if "label" in inner.attrib]))
        )
    return _of(pairs, names)


# --- YOLO ---


def _to_yolo(found: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    told = {"path": ".", "train": "train.txt", "val": "train.txt", "names": dict(enumerate(found.names))}
    parts = {
        "data.yaml": yaml.safe_dump(told, sort_keys=False, allow_unicode=True),
        "train.txt": "".join(f"./images/{image}\n" for image in found.labels),
    }
    for image, label in found.labels.items():
        own = f"labels/{PurePosixPath(image).with_suffix('.txt')}"
        if own in parts:
            raise InputError(f"two pictures would have one file {own}: rename {image}")
        parts[own] = "" if label is None else f"{found.names.index(label)} {WHOLE}\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())
    return "yolo.zip", "application/zip", packed.getvalue()


def _from_yolo(file: Path) -> Labelled:
    told = as_table(read_yaml(file))
    if told is None:
        raise InputError("it holds no table")
    given = told["names"]
    table = as_table(given)
    names = [str(one) for one in (table.values() if table is not None else given)]
    root = file.parent / str(told.get("path", "."))
    pairs: dict[object, object] = {}
    for split in ("train", "val", "test"):
        for image in _listed(root, told.get(split)):
            own = root / "labels" / PurePosixPath(image).with_suffix(".txt")
            if own.is_file():
                lines = [line.split() for line in read_text(own).splitlines() if line.strip()]
                pairs[image] = _one(image, [names[_row(line[0], len(names))] for line in lines])
    return _of(pairs.items(), names)


def _row(word: str, number: int) -> int:
    if not (word.isascii() and word.isdigit() and int(word[:9]) < number):
        raise InputError(f"class {word[:9]!r} is none of {number} names")
    return int(word)


def _listed(root: Path, places: object) -> Iterator[str]:
    """Yield the pictures of a split, by their paths below `images`."""
    for place in cast("list[object]", places) if isinstance(places, list) else [places] if places else []:
        here = root / str(place)
        found = [path.relative_to(root).as_posix() for path in list_pictures(here)] if here.is_dir() else []
        for line in read_text(here).splitlines() if here.is_file() else found:
            if line.strip():
                yield line.strip().removeprefix("./").removeprefix("images/")


def _json(content: object) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


FORMS: dict[str, Callable[[Labelled, Mapping[str, Path]], tuple[str, str, bytes]]] = {
    "csv": _to_csv,
    "label-studio": _to_studio,
    "coco": _to_coco,
    "cvat": _to_cvat,
    "yolo": _to_yolo,
}
"""What labels can be written as, by name."""
