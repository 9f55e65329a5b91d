"""Files of options: `--config table.yaml`. Every key is checked here, before anything is run.

A file of `fit` may have `rows`: by name, what differs from the file's other options. Each row is a run.
"""

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from foveate.commands.options import Option
from foveate.errors import InputError
from foveate.written import read_yaml

ROWS = "rows"


@dataclass(frozen=True)
class Config:
    """What files of options say.

    Attributes:
        title: What messages call it: its path, and the row.
        values: Options by name; the settings of a part under its name.
        rows: By name, options of a row that differ from `values`.
    """

    title: str
    values: dict[str, Any]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def row(self, name: str) -> "Config":
        """Return the options of one row."""
        return Config(f"{self.title}, row {name!r}", merged(self.values, self.rows[name]))

    def without(self, name: str) -> "Config":
        """Return the same without one option."""
        return replace(self, values={key: value for key, value in self.values.items() if key != name})


@dataclass(frozen=True)
class Known:
    """What a file may say.

    Attributes:
        options: By name, `fvgpt.tau` among them.
        parts: Names that stand for a group of settings.
        rows: Whether there may be rows.
        not_in_rows: Options that a row may not have.
    """

    options: Mapping[str, Option]
    parts: Collection[str] = ()
    rows: bool = False
    not_in_rows: Collection[str] = ()


def read_configs(files: Iterable[str], known: Known) -> Config | None:
    """Read files of options, later ones winning; None, if there are none.

    Raises:
        InputError: A file is not there or is no YAML, or a key does not exist.
    """
    found: Config | None = None
    for file in files:
        one = _read(file, known)
        if found is None:
            found = one
        else:
            title = f"{found.title} and {one.title}"
            found = Config(title, merged(found.values, one.values), merged(found.rows, one.rows))
    return found


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `under` changed by `over`, groups of settings one by one."""
    found = dict(under)
    for name, value in over.items():
        old = found.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            found[name] = merged(cast("dict[str, Any]", old), cast("dict[str, Any]", value))
        else:
            found[name] = value
    return found


def nearest(typed: str, options: Iterable[Option]) -> str:
    """Say which option was probably meant.

    Args:
        typed: As an option on the command line, with its two dashes.
        options: All there are.
    """
    flags = [option.flag for option in options]
    # A setting is often typed without its part: --tokens for --coop.tokens.
    inner = [flag for flag in flags if flag.rpartition(".")[2] == typed[2:].replace("_", "-")]
    near = inner or difflib.get_close_matches(typed.replace("_", "-"), flags, n=1)
    return f"did you mean {near[0]}?" if near else "is it one of another command?"


def _read(file: str, known: Known) -> Config:
    if not Path(file).is_file():
        raise InputError(f"--config {file}: no such file")
    values = _table(read_yaml(Path(file)), f"{file} holds no options: write them as `epochs: 5`, one a line")
    rows = values.pop(ROWS, None) if known.rows else None
    config = Config(file, _checked(values, known, file))
    return config if rows is None else replace(config, rows=_rows(rows, known, file))


def _rows(given: object, known: Known, file: str) -> dict[str, dict[str, Any]]:
    rows = _table(given, f"{file}: {ROWS} are no rows: write a name and its options, one row below the other")
    if not rows:
        raise InputError(f"{file}: {ROWS} has no rows: give at least one")
    found: dict[str, dict[str, Any]] = {}
    for name, options in rows.items():
        title = f"{file}, row {name!r}"
        own = _table(options, f"{title} has no options: write them as `fvgpt: {{tau: 1}}`, or nothing at all")
        for stray in known.not_in_rows:
            if stray in own:
                raise InputError(f"{title}: {stray!r} is the same for all rows: write it above {ROWS!r}")
        found[name] = _checked(own, known, title)
    return found


def _checked(values: Mapping[str, Any], known: Known, title: str) -> dict[str, Any]:
    """Return options and groups of settings as the parser reads them.

    Raises:
        InputError: A key does not exist; the nearest that does is named.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        part, dot, inner = name.partition(".")
        one: dict[str, Any] = {name: _word(value, known.options.get(name))}
        if name in known.parts:
            wrong = f"{title}: {key} is {value!r}: give its settings, as in `{key}: {{name: value}}`"
            one = {name: {own.replace("-", "_"): setting for own, setting in _table(value, wrong).items()}}
        elif dot:  # fvgpt.tau: 1
            one = {part: {inner: value}}
        names = [f"{part}.{own}" for own in one[part]] if isinstance(one.get(part), dict) else []
        for typed in names or ([] if name in known.parts else [name]):
            if typed not in known.options:
                hint = nearest("--" + typed, known.options.values())
                raise InputError(f"{title}: there is no option {typed!r}; {hint}")
        found = merged(found, one)
    return found


def _word(value: object, option: Option | None) -> object:
    """Return a value as it was written: YAML takes the word off for false."""
    return "off" if value is False and option is not None and "off" in option.choices else value


def _table(value: object, wrong: str) -> dict[str, Any]:
    """Return a mapping with names for keys; nothing at all is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(wrong)
    return {str(key): one for key, one in cast("dict[object, Any]", value).items()}
