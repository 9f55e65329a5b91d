"""Reads and writes labels of whole pictures in the forms of other programs.

| form | what it is |
|---|---|
| csv | `image,label`, which `foveate fit` reads |
| label-studio | Label Studio's JSON: tasks with choices |
| coco | COCO's JSON: a box around the whole picture, of the category |
| cvat | "CVAT for images 1.1": XML with a tag for each picture |
| yolo | data.yaml, train.txt and labels/*.txt: a box around the whole picture |

A picture of no class has an annotation without a result (Label Studio), an image without an annotation or tag
(COCO, CVAT), or an empty file (YOLO). Boxes of different classes in one picture are refused: they do not
label the whole picture.
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
from foveate.errors import InputError
from foveate.foreground.pictures import measure
from foveate.readers import as_table, csv_text, parse_json, read_bytes, read_csv, read_text, read_yaml

WHOLE = "0.5 0.5 1 1"
"""YOLO's box around the whole picture: centre x and y, width and height, as shares of the picture."""

_LIMIT = 256 << 20  # maximum size of a label file, in bytes


@dataclass(frozen=True)
class Labelled:
    """Pictures and what they show.

    Attributes:
        names: Class names, in order.
        labels: Class name of each picture, by its path with "/" between folders; None for no class.
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
        InputError: The file is damaged or of no such form, or a picture has several labels.
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
        cause = f"{type(error).__name__}: {error}"
        raise InputError(f"{file} has no labels in a form we read ({cause}): {', '.join(FORMS)}") from error


def written(form: str, labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    """Return labels as another program reads them: name, media type and content of a file.

    Args:
        form: One of `FORMS`.
        labelled: The labels.
        files: Where each picture is; COCO and CVAT need its size.

    Raises:
        InputError: A picture cannot be read, or two pictures would share a label file of YOLO.
    """
    return FORMS[form](labelled, files)


def _in_folder(folder: Path) -> Path:
    candidates = [folder / name for name in ("data.yaml", "data.yml", "annotations.xml", "labels.csv")]
    files = [path for path in candidates if path.is_file()] or sorted(folder.glob("*.json"))
    if len(files) != 1:
        what = f"{' and '.join(path.name for path in files)}: give the file" if files else "no file of labels"
        raise InputError(f"{folder} has {what}")
    return files[0]


def _of(pairs: Iterable[tuple[object, object]], names: Iterable[object] = ()) -> Labelled:
    """Collect labels; names that are not in `names` are added in order of appearance."""
    labels: dict[str, str | None] = {}
    known = dict.fromkeys(map(_named, names))
    for image, value in pairs:
        if not isinstance(image, str) or not image:
            raise InputError(f"a picture is called {image!r}: give its path")
        label = None if value is None else _named(value)
        if image in labels and labels[image] != label:
            raise InputError(f"{image} is labelled {labels[image]!r} and {label!r}: leave one")
        labels[image] = label
        if label is not None:
            known.setdefault(label)
    return Labelled(tuple(known), labels)


def _named(value: object) -> str:
    """Return the cleaned name of a class."""
    name = clean_name(value) if isinstance(value, str) else ""
    if not name:
        raise InputError(f"a class is called {value!r}: give it a name")
    return name


def _one(image: object, labels: Iterable[object]) -> object:
    """Return the single label of a picture; None if it has none."""
    distinct = list(dict.fromkeys(labels))
    if len(distinct) > 1:
        raise InputError(f"{image} is labelled {distinct[0]!r} and {distinct[1]!r}: leave one")
    return distinct[0] if distinct else None


# --- CSV ---


def _to_csv(labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    """Write `image,label`; pictures of no class are left out, because `fit` cannot learn from them."""
    rows = [
        (str(files.get(image, image)), label) for image, label in labelled.labels.items() if label is not None
    ]
    return "labels.csv", "text/csv", csv_text([("image", "label"), *rows]).encode()


def _from_csv(file: Path) -> Iterator[tuple[object, object]]:
    _, rows = read_csv(file)
    for _, row in rows:
        yield row["image"], row["label"] or None


# --- Label Studio ---


def _to_studio(labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    tasks: list[dict[str, Any]] = []
    for number, (image, label) in enumerate(labelled.labels.items(), 1):
        choice = {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
        result = [] if label is None else [choice]
        tasks.append({"id": number, "data": {"image": image}, "annotations": [{"result": result}]})
    return "label-studio.json", "application/json", _json(tasks)


def _from_studio(content: Any) -> Iterator[tuple[object, object]]:
    for task in content:
        image = _picture_of(task["data"])
        if "annotations" not in task:  # "JSON-MIN", or a task without an annotation yet
            continue
        annotations = [entry for entry in task["annotations"] if not entry.get("was_cancelled")]
        results = [
            result for entry in annotations for result in entry["result"] if result.get("type") == "choices"
        ]
        if annotations:
            yield image, _one(image, [name for result in results for name in result["value"]["choices"]])


def _picture_of(data: Mapping[str, Any]) -> str:
    """Return the path of a task's picture, without Label Studio's prefix."""
    value = data["image"] if "image" in data else next(iter(data.values()))
    path = cast("str", value).partition("?d=")[2] or cast("str", value)
    return path.removeprefix("/data/upload/")


# --- COCO ---


def _to_coco(labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (image, label) in enumerate(labelled.labels.items(), 1):
        (width, height), _ = measure(files[image])
        images.append({"id": image_id, "file_name": image, "width": width, "height": height})
        if label is not None:
            box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
            category = labelled.names.index(label) + 1
            annotation_id = len(annotations) + 1
            annotations.append(
                {"id": annotation_id, "image_id": images[-1]["id"], "category_id": category, **box}
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(labelled.names, 1)]
    content = {"images": images, "categories": categories, "annotations": annotations}
    return "coco.json", "application/json", _json(content)


def _from_coco(content: Any) -> Labelled:
    names: dict[Any, object] = {category["id"]: category["name"] for category in content["categories"]}
    images: dict[Any, object] = {image["id"]: image["file_name"] for image in content["images"]}
    labels_of: dict[Any, list[object]] = {image_id: [] for image_id in images}
    for annotation in content["annotations"]:
        labels_of[annotation["image_id"]].append(names[annotation["category_id"]])
    pairs = ((images[image_id], _one(images[image_id], labels)) for image_id, labels in labels_of.items())
    return _of(pairs, names.values())


# --- CVAT ---


def _to_cvat(labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(_below(root, "meta", "task"), "labels")
    for name in labelled.names:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (image, label) in enumerate(labelled.labels.items()):
        (width, height), _ = measure(files[image])
        attributes = {"id": str(number), "name": image, "width": str(width), "height": str(height)}
        element = ElementTree.SubElement(root, "image", attributes)
        if label is not None:
            ElementTree.SubElement(element, "tag", {"label": label, "source": "manual"})
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
    names = [label.text or "" for label in root.iterfind("meta//labels/label/name")]
    pairs: list[tuple[object, object]] = []
    for element in root.iterfind("image"):
        image = element.attrib["name"]
        pairs.append(
            (image, _one(image, [child.attrib["label"] for child in element if "label" in child.attrib]))
        )
    return _of(pairs, names)


# --- YOLO ---


def _to_yolo(labelled: Labelled, files: Mapping[str, Path]) -> tuple[str, str, bytes]:
    config = {"path": ".", "train": "train.txt", "val": "train.txt", "names": dict(enumerate(labelled.names))}
    texts = {
        "data.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        "train.txt": "".join(f"./images/{image}\n" for image in labelled.labels),
    }
    for image, label in labelled.labels.items():
        label_path = f"labels/{PurePosixPath(image).with_suffix('.txt')}"
        if label_path in texts:
            raise InputError(f"two pictures would have one file {label_path}: rename {image}")
        texts[label_path] = "" if label is None else f"{labelled.names.index(label)} {WHOLE}\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name), text.encode())
    return "yolo.zip", "application/zip", buffer.getvalue()


def _from_yolo(file: Path) -> Labelled:
    config = as_table(read_yaml(file))
    if config is None:
        raise InputError("it holds no table")
    raw_names = config["names"]
    table = as_table(raw_names)
    names = [str(name) for name in (table.values() if table is not None else raw_names)]
    root = file.parent / str(config.get("path", "."))
    pairs: dict[object, object] = {}
    for split in ("train", "val", "test"):
        for image in _listed(root, config.get(split)):
            label_file = root / "labels" / PurePosixPath(image).with_suffix(".txt")
            if label_file.is_file():
                lines = [line.split() for line in read_text(label_file).splitlines() if line.strip()]
                pairs[image] = _one(image, [names[_row(line[0], len(names))] for line in lines])
    return _of(pairs.items(), names)


def _row(word: str, number: int) -> int:
    if not (word.isascii() and word.isdigit() and int(word[:9]) < number):
        raise InputError(f"class {word[:9]!r} is none of {number} names")
    return int(word)


def _listed(root: Path, entries: object) -> Iterator[str]:
    """Yield the pictures of a split, as paths relative to `images`."""
    for entry in cast("list[object]", entries) if isinstance(entries, list) else [entries] if entries else []:
        source = root / str(entry)
        pictures = (
            [path.relative_to(root).as_posix() for path in list_pictures(source)] if source.is_dir() else []
        )
        for line in read_text(source).splitlines() if source.is_file() else pictures:
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
"""Functions that write labels, by name of the form."""
