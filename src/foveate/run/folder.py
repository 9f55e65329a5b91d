"""The folder of an exported model: what is in it, and whether all of it is there.

`export.json` is written last, and names every other file with its size and its SHA-256.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import write_atomically
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
        sentence: With one `{}`, where `kind` has a sentence.
        prior_sentences: Whose mean is a text of CLIP's prior; none for methods that do not ask it.
        reference: Of the texts that new names are held against, to tell how ill they fit a picture; None
            where nothing is known of the shots.
        positions: Of each prompt, where the name stands among its vectors.
        vectors: How many learned vectors a prompt has.
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
    """What `export.json` says.

    Attributes:
        method: E.g. "fvgpt+coop".
        names: Of the classes that were trained on, in label order.
        image_size: Side of the square that the image tower sees.
        mean: Channel means of a picture in [0, 1].
        std: Channel deviations.
        context: Longest text in tokens, SOT and EOT included.
        texts: How class texts are made.
        closed: Whether learned rows belong to the trained classes, so that other names are CLIP's alone.
        new: Which head answers about new names.
        mixed: Which head answers about trained and new names together; "route" mixes both.
        route_weight: Of the base head in that mixture.
        calibration: What makes probabilities of logits.
        plain_temperature: The least one for names that were not trained.
        calibrated: Whether probabilities are calibrated, so that predictions have a `doubt`.
        precision: Of the towers' weights: "float32" or "int8".
        clip: Where the towers came from.
        fingerprint: Hash of the towers' weights.
        licence: Of the towers and the pictures, as whoever exported it says.
        added: Names that were added after the export.
        proof: What was compared at the export: pictures, answers, and the largest difference.
        foveate: Version that wrote it.
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
        source: What the user calls the model.
        clip: Other weights of CLIP, which an export has no use for.
        device: Where the user wants the towers.
        dtype: The precision that the user wants; None takes what there is.

    Raises:
        InputError: It is an export, and there are other weights, another device or another precision.
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
    """Read an export folder's manifest, and look whether the other files are as it says.

    Raises:
        InputError: It is no export folder, one of a newer foveate, or a file is missing or damaged.
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
    except InputError as error:
        raise InputError(f"{path} cannot be used ({error}): export the model again") from error
    for name, held in manifest.files.items():
        _demand_whole(folder / name, held)
    return manifest


def _demand_whole(path: Path, held: Mapping[str, Any]) -> None:
    if path.name != Path(path.name).name or not path.is_file():
        raise InputError(f"{path} is missing: export the model again, or copy the whole folder")
    if seal(path) != held:
        raise InputError(f"{path} is not what was exported: export the model again, or copy the whole folder")


def seal(path: Path) -> dict[str, Any]:
    """Return a file's size in bytes and its SHA-256."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder in which all else is written; its `files` are found anew."""
    others = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    held = {**asdict(manifest), "files": {path.name: seal(path) for path in others}}
    text = json.dumps({"format": FORMAT, "format_version": VERSION, **held}, indent=2, ensure_ascii=False)
    write_atomically(folder / MANIFEST, text + "\n")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a file of arrays of an export folder; no code in it is run."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): export the model again") from error


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write such a file."""
    packed = io.BytesIO()
    np.savez(packed, **cast("dict[str, Any]", arrays))
    write_atomically(path, packed.getvalue())
