"""Nobody ever sees half a file."""

import os
from pathlib import Path

import pytest

from foveate.files import set_aside, write_atomically


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"\x00\xffbytes\r\n", b"\x00\xffbytes\r\n"), ("τ = 2\n", "τ = 2\n".encode()), ("", b"")],
)
def test_the_content_arrives_byte_for_byte(tmp_path: Path, content: bytes | str, expected: bytes):
    write_atomically(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == expected
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208


def test_a_file_set_aside_replaces_no_other(tmp_path: Path):
    path = tmp_path / "file"
    for content in ("first", "second"):
        path.write_text(content)
        note = set_aside(path, f"{path} is\n damaged")
    assert note == f"{path} is damaged: set aside as file.damaged-2, and made anew"
    assert [(tmp_path / name).read_text() for name in sorted(os.listdir(tmp_path))] == ["first", "second"]  # noqa: PTH208
    set_aside(path, "another process was faster")


def test_an_old_file_is_replaced_not_written_into(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old and long")
    with path.open() as reader:  # someone is reading it
        write_atomically(path, "new")
        assert reader.read() == "old and long"
    assert path.read_text() == "new"


@pytest.mark.parametrize("when", ["replace", "chmod"])
def test_a_failure_before_the_rename_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
):
    path = tmp_path / "file"
    path.write_text("old")

    def fails(*_args: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, when, fails)
        with pytest.raises(OSError, match="no space"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        assert os.fstat(handle).st_size == 3
        events.append("sync")
        sync(handle)

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomically(tmp_path / "file", "new")
    assert events == ["sync", "rename"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
):
    def interrupted(_handle: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(error):
        write_atomically(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_others_may_read_a_new_file(tmp_path: Path):
    write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", "new")
