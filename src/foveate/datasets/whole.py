"""Sets that foveate writes: complete below their folder, or not there."""

import json
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from foveate.errors import InputError
from foveate.files import write_atomically


@dataclass(frozen=True)
class WholeFolder:
    """The folder of a set, and everything that determines its content.

    Attributes:
        path: The folder.
        record: Values that determine the content, with a "version"; equal records mean equal files.
        file: Name of the file in it that holds the record and the list of all files.
    """

    path: Path
    record: Mapping[str, Any]
    file: str = "drawn.json"

    def is_there(self) -> bool:
        """Return whether the set exists with all its files.

        Raises:
            InputError: The folder holds something else, or was made with other settings.
        """
        if not self.path.exists():
            return False
        try:
            found = cast("dict[str, Any]", json.loads((self.path / self.file).read_text(encoding="utf-8")))
            listed = set(cast("list[str]", found.pop("files")))
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise InputError(
                f"{self.path} is there, and is no set that foveate made: remove it, or take another folder"
            ) from error
        other = [name for name, value in self.record.items() if found.get(name) != value]
        if other:
            value = found.get(other[0])
            plain = isinstance(value, int | str) and other[0] != "version"
            how = f"with {other[0]} {value}" if plain else "by another version"
            raise InputError(f"{self.path} was made {how}: remove it, or take another folder")
        return listed <= set(_files(self.path))

    @contextmanager
    def written(self) -> Generator[Path]:
        """Give a folder beside it, which takes its place when the block ends; a failure leaves nothing."""
        beside = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            yield beside
            listed = {"files": sorted(_files(beside))}
            write_atomically(beside / self.file, json.dumps({**self.record, **listed}) + "\n")
            beside.chmod(0o755)  # nobody else can read temporary folders
            if self.path.exists():  # it is foveate's, and has lost files
                shutil.rmtree(self.path)
            beside.rename(self.path)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
