"""Folders of sets that foveate writes: complete or absent."""

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
            stored = cast("dict[str, Any]", json.loads((self.path / self.file).read_text(encoding="utf-8")))
            listed = set(cast("list[str]", stored.pop("files")))
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise InputError(
                f"{self.path} is there, and is no set that foveate made: remove it, or take another folder"
            ) from error
        changed = [name for name, value in self.record.items() if stored.get(name) != value]
        if changed:
            stored_value = stored.get(changed[0])
            is_setting = isinstance(stored_value, int | str) and changed[0] != "version"
            origin = f"with {changed[0]} {stored_value}" if is_setting else "by another version"
            raise InputError(f"{self.path} was made {origin}: remove it, or take another folder")
        return listed <= set(_files(self.path))

    @contextmanager
    def written(self) -> Generator[Path]:
        """Yield a temporary folder that replaces this one when the block ends; a failure leaves nothing."""
        temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        try:
            yield temporary
            listed = {"files": sorted(_files(temporary))}
            write_atomically(temporary / self.file, json.dumps({**self.record, **listed}) + "\n")
            temporary.chmod(0o755)  # by default, only the owner can read a temporary folder
            if self.path.exists():  # an incomplete set of foveate's own
                shutil.rmtree(self.path)
            temporary.rename(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
