"""Few-shot draws as files: the drawn pictures of a set with a hash, to cite and share.

`make_draw` draws as CoOp does (`foveate.data.fewshot`), so its lists equal those of CoOp's code.
`import_draw` reads lists from other programs. Pictures are stored by their path relative to the set's
folder of pictures.

- The draw: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
"""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, cast

from foveate.clip.pickles import TensorUnpickler
from foveate.configs import as_dataclass
from foveate.data.fewshot import Draw, draw_shots
from foveate.data.naming import name_key
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import json_lines, parse_table, read_bytes

# Reads few-shot draws of other projects: CoOp's pickles and 2SFS's JSON lines.
#
# A pickle of CoOp is `{"train": [Datum, ...], "val": [...]}`. A `Datum` is an object of a Dassl class (or
# of a copy of it) with a path, a label and a class name. The pickle is read without imports and without
# executing code: it may only contain plain containers and such objects.
#
# - CoOp: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
# - 2SFS: Farina et al. 2025, https://arxiv.org/abs/2503.11609


_FIELDS = ("_impath", "_label", "_classname")


@dataclass(frozen=True)
class Foreign:
    """A picture of a foreign list.

    Attributes:
        path: Path as written, usually absolute on another machine.
        label: Label as written.
        name: Class name as written.
    """

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class ForeignDraw:
    """Content of a foreign list.

    Attributes:
        train: Training pictures, in order.
        val: Validation pictures, in order; empty for ImageNet.
    """

    train: tuple[Foreign, ...]
    val: tuple[Foreign, ...]


def read_foreign(path: Path) -> ForeignDraw:
    """Read a foreign draw.

    Raises:
        InputError: The file does not exist, has another format, or requests code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .pkl of CoOp's or a .jsonl of 2SFS's")
    if path.suffix.lower() == ".jsonl":
        return _read_lines(path)
    if path.suffix.lower() in (".pkl", ".pickle"):
        return _read_pickle(path)
    raise InputError(f"{path}: is neither a .pkl of CoOp's nor a .jsonl of 2SFS's")


def shots_and_seed(path: Path) -> tuple[int, int] | None:
    """Parse shots and seed from a name such as `shot_16-seed_1.pkl`; return None if it has another form."""
    match = re.match(r"shot_(\d+)-seed_(\d+)", path.name)
    return (int(match[1]), int(match[2])) if match else None


class _Datum:
    """Placeholder for a `Datum` in a pickle: stores its attributes and does nothing."""

    def __init__(self, *_: object, **__: object):
        self.attributes: dict[str, Any] = {}

    def __new__(cls, *_: object, **__: object) -> "_Datum":
        datum = super().__new__(cls)
        datum.attributes = {}
        return datum

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = cast("dict[str, Any]", state)


class _Refused(Exception):
    """The pickle requests an object that no list of pictures needs."""


class _DatumUnpickler(TensorUnpickler):
    """Unpickler for plain containers and `_Datum`; refuses all other objects."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.known.clear()

    def unknown(self, module: str, name: str) -> object:
        if name == "Datum":
            return type("_Datum", (_Datum,), {})  # one class for each pickle, which may set attributes on it
        raise _Refused(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("an object outside of it")


def _read_pickle(path: Path) -> ForeignDraw:
    try:
        content = _DatumUnpickler(io.BytesIO(path.read_bytes())).load()
    except _Refused as error:
        raise InputError(
            f"{path}: asks for {error}, which no list of pictures needs; it was not run, and is not read"
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"{path}: is damaged, or no pickle ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a table with train and val lists, as CoOp's code pickles them")
    table = cast("Mapping[object, object]", content)
    return ForeignDraw(*(_items(table.get(split, []), f"{path}, {split}") for split in ("train", "val")))


def _items(items: object, where: str) -> tuple[Foreign, ...]:
    if not isinstance(items, list):
        raise InputError(f"{where}: is no list of pictures")
    return tuple(
        _foreign(item.attributes if isinstance(item, _Datum) else item, f"{where}[{number}]")
        for number, item in enumerate(cast("Sequence[object]", items))
    )


def _foreign(state: object, where: str) -> Foreign:
    table = cast("Mapping[str, object]", state) if isinstance(state, dict) else {}
    match [table.get(field) for field in _FIELDS]:
        case [str(path), int(label), str(name)] if not isinstance(label, bool):
            return Foreign(path.replace("\\", "/"), label, name)
        case _:
            raise InputError(f"{where}: has no {', '.join(_FIELDS)}")


def _read_lines(path: Path) -> ForeignDraw:
    val = path.with_name(path.name.replace("_train.jsonl", "_val.jsonl"))
    return ForeignDraw(_lines(path), _lines(val) if val != path and val.is_file() else ())


def _lines(path: Path) -> tuple[Foreign, ...]:
    return tuple(_foreign(content, f"{path}, line {number}") for number, content in json_lines(path))


# Draws with a hash: made from a set, or imported from a foreign list.


SCHEMA = 1
_DEEPEST = 8

Drawn = tuple[tuple[str, int], ...]
"""Path and label of each picture, in the order of the draw."""


@dataclass(frozen=True)
class StoredDraw:
    """A few-shot draw.

    Attributes:
        dataset: Key of the set.
        shots: Maximum number of pictures of a class.
        seed: Seed of the draw.
        names: All class names of the set, in label order.
        train: The training pictures.
        val: The validation pictures; empty if the set has no val split.
        origin: Source of the draw: "foveate", or the file it was imported from.
    """

    dataset: str
    shots: int
    seed: int
    names: tuple[str, ...]
    train: Drawn
    val: Drawn = ()
    origin: str = "foveate"

    @property
    def hash(self) -> str:
        """Fingerprint of set, names, pictures, labels and their order; it does not include the origin."""
        state = (self.dataset, self.names, self.train, self.val)
        return hashlib.sha256(json.dumps(state, ensure_ascii=False).encode()).hexdigest()


def make_draw(photos: Photos, dataset: str, shots: int, seed: int) -> StoredDraw:
    """Draw from a set as CoOp does.

    Args:
        photos: The set with all classes, from `open_set`.
        dataset: Key of the set.
        shots: Number of pictures of a class.
        seed: Seed of the draw.

    Raises:
        InputError: There are no training pictures, or pictures are not files.
    """
    draw = draw_shots(photos, shots, seed)
    depth = _depth(photos)
    train, val = (tuple(_row(sample, depth) for sample in part.samples) for part in (draw.train, draw.val))
    return StoredDraw(dataset, shots, seed, photos.names, train, val)


def take_draw(photos: Photos, stored: StoredDraw) -> Draw:
    """Select the pictures of a stored draw from a set in any location.

    Raises:
        InputError: A picture is not in the set or has another label there, or the class names differ.
    """
    if photos.names != stored.names:
        raise InputError(_other_names(stored, photos.names))
    find = _Finder(photos)
    train = [find(path, label, "train") for path, label in stored.train]
    val = [find(path, label, "val") for path, label in stored.val]
    train_ids = {id(sample) for sample in train}
    rest = [candidate for candidate in photos.split("train", None).samples if id(candidate) not in train_ids]
    drawn = photos.with_samples(train)
    short = {name: number for name, number in drawn.counts().items() if number < stored.shots}
    return Draw(drawn, photos.with_samples(val), photos.with_samples(rest), short)


def import_draw(
    path: Path,
    photos: Photos,
    dataset: str,
    shots: int,
    seed: int,
    note: Callable[[str], None] | None = None,
) -> StoredDraw:
    """Read a draw pickled by CoOp's code, or a draw in 2SFS's JSON lines; no code in it is executed.

    Args:
        path: `shot_16-seed_1.pkl`, or `shot_16-seed_1_train.jsonl` (with its `_val` file, if it exists).
        photos: The set of the draw.
        dataset: Key of the set.
        shots: Number of pictures of a class.
        seed: Seed of the draw.
        note: Called with a message if class names of the file are spelled differently in the set, for
            instance with "_" instead of a space.

    Raises:
        InputError: The file is not such a list, requests code, or names pictures or classes that are not
            in the set.
    """
    foreign = read_foreign(path)
    if not foreign.train:
        raise InputError(f"{path}: holds no training pictures; is it a few-shot draw?")
    find, depth = _Finder(photos, str(path)), _depth(photos)
    parts: list[Drawn] = []
    for split, items in (("train", foreign.train), ("val", foreign.val)):
        samples = [find(item.path, _label(item, photos.names, path), split) for item in items]
        parts.append(tuple(_row(sample, depth) for sample in samples))
    _demand_shots(path, parts[0], photos, shots)
    names = {item.name: photos.names[item.label] for item in (*foreign.train, *foreign.val)}
    differing = [(theirs, ours) for theirs, ours in names.items() if theirs != ours]
    if differing and note is not None:
        theirs, ours = differing[0]
        note(
            f"{path.name}: {len(differing)} of {len(names)} class names are spelled otherwise there, such as"
            f" {theirs!r} for {ours!r}: '_' became a space, and case does not count"
        )
    return StoredDraw(dataset, shots, seed, photos.names, parts[0], parts[1], path.name)


def _demand_shots(path: Path, train: Drawn, photos: Photos, shots: int) -> None:
    """Check that a list has the given number of shots and no picture twice."""
    repeat = next((item for item, number in Counter(name for name, _ in train).items() if number > 1), None)
    if repeat is not None:
        raise InputError(f"{path}: {repeat} is in it twice, so it is no draw; get the list again")
    most = max(Counter(label for _, label in train).values())
    if most != min(shots, max(photos.split("train", None).counts().values())):
        raise InputError(f"{path}: is no draw of {shots} shots, it has up to {most} pictures of a class")


def write_draw(path: Path, draw: StoredDraw) -> None:
    """Write a draw with its hash, atomically."""
    text = json.dumps({"schema": SCHEMA, **asdict(draw), "hash": draw.hash}, indent=1, ensure_ascii=False)
    write_atomically(path, text + "\n")


def read_draw(path: Path) -> StoredDraw:
    """Read a draw.

    Raises:
        InputError: The file is not a draw, was written by a newer foveate version, or was edited.
    """
    try:
        values = parse_table(read_bytes(path), "it")
        newer, stored_hash = values.pop("schema") > SCHEMA, values.pop("hash")
        draw = None if newer else _from(values)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: is no few-shot draw ({error}); write one with foveate data draw"
        ) from error
    if draw is None:
        raise InputError(f"{path} was written by a newer foveate: upgrade, or draw anew")
    if draw.hash != stored_hash:
        raise InputError(
            f"{path}: its hash is {stored_hash!r} and should be {draw.hash!r}: it was edited; draw anew"
        )
    return draw


def _from(values: Mapping[str, Any]) -> StoredDraw:
    train, val = (tuple((str(path), int(label)) for path, label in values[part]) for part in ("train", "val"))
    scalars = {name: value for name, value in values.items() if name not in ("names", "train", "val")}
    if not all(0 <= label < len(values["names"]) for _, label in (*train, *val)):
        raise ValueError("a label is none of its classes")
    placeholders = {"names": values["names"], "train": [], "val": []}
    return replace(as_dataclass(StoredDraw, {**scalars, **placeholders}, "it"), train=train, val=val)


class _Finder:
    """Finds a picture of a set by the end of a path, ignoring the folders above.

    Args:
        photos: The set.
        where: The list that contains the paths, for messages.
    """

    def __init__(self, photos: Photos, where: str = "the draw"):
        self._where, self._names, self._depth = where, photos.names, _depth(photos)
        self._by_end = {_end(_parts(sample), self._depth): sample for sample in photos.samples}

    def __call__(self, path: str, label: int, split: str) -> Sample:
        """Return a picture.

        Raises:
            InputError: The picture is not in the set, or has another class or split there.
        """
        sample = self._by_end.get(_end(PurePosixPath(path).parts, self._depth))
        if sample is None:
            raise InputError(f"{self._where}: {path} is no picture of this set; is it of another set?")
        if sample.label != label:
            ours, theirs = self._names[sample.label], self._names[label]
            raise InputError(f"{self._where}: {path} is {theirs!r} there and {ours!r} in this set")
        if sample.split != split:
            raise InputError(
                f"{self._where}: {path} was drawn from {split} and is in {sample.split or 'no split'} here; "
                f"it was drawn from another split file"
            )
        return sample


def _depth(photos: Photos) -> int:
    """Return the number of trailing path parts that identify each picture of a set."""
    parts = [_parts(sample) for sample in photos.samples]
    for depth in range(2, _DEEPEST):  # folder and file are enough for all published sets
        if len({_end(path_parts, depth) for path_parts in parts}) == len(parts):
            return depth
    raise InputError(f"{photos.samples[0].name}: paths of this set's pictures do not tell them apart")


def _parts(sample: Sample) -> Sequence[str]:
    if not isinstance(sample.picture, Path):
        raise InputError(f"{sample.name}: it is no file, which a list could name")
    return sample.picture.parts


def _end(parts: Sequence[str], depth: int) -> str:
    return "/".join(parts[-depth:])


def _row(sample: Sample, depth: int) -> tuple[str, int]:
    return _end(_parts(sample), depth), sample.label


def _label(item: Foreign, names: Sequence[str], path: Path) -> int:
    """Check that a foreign class equals ours: another class order would give wrong names."""
    try:
        key = name_key(item.name)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if not 0 <= item.label < len(names) or name_key(names[item.label]) != key:
        ours = names[item.label] if 0 <= item.label < len(names) else "no class"
        raise InputError(
            f"{path}: class {item.label} is {item.name!r} there and {ours!r} in this set: its classes are "
            f"others, or in another order"
        )
    return item.label


def _other_names(stored: StoredDraw, names: Iterable[str]) -> str:
    same = sorted(stored.names) == sorted(names)
    how = "in another order" if same else "others"
    return f"the draw of {stored.dataset} was made among other classes: this set's are {how}; draw anew"
