"""Hashes of weight files are kept, and belong to the file as it is."""

import os
from pathlib import Path

import pytest
import torch

from foveate.clip import fingerprints
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip, save_clip
from foveate.files import cache_folder


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Clip]:
    """Return the models whose weights were hashed."""
    found: list[Clip] = []
    real = Clip._hash

    def counted(clip: Clip) -> str:
        found.append(clip)
        return real(clip)

    monkeypatch.setattr(Clip, "_hash", counted)
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def folder(tiny_clip: Clip, tmp_path: Path) -> Path:
    save_clip(tiny_clip, tmp_path / "clip")
    return tmp_path / "clip"


def test_a_file_is_hashed_once(hashed: list[Clip], folder: Path):
    first = load_clip(folder).fingerprint()
    assert load_clip(folder).fingerprint() == first
    assert load_clip(folder / "model.safetensors").fingerprint() == first  # the folder's settings are used
    assert len(hashed) == 1
    assert first == load_clip(folder)._hash()


def test_precision_is_part_of_it(hashed: list[Clip], folder: Path):
    whole, half = (load_clip(folder, dtype=dtype).fingerprint() for dtype in (None, torch.bfloat16))
    assert whole != half
    assert load_clip(folder, dtype=torch.bfloat16).fingerprint() == half
    assert len(hashed) == 2


def test_a_changed_file_is_hashed_again(hashed: list[Clip], folder: Path, tiny_clip: Clip, tmp_path: Path):
    path = folder / "model.safetensors"
    first, before = load_clip(folder).fingerprint(), path.stat()
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert load_clip(folder).fingerprint() != first
    assert len(hashed) == 2


def test_changed_tensors_are_hashed(hashed: list[Clip], folder: Path):
    first = load_clip(folder).fingerprint()
    clip = load_clip(folder)
    with torch.no_grad():
        clip.text.proj.add_(1)
    assert clip.fingerprint() != first
    assert load_clip(folder).fingerprint() == first


@pytest.mark.parametrize("held", [b"", b"not a hash", b"\xff" * 16, b"0123456789abcde\n"])
def test_what_is_kept_must_be_a_hash(hashed: list[Clip], folder: Path, tmp_path: Path, held: bytes):
    first = load_clip(folder).fingerprint()
    (kept,) = (tmp_path / "cache" / "fingerprints").iterdir()
    kept.write_bytes(held)
    assert load_clip(folder).fingerprint() == first


def test_nothing_is_kept_without_a_folder(
    hashed: list[Clip], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FOVEATE_CACHE", "")
    assert cache_folder(fingerprints.KIND) is None
    load_clip(folder).fingerprint()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "file"))  # a folder that cannot be made
    load_clip(folder).fingerprint()
    assert not (tmp_path / "cache").exists()
    assert len(hashed) == 2
