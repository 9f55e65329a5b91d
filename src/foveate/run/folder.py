"""The folder of an exported model: its files, and a check that all are complete.

`export.json` is written last, and lists every other file with its size and its SHA-256.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Literal, cast

import numpy as np

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import sha256_of, write_atomically
from foveate.methods.configs import Position, TextKind
from foveate.prediction import PLAIN, Calibration
from foveate.readers import parse_table, read_bytes

MANIFEST, ARRAYS, TRUST, WEIGHTS, TOKENIZER, CARD = (
    *("export.json", "arrays.npz", "trust.npz", "weights.bin", "tokenizer.json", "README.md"),
)
FORMAT, VERSION = "foveate-export", 3


@dataclass(frozen=True)
class Texts:
    """How class texts are made.

    Attributes:
        kind: See `TextKind`.
        sentence: Sentence with one `{}`, if `kind` has one.
        prior_sentences: Sentences whose mean is a text of CLIP's prior; empty for methods without a prior.
        reference: Sentence of the zero-shot texts, for the novelty of new names; None if the shots are
            unknown.
        positions: Position of the name among the vectors, for each prompt.
        vectors: Number of learned vectors of a prompt.
        words: Token ids that stay between the vectors and the name.
    """

    kind: TextKind
    sentence: str = ""
    prior_sentences: list[str] = field(default_factory=list[str])
    reference: str | None = None
    positions: list[Position] = field(default_factory=list[Position])
    vectors: int = 0
    words: list[int] = field(default_factory=list[int])


@dataclass(frozen=True)
class Manifest:
    """Content of `export.json`.

    Attributes:
        method: Method, e.g. "fvgpt+coop".
        names: Names of the trained classes, in label order.
        image_size: Side of the square input of the image tower, in pixels.
        mean: Channel means of a picture in [0, 1].
        std: Channel standard deviations.
        context: Maximum length of a text in tokens, including SOT and EOT.
        texts: How class texts are made.
        closed: Whether the learned logits are only of trained classes; other names have CLIP's logits.
        new: Head for new names.
        mixed: Head for trained and new names together; "route" mixes both heads.
        route_weight: Weight of the base head in that mixture.
        calibration: Calibration from logits to probabilities.
        plain_temperature: Lower bound of the temperature for names that were not trained.
        calibrated: Whether probabilities are calibrated, so that predictions have a `doubt`.
        precision: Precision of the towers' weights: "float32" or "int8".
        clip: Source of the towers.
        fingerprint: Hash of the towers' weights.
        licence: Licence of the towers and the pictures, as given at the export.
        added: Names that were added after the export.
        proof: Results of the comparison at the export: pictures, answers, and the largest difference.
        foveate: Version of foveate that wrote it.
        files: Size and SHA-256 of each other file.
    """

    method: str
    names: list[str]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    context: int
    texts: Texts
    closed: bool = False
    new: Literal["base", "new"] = "new"
    mixed: Literal["base", "new", "route"] = "new"
    route_weight: float = 1.0
    calibration: Calibration = PLAIN
    plain_temperature: float = 1.0
    calibrated: bool = False
    precision: Literal["float32", "int8"] = "float32"
    clip: str = ""
    fingerprint: str = ""
    licence: str = ""
    added: list[str] = field(default_factory=list[str])
    proof: dict[str, Any] = field(default_factory=dict[str, Any])
    foveate: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


def find_export(
    source: str | Path, clip: str | None = None, device: str = "cpu", dtype: str | None = None
) -> Path | None:
    """Return the folder of an export; None if the source is anything else.

    Args:
        source: The user's name for the model.
        clip: Other CLIP weights that the user gave; an export cannot use them.
        device: Device that the user gave.
        dtype: Precision that the user gave, if any.

    Raises:
        InputError: The source is an export, and other weights, another device or a precision were given.
    """
    folder = Path(source).expanduser()
    if not (folder / MANIFEST).is_file() and not any(folder.glob("*.onnx")):
        return None
    if clip is not None:
        raise InputError(f"{folder} is an export, which has its CLIP inside: leave out --clip")
    if device != "cpu":
        raise InputError(f"{folder} is an export, which answers on the CPU: leave out --device {device}")
    if dtype is not None:
        raise InputError(f"{folder} is an export, which has its own precision: leave out --dtype {dtype}")
    return folder


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of an export folder, and check the other files against it.

    Raises:
        InputError: The folder is no export, or of another format version, or a file is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} has no {MANIFEST}: give a folder that `foveate export` wrote")
    try:
        values = parse_table(read_bytes(path), MANIFEST)
        if values.pop("format", None) != FORMAT:
            raise InputError("it is none of foveate's")
        version = values.pop("format_version", None)
        if version != VERSION:
            raise InputError(f"its format is {version!r}, and this foveate reads {VERSION}")
        texts = as_dataclass(Texts, values.pop("texts", None), "texts")
        manifest = as_dataclass(Manifest, {**values, "texts": texts}, "")
        for name in manifest.files:
            if PureWindowsPath(name).name != name:  # / and \\ both separate
                raise InputError(f"it names {name!r}, outside its folder")
    except InputError as error:
        raise InputError(f"{path} cannot be used ({error}): export the model again") from error
    for name, expected in manifest.files.items():
        _demand_whole(folder / name, expected)
    return manifest


def _demand_whole(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path} is missing: export the model again, or copy the whole folder")
    if seal(path) != expected:
        raise InputError(f"{path} is not what was exported: export the model again, or copy the whole folder")


def seal(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder, after all other files; its `files` are computed from them."""
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    content = {**asdict(manifest), "files": {path.name: seal(path) for path in paths}}
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **content}, indent=2, ensure_ascii=False)
    write_atomically(folder / MANIFEST, text + "\n")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays of an export folder; no code in it is executed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the model again") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of arrays for `read_arrays`."""
    buffer = io.BytesIO()
    np.savez(buffer, **cast("dict[str, Any]", arrays))
    write_atomically(path, buffer.getvalue())
