"""What people write by hand, read: YAML, and JSON a line."""

import json
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import get_loader

from foveate.errors import InputError


def read_yaml(file: Path) -> object:
    """Read a YAML file; numbers such as 1e-3 are numbers.

    Raises:
        InputError: It is no YAML.
    """
    try:
        return get_loader("yaml")(file.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # of the YAML library, which is not ours to import
        why = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{file} is no YAML: {why}") from error


def json_lines(path: Path, text: str) -> Iterator[tuple[int, object]]:
    """Read JSON, one value a line, with the numbers of the lines; empty lines are passed over.

    Args:
        path: For messages.
        text: What it holds.

    Raises:
        InputError: A line is no JSON.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not valid JSON ({error})") from error
