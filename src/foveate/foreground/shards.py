"""Reads packed masks: a few tar files, and an index with the position of each mask.

A shard is a plain tar file: `proposer.json`, `manifest.jsonl` with the records of its own masks, then
their PNG files. With the index (`masks-index.npz`), a set of millions opens at once, and a mask needs
one read. A single shard is read without the index.
"""

import io
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, decode
from foveate.foreground.records import (
    HEAD,
    MANIFEST,
    MaskRecord,
    StoredMask,
    head_bytes,
    is_tame,
    read_head,
    read_lines,
)
from foveate.foreground.values import bounded_array
from foveate.readers import one_line

INDEX = "masks-index.npz"
SHARD = "masks-{:05}.tar"
BLOCK = 512  # block size of a tar file, in bytes
_REMEDY = "fetch that file again, or pack the masks again"
_UNKNOWN = -1  # no checksum: the shard was opened without the index


@dataclass(frozen=True, eq=False)
class Shards:
    """Positions of the masks in a packed set.

    Attributes:
        key: Settings of the masks.
        shards: The tar files.
        names: Names of the pictures.
        files: Paths of the masks in the original tree.
        shard: `[N]` index into `shards`.
        start: `[N]` offset of the first byte.
        length: `[N]` number of bytes.
        checksum: `[N]` CRC-32 of these bytes; -1 if unknown.
        fallback: `[N]` whether the mask is the whole picture, because no better one was found.
    """

    key: Mapping[str, object]
    shards: Sequence[Path]
    names: Sequence[str]
    files: Sequence[str]
    shard: Int64[np.ndarray, " masks"]
    start: Int64[np.ndarray, " masks"]
    length: Int64[np.ndarray, " masks"]
    checksum: Int64[np.ndarray, " masks"]
    fallback: Bool[np.ndarray, " masks"]

    def read(self, row: int) -> bytes:
        """Return the PNG file of a mask.

        Raises:
            BadPicture: The shard is missing, truncated or changed; the message names it.
        """
        path, length = self.shards[self.shard[row]], int(self.length[row])
        try:
            with path.open("rb") as file:  # opened for each read: safe in all threads and processes
                file.seek(int(self.start[row]))
                content = file.read(length)
        except OSError as error:
            raise BadPicture(str(path), f"cannot be read ({error.strerror})", _REMEDY) from error
        checksum = int(self.checksum[row])
        if len(content) != length or (checksum != _UNKNOWN and zlib.crc32(content) != checksum):
            raise BadPicture(str(path), f"is damaged where mask {self.files[row]} lies", _REMEDY)
        return content

    def masks(self) -> dict[str, "PackedMask"]:
        """Return the mask of each picture."""
        return {name: PackedMask(self, row) for row, name in enumerate(self.names)}


class PackedMask(StoredMask):
    """One mask of a packed set."""

    def __init__(self, shards: Shards, row: int) -> None:
        self._shards, self._row = shards, row

    @property
    def name(self) -> str:
        return self._shards.files[self._row]

    @property
    def fallback(self) -> bool:
        return bool(self._shards.fallback[self._row])

    def load(self) -> Image.Image:
        try:
            return decode(self._shards.read(self._row), self.name)
        except BadPicture as error:
            shard = str(self._shards.shards[self._shards.shard[self._row]])
            if error.name == shard:
                raise
            raise BadPicture(shard, f"is damaged where mask {self.name} lies", _REMEDY) from error


def is_packed(path: Path) -> bool:
    """Return whether a path is a folder of packed masks, or one shard.

    Raises:
        InputError: The folder has shards but no index.
    """
    if path.is_file():
        return path.suffix.lower() == ".tar"
    if (path / INDEX).is_file():
        return True
    if (path / SHARD.format(0)).is_file():
        raise InputError(
            f"{path} has packed masks, but no {INDEX}: packing has not finished, pack them again"
        )
    return False


def open_shards(path: Path) -> Shards:
    """Open a folder of packed masks, or one shard of it.

    Raises:
        InputError: The index or the shard is damaged, or its format is newer.
    """
    return _open_shard(path) if path.is_file() else _open_index(path)


def read_shard(path: Path) -> tuple[dict[str, object], list[MaskRecord]]:
    """Return the settings of a shard's masks, and their records.

    Raises:
        InputError: The file is damaged, or is not a shard.
    """
    with _open_tar(path) as tar:
        return _read_key_and_records(tar, path)


def write_index(shards: Shards) -> bytes:
    """Return the bytes of the index file."""
    arrays = {name: getattr(shards, name) for name in _ARRAYS}
    for name in ("names", "files"):
        arrays[name] = _packed_texts(getattr(shards, name))
    arrays["shards"] = _packed_texts([path.name for path in shards.shards])
    arrays["head"] = np.frombuffer(head_bytes(shards.key), np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _open_index(folder: Path) -> Shards:
    path = folder / INDEX
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _member(archive, name) for name in (*_ARRAYS, *_TEXTS, "head")}
        names, files, shards = (_texts(arrays[name]) for name in _TEXTS)
        numbers = {name: arrays[name].astype(bool if name == "fallback" else np.int64) for name in _ARRAYS}
        head = arrays["head"].tobytes()
    except Exception as error:  # numpy, zipfile and zlib raise their own errors
        raise InputError(f"{path} is damaged ({one_line(error)}); {_REMEDY}") from error
    shapes = {(len(names),), (len(files),), *(array.shape for array in numbers.values())}
    safe_names = all(is_tame(shard) and "/" not in shard for shard in shards)
    valid_positions = all(_within(numbers[name], 1 << 40) for name in ("start", "length"))
    if len(shapes) > 1 or not safe_names or not valid_positions or not _within(numbers["shard"], len(shards)):
        raise InputError(f"{path} is damaged (its parts do not fit together); {_REMEDY}")
    key = read_head(head, str(path))
    return Shards(key, [folder / shard for shard in shards], names, files, **numbers)


def _open_shard(path: Path) -> Shards:
    """Find each mask in a tar file by reading its headers."""
    with _open_tar(path) as tar:
        key, records = _read_key_and_records(tar, path)
        members = {
            member.name: (member.offset_data, member.size) for member in tar.getmembers() if member.isreg()
        }
    missing = [record.file for record in records if record.file not in members]
    if missing:
        raise InputError(f"{path} is damaged: it has no mask {missing[0]}; {_REMEDY}")
    positions = np.array([members[record.file] for record in records], np.int64).reshape(-1, 2)
    return Shards(
        key,
        [path],
        [record.name for record in records],
        [record.file for record in records],
        np.zeros(len(records), np.int64),
        positions[:, 0],
        positions[:, 1],
        np.full(len(records), _UNKNOWN, np.int64),
        np.array([record.fallback for record in records], bool),
    )


@contextmanager
def _open_tar(path: Path) -> Generator[tarfile.TarFile]:
    """Open a shard; any error, here or in the `with` block, becomes a one-line error."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except InputError:
        raise
    except Exception as error:  # tarfile raises its own errors, and others on invalid headers
        raise InputError(f"{path} is damaged, or no shard of masks ({one_line(error)}); {_REMEDY}") from error


def _read_key_and_records(tar: tarfile.TarFile, path: Path) -> tuple[dict[str, object], list[MaskRecord]]:
    contents: dict[str, bytes] = {}
    for name in (HEAD, MANIFEST):
        member = tar.next()
        if member is None or member.name != name or not member.isreg():
            raise InputError(f"{path} is no shard of masks: it does not begin with {HEAD} and {MANIFEST}")
        if member.offset_data + member.size > path.stat().st_size:
            raise InputError(f"{path} is damaged: {name} is larger than the whole file; {_REMEDY}")
        file = tar.extractfile(member)
        assert file is not None  # it is a regular file
        contents[name] = file.read()
    key = read_head(contents[HEAD], f"{path}, {HEAD}")
    records, _ = read_lines(contents[MANIFEST], f"{path}, {MANIFEST}")
    return key, list(records.values())


def _member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = bounded_array(file, _MAX_VALUES)
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} holds {array.dtype}, not whole numbers")
    return array


def _within(values: np.ndarray, limit: int) -> bool:
    return values.size == 0 or bool(values.min() >= 0 and values.max() < limit)


def _packed_texts(texts: Sequence[str]) -> np.ndarray:
    return np.frombuffer("\0".join(texts).encode(errors="surrogatepass"), np.uint8)


def _texts(array: np.ndarray) -> list[str]:
    content = array.tobytes().decode(errors="surrogatepass")
    return content.split("\0") if content else []


_ARRAYS = ("shard", "start", "length", "checksum", "fallback")
_TEXTS = ("names", "files", "shards")
_MAX_VALUES = 1 << 31  # maximum number of values in an array of an index
