"""Tables of runs: each row of an option file is a run with its own folder.

Plug-in rows with the same backbone share it. The backbone is tuned once, in the folder of the row that
is this backbone, or else in `backbone-METHOD-…`. All rows share the features of frozen towers in
`.bank`.
"""

import difflib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveate.commands.options import Command, print_options
from foveate.configs import mapping
from foveate.errors import InputError
from foveate.files import home_of
from foveate.methods.config import is_auto
from foveate.sweep.jobs import slug
from foveate.train.config import RunConfig
from foveate.train.folder import BANK, RUN
from foveate.train.planning import share

ROWS = "rows"
_SAME_FOR_ALL = ("out", "row")


@dataclass
class Files:
    """Content of option files.

    Attributes:
        title: Name of the files in messages.
        common: Options by name.
        rows: Options of each row that differ from these, by name of the row.
    """

    title: str = ""
    common: dict[str, Any] = field(default_factory=dict[str, Any])
    rows: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


@dataclass(frozen=True)
class RowRun:
    """One run to train.

    Attributes:
        title: Name of the run in messages.
        folder: Folder of the run.
        config: Settings of the run; a plug-in's `backbone` is the folder of another run.
    """

    title: str
    folder: str
    config: RunConfig


@dataclass(frozen=True)
class RowRuns:
    """The runs of some rows.

    Attributes:
        runs: Runs by folder; each comes after its backbone.
        rows: Folder of each row, by name of the row.
    """

    runs: dict[str, RowRun]
    rows: dict[str, str]


def read_files(command: Command, files: list[str]) -> Files:
    """Read option files; later files win.

    Raises:
        InputError: A file does not exist or is not YAML, a key does not exist, or a value does not fit.
    """
    merged = Files(" and ".join(files))
    for file in files:
        values = command.read_file(file, unchecked=(ROWS,))
        rows = values.pop(ROWS, merged) if ROWS in values else None
        merged.common |= values
        for name, row_options in ({} if rows is None else _rows(command, rows, file)).items():
            merged.rows[name] = {**merged.rows.get(name, {}), **row_options}
    return merged


def plan(command: Command, files: Files, typed: Mapping[str, Any], *, printed: bool = False) -> RowRuns:
    """Return the runs of the requested rows; nothing is trained.

    Args:
        command: The command with its options.
        files: Options and rows.
        typed: Options that win over the files.
        printed: Whether to print the options of one run and exit.

    Raises:
        InputError: An option of a row does not fit, or the row does not exist; the message names the
            row.
    """
    common = {**files.common, **typed}
    query = common.get("row")
    chosen = [_find(str(query), files)] if query else list(files.rows)
    command.demand(common)
    folders = _folders(home_of(str(common["out"])), files)
    if printed:
        if len(chosen) > 1:
            raise InputError("--print-config prints the options of one run: choose it with --row")
        print_options({**_options(files, typed, chosen[0]), "out": folders[chosen[0]]})
    configs: dict[str, RunConfig] = {}
    for name in files.rows:
        with named(f"{files.title}, row {name!r}"):
            configs[folders[name]] = RunConfig.of(_options(files, typed, name))
            if configs[folders[name]].is_auto:
                raise InputError("--method auto chooses for one run: name a method in each row")
    _refuse_stray(common, configs)
    planned = share(configs, lambda config: config.key, _backbone, only=[folders[name] for name in chosen])
    titles = {folders[name]: f"row {name!r}" for name in reversed(files.rows)}
    for folder, planned_run in planned.items():
        if planned_run.needs is not None:
            titles.setdefault(planned_run.needs, f"the backbone of {titles[folder]}")
    runs = {
        # The bank is a hidden folder, so that FOLDER/* are the models.
        folder: RowRun(
            titles[folder],
            folder,
            replace(
                planned_run.run,
                backbone=planned_run.needs or planned_run.run.backbone,
                bank_dir=planned_run.run.bank_dir or str(Path(folder).with_name(BANK)),
            ),
        )
        for folder, planned_run in planned.items()
    }
    return RowRuns(runs, {name: folders[name] for name in chosen})


@contextmanager
def named(title: str) -> Generator[None]:
    """Put the name of the row before each error message."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{title}: {error}") from error


def _rows(command: Command, entry: object, file: str) -> dict[str, dict[str, Any]]:
    rows = mapping(
        entry, f"{file}: {ROWS} are no rows: write a name and its options, one row below the other"
    )
    if not rows:
        raise InputError(f"{file}: {ROWS} has no rows: give at least one")
    checked: dict[str, dict[str, Any]] = {}
    for name, options in rows.items():
        title = f"{file}, row {name!r}"
        message = f"{title} has no options: write them as `fvgpt: {{tau: 1}}`, or nothing at all"
        row_options = mapping(options, message)
        for shared in _SAME_FOR_ALL:
            if shared in row_options:
                raise InputError(f"{title}: {shared!r} is the same for all rows: write it above {ROWS!r}")
        checked[name] = command.check(row_options, title)
    return checked


def _find(query: str, files: Files) -> str:
    """Return the requested row, by its name or by the name of its folder."""
    rows = files.rows
    matches = [name for name in rows if query == name] or [name for name in rows if slug(query) == slug(name)]
    if matches:
        return matches[0]
    by_slug = {slug(name): name for name in rows}
    similar = difflib.get_close_matches(slug(query), by_slug, n=1)
    hint = f"did you mean {by_slug[similar[0]]!r}?" if similar else f"there are {', '.join(map(repr, rows))}"
    raise InputError(f"{files.title} has no row {query!r}; {hint}")


def _folders(root: Path, files: Files) -> dict[str, str]:
    """Return the folder of each row."""
    if (root / RUN).exists():
        raise InputError(f"{root} holds a single run: choose another output folder for a table")
    names: dict[str, str] = {}
    for name in files.rows:
        folder = slug(name)
        if not folder:
            raise InputError(f"{files.title}: row {name!r} makes no name of a folder: use letters or numbers")
        if folder in names:
            raise InputError(
                f"{files.title}: rows {names[folder]!r} and {name!r} have one folder, {folder}: rename one"
            )
        names[folder] = name
    return {name: str(root / folder) for folder, name in names.items()}


def _options(files: Files, typed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options of a row, without settings of other rows' methods.

    Raises:
        InputError: The method does not exist.
    """
    from foveate.methods.registry import parts

    row_options = files.rows[name]
    values = {**files.common, **row_options, **typed}
    method = str(values.get("method", RunConfig.method))
    used = {
        *([] if is_auto(method) else parts(method)),
        *(key.partition(".")[0] for key in row_options),
    }
    relevant = {
        key: value for key, value in values.items() if "." not in key or key.partition(".")[0] in used
    }
    return {key: value for key, value in relevant.items() if key not in _SAME_FOR_ALL}


def _refuse_stray(common: Mapping[str, Any], configs: Mapping[str, RunConfig]) -> None:
    """Refuse shared settings of a part that no row has."""
    used_parts = {part for config in configs.values() for part in config.method.split("+")}
    for part in sorted({name.partition(".")[0] for name in common if "." in name}):
        if part not in used_parts:
            raise InputError(f"settings for {part!r}, but no row has it in its method")


def _backbone(folder: str, config: RunConfig) -> tuple[str, RunConfig] | None:
    """Return the folder and the run of a row's backbone; None if no backbone is to be tuned."""
    inner = config.inner if config.backbone is None else None
    if inner is None:
        return None
    return str(Path(folder).with_name(f"backbone-{slug(inner.method)}-{inner.key[:6]}")), inner
