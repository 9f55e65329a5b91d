"""What people write by hand, read: YAML, and JSON a line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from foveate.errors import InputError


class _Loader(yaml.SafeLoader):
    """PyYAML follows YAML 1.1, where 1e-3 is text and 2024-01-01 a date; here they are a number and text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML declares it)
        first: [(tag, form) for tag, form in some if tag != "tag:yaml.org,2002:timestamp"]
        for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(file: Path) -> object:
    """Read a YAML file; numbers such as 1e-3 are numbers.

    Raises:
        InputError: It is no YAML, or says something twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
        content: object = yaml.load(text, _Loader)
        twice = next(_repeated(yaml.compose(text, yaml.SafeLoader)), None)
    except (yaml.YAMLError, ValueError) as error:  # also text of another encoding
        why = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{file} is no YAML: {why}") from error
    if twice:
        raise InputError(
            f"{file}, line {twice.start_mark.line + 1}: {twice.value!r} stands there twice: rename one"
        )
    return content


def _repeated(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield the keys that stand twice in one mapping; of these, YAML would keep the last in silence."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                yield key
            seen.add(str(key.value))
            yield from _repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            yield from _repeated(one)


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
