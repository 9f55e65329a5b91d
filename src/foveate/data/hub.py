"""Reads Hugging Face datasets by interface; `datasets` is imported only to load a dataset by name."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from foveate.data.naming import clean_names, read_split
from foveate.data.samples import LazyPicture, Photos, Sample
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, decode


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
