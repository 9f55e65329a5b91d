"""Loads labelled photos from folders, lists, split files and datasets."""

import codecs
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from PIL import Image

from foveate.data.folders import class_folders, read_folder
from foveate.data.naming import clean_names, read_split
from foveate.data.samples import LazyPicture, Photos, Sample, as_pictures
from foveate.data.tables import TABLES, find_split_file, has_labels, read_split_file, read_table
from foveate.errors import InputError
from foveate.files import home_of
from foveate.foreground.matching import MASK_FOLDERS, demand_masks, find_masks
from foveate.foreground.opening import BadPicture, decode
from foveate.foreground.options import MaskValues
from foveate.foreground.values import detect_values

# Reads Hugging Face datasets by interface; `datasets` is imported only to load a dataset by name.


@runtime_checkable
class HubRows(Protocol):
    """Interface of `datasets.Dataset` that is used: typed columns, and rows by number."""

    @property
    def features(self) -> Any:
        """Types of the columns, by name."""
        ...

    def __getitem__(self, key: int, /) -> Any: ...

    def __len__(self) -> int: ...


class RowPicture(LazyPicture):
    """Picture in one column of one row."""

    def __init__(self, rows: HubRows, row: int, column: str, name: str) -> None:
        self._rows, self._row, self._column, self._name = rows, row, column, name

    @property
    def name(self) -> str:
        return self._name

    def load(self) -> Image.Image:
        value: Any = self._rows[self._row][self._column]
        if isinstance(value, dict) and value.get("bytes"):  # the column is not decoded
            value = value["bytes"]
        if isinstance(value, bytes):
            return decode(value, self._name)
        if not isinstance(value, Image.Image):
            reason = f"holds {type(value).__name__}, no picture; decode the column first"
            raise BadPicture(self._name, reason)
        return value


def read_rows(source: HubRows | Mapping[str, HubRows], columns: Mapping[str, str] | None = None) -> Photos:
    """Read a dataset, or a mapping from split names to datasets.

    Args:
        source: A dataset, or a mapping such as `{"train": ..., "test": ...}`.
        columns: Names of the columns for "image", "label" and "mask", if they cannot be guessed.

    Raises:
        InputError: There is no picture or label column, rows have no label, or the splits' classes
            differ.
    """
    splits = {None: source} if isinstance(source, HubRows) else _by_split(source)
    if not any(len(rows) for rows in splits.values()):
        raise InputError("the dataset has no rows")
    first = next(iter(splits.values()))
    image, label, mask = _columns(first.features, columns or {})
    if any(_class_names(rows, label) != _class_names(first, label) for rows in splits.values()):
        raise InputError(
            f"the splits have different classes in column {label!r}; give them one list of classes"
        )
    labels = {split: _column(rows, label) for split, rows in splits.items()}
    names, to_label = _names(
        _class_names(first, label), [value for split_labels in labels.values() for value in split_labels]
    )
    samples: list[Sample] = []
    for split, rows in splits.items():
        for row, value in enumerate(labels[split]):
            where = f"{split or 'rows'}/{row}"
            if value not in to_label:
                raise InputError(
                    f"{where}: label {value!r} is none of the classes; leave unlabelled rows out"
                )
            row_mask = RowPicture(rows, row, mask, f"{where}/{mask}") if mask else None
            picture = RowPicture(rows, row, image, f"{where}/{image}")
            samples.append(Sample(picture, to_label[value], row_mask, split))
    return Photos(names, tuple(samples))


def _by_split(source: Mapping[str, HubRows]) -> dict[str | None, HubRows]:
    return {read_split(key, "dataset"): rows for key, rows in source.items()}


def load_from_hub(name: str) -> Any:
    """Load a dataset by name.

    Raises:
        InputError: The package `datasets` is missing, or cannot load this dataset.
    """
    try:
        from datasets import load_dataset  # pyright: ignore
    except ImportError as error:
        raise InputError(f"hf:{name} needs the package datasets; pip install 'foveate[hf]'") from error
    try:
        return load_dataset(name)
    except Exception as error:  # network, hub and dataset builders raise their own errors
        raise InputError(f"hf:{name} cannot be loaded ({error})".replace("\n", " ")) from error


def _columns(features: Mapping[str, Any], chosen: Mapping[str, str]) -> tuple[str, str, str | None]:
    for meaning, column in chosen.items():
        if column not in features:
            raise InputError(f"no column {column!r} for {meaning}; there are {', '.join(features)}")
    picture_columns = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    class_columns = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    mask = chosen.get("mask") or next((name for name in picture_columns if name in ("mask", "masks")), None)
    image_columns = [name for name in picture_columns if name != mask]
    image = chosen.get("image") or _guess_column("picture", "image", image_columns, ("image", "img"))
    label_columns = [name for name in ("label", "labels") if name in features]
    label = chosen.get("label") or _guess_column(
        "class label", "label", class_columns or label_columns, ("label", "labels")
    )
    return image, label, mask


def _guess_column(what: str, meaning: str, columns: Sequence[str], common_names: Sequence[str]) -> str:
    preferred = [name for name in common_names if name in columns]
    if preferred:
        return preferred[0]
    if len(columns) != 1:
        listed = ", ".join(columns) or "none"
        raise InputError(f"which column is the {what}? found {listed}; pass columns={{'{meaning}': ...}}")
    return columns[0]


def _column(rows: HubRows, name: str) -> list[Any]:
    try:
        return list(rows[name])  # pyright: ignore  reads the column without decoding pictures
    except (TypeError, KeyError, IndexError):
        return [rows[row][name] for row in range(len(rows))]


def _class_names(rows: HubRows, label: str) -> list[str] | None:
    """Return the names of a ClassLabel column; None for a column of plain strings or numbers."""
    return getattr(rows.features.get(label), "names", None)


def _names(class_names: list[str] | None, values: Sequence[Any]) -> tuple[tuple[str, ...], dict[Any, int]]:
    try:
        order: list[Any] = list(range(len(class_names))) if class_names else sorted(set(values))
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values})
        raise InputError(
            f"the dataset's labels are of the types {', '.join(kinds)}: give texts or numbers"
        ) from error
    names_by_value = {str(value): str(class_names[value]) if class_names else str(value) for value in order}
    names = clean_names(names_by_value, "dataset")
    return names, {value: row for row, value in enumerate(order)}


# Loads photos, and their masks, from any source.


HUB = "hf:"
Source = str | Path | Photos | HubRows | Mapping[str, HubRows]


def load_photos(
    source: Source,
    *,
    masks: str | Path | None = None,
    images: str | Path | None = None,
    mask_values: MaskValues = "auto",
    invert_masks: bool = False,
    columns: Mapping[str, str] | None = None,
) -> Photos:
    """Read a labelled set of pictures.

    Args:
        source: A folder with one subfolder for each class; a folder with one split file; a `.csv`,
            `.tsv` or `.jsonl` list; a `split_zhou_*.json`; a Hugging Face dataset or a mapping of splits
            to datasets; "hf:owner/name"; or photos that are loaded already.
        masks: The folder of masks or of packed masks; one shard of packed masks (`.tar`); a COCO file
            (`.json`); boxes (`.csv`). None searches the usual places of the source.
        images: Base folder of relative paths in a list or split file.
        mask_values: Meaning of the values in masks; "auto" infers it from some of them.
        invert_masks: Whether masks mark the background.
        columns: The source's own column names, e.g. `{"image": "img", "label": "fine_label"}`.

    Returns:
        The photos. If any photo has a mask, `mask_values` is not "auto".

    Raises:
        InputError: The source is unusable; the message is one line.
    """
    tree = None if masks is None else full_path(masks)
    if tree is not None:
        demand_masks(tree)
    pictures = None if images is None else full_path(images)
    photos, top, found_tree = _read(source, tree, pictures, columns)
    if tree is not None:
        photos = _attach(photos, top, tree, required=True)
    elif found_tree is not None:
        photos = _attach(photos, top, found_tree, required=False)
    photos = replace(photos, mask_values=_values(photos, mask_values))
    return replace(photos, invert_masks=invert_masks or photos.invert_masks)


def with_masks(photos: Photos, masks: Any) -> Photos:
    """Return pictures with masks; a picture without a matching mask keeps its own, if it has one.

    Args:
        photos: The pictures.
        masks: Masks on disk, as for `load_photos`; or one mask for each picture, as for `as_pictures`.

    Raises:
        InputError: No mask on disk matches a picture, or there are more or fewer masks than pictures.
    """
    if isinstance(masks, str | os.PathLike):
        return load_photos(photos, masks=cast("str | Path", masks))
    mask_sources = as_pictures(masks)
    if len(mask_sources) != len(photos):
        raise InputError(
            f"there are {len(photos)} pictures and {len(mask_sources)} masks: give one mask a picture"
        )
    samples = [replace(sample, mask=mask) for sample, mask in zip(photos.samples, mask_sources, strict=True)]
    return replace(photos.with_samples(samples), mask_values=detect_values(mask_sources))


def _read(
    source: Source, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    """Return the photos, the folder their paths are relative to, and the mask tree next to them."""
    if isinstance(source, Photos):
        return source, None, None
    if isinstance(source, str | os.PathLike):
        if str(source).startswith(HUB):
            return read_rows(load_from_hub(str(source).removeprefix(HUB)), columns), None, None
        return _read_path(full_path(source), masks, images, columns)
    if isinstance(source, HubRows) or (isinstance(source, Mapping) and source):
        return read_rows(source, columns), None, None
    raise InputError(
        f"the data is of type {type(source).__name__}: give a folder, a list, pictures with a"
        " list of their labels, a Hugging Face dataset, or a mapping of splits to such"
    )


def _read_path(
    path: Path, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    try:
        if path.is_dir():
            return _read_dir(path, masks, images, columns)
        is_file, exists = path.is_file(), path.exists()
    except OSError as error:  # a name that no file can have
        raise InputError(f"{path}: {error.strerror}") from error
    if not is_file:
        raise InputError(f"{path}: {'is a pipe or a device' if exists else 'no such file or folder'}")
    is_json = path.suffix.lower() == ".json"
    if path.suffix.lower() in TABLES or (is_json and _holds_a_list(path)):
        return read_table(path, images, columns), images or path.parent, None
    if is_json:
        return _read_split(path, images)
    formats = ", ".join((*TABLES, ".json"))
    raise InputError(f"{path}: not a list we read; give a folder per class, or a file ending in {formats}")


def _holds_a_list(path: Path) -> bool:
    """Return whether a JSON file begins as a list, without parsing it: split files of large sets are long."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")
    except OSError:  # the reader reports it
        return False


def _read_dir(
    path: Path, masks: Path | None, images: Path | None, columns: Mapping[str, str] | None
) -> tuple[Photos, Path | None, Path | None]:
    """Read a folder: by its split file, or, if it has no class folders, by its single list of labels."""
    split_file = find_split_file(path)
    if split_file is not None:
        return _read_split(split_file, images)
    if len(class_folders(path)) < 2:
        lists = [p for p in sorted(path.iterdir()) if p.suffix.lower() in TABLES and has_labels(p)]
        if len(lists) == 1:
            warnings.warn(f"{path} has no class folders: its list {lists[0].name} is read", stacklevel=4)
            return read_table(lists[0], images, columns), images or path, None
    return read_folder(path, masks)


def _read_split(path: Path, images: Path | None) -> tuple[Photos, Path, Path | None]:
    """Read a split file; search masks beside it, beside its pictures and, as in FVG-PT, one folder up."""
    photos, top = read_split_file(path, images)
    for folder in dict.fromkeys((path.parent, top.parent, path.parent.parent)):
        for name in MASK_FOLDERS:
            if (folder / name).is_dir() and (folder / name) != top:
                return photos, top, folder / name
    return photos, top, None


def _attach(photos: Photos, top: Path | None, tree: Path, *, required: bool) -> Photos:
    """Attach masks from a tree to all pictures that are files."""
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    if not paths:
        raise InputError(
            f"{tree}: these pictures are no files, so no mask file can be matched to them by name"
        )
    if top is None or not all(path.is_relative_to(top) for path in paths):
        top = Path(os.path.commonpath([path.parent for path in paths]))
    masks = find_masks([(path, path.relative_to(top)) for path in paths], tree)
    if required and not any(masks):
        name = paths[0].relative_to(top)
        example = (tree / name).with_suffix(".png") if tree.is_dir() else name
        raise InputError(f"{tree}: no mask in it matches a picture; expected, for instance, {example}")
    by_path = dict(zip(paths, masks, strict=True))
    samples = [
        replace(sample, mask=by_path[sample.picture] or sample.mask)
        if isinstance(sample.picture, Path)
        else sample
        for sample in photos.samples
    ]
    return photos.with_samples(samples)


def _values(photos: Photos, requested: MaskValues) -> MaskValues:
    if requested != "auto" or photos.mask_values != "auto":
        return photos.mask_values if requested == "auto" else requested
    masks = [sample.mask for sample in photos.samples if sample.mask is not None]
    return detect_values(masks) if masks else "auto"


def full_path(path: str | os.PathLike[str]) -> Path:
    """Return an absolute path without `~` and `..`; links stay, because their names may be classes.

    Raises:
        InputError: It is no path, or an empty one.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"{path!r} is of type {type(path).__name__}: give a path")
    if not str(path).strip():
        raise InputError("an empty path was given: give a folder per class, or a list of pictures")
    return Path(os.path.normpath(home_of(path).absolute()))
