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
    found = Files(" and ".join(files))
    for file in files:
        values = command.read_file(file, but=(ROWS,))
        rows = values.pop(ROWS, found) if ROWS in values else None
        found.common |= values
        for name, own in ({} if rows is None else _rows(command, rows, file)).items():
            found.rows[name] = {**found.rows.get(name, {}), **own}
    return found


def plan(files: Files, typed: Mapping[str, Any], *, printed: bool = False) -> RowRuns:
    """Return the runs of the requested rows; nothing is trained.

    Args:
        files: Options and rows.
        typed: Options that win over the files.
        printed: Whether to print the options of one run and exit.

    Raises:
        InputError: An option of a row does not fit, or the row does not exist; the message names the
            row.
    """
    common = {**files.common, **typed}
    wanted, out = common.pop("row", None), common.pop("out", None)
    chosen = [_find(str(wanted), files)] if wanted else list(files.rows)
    missing = [flag for flag, one in (("PHOTOS", common.get("photos")), ("--out", out)) if one is None]
    if missing:
        raise InputError(f"missing: {', '.join(missing)} (see foveate fit --help)")
    homes = _folders(Path(str(out)), files)
    if printed:
        if len(chosen) > 1:
            raise InputError("--print-config prints the options of one run: choose it with --row")
        print_options({**_options(files, typed, chosen[0]), "out": homes[chosen[0]]})
    configs: dict[str, RunConfig] = {}
    for name in files.rows:
        with named(f"{files.title}, row {name!r}"):
            configs[homes[name]] = RunConfig.of(_options(files, typed, name))
            if configs[homes[name]].is_auto:
                raise InputError("--method auto chooses for one run: name a method in each row")
    _refuse_stray({**files.common, **typed}, configs)
    planned = share(configs, lambda one: one.key, _backbone, only=[homes[name] for name in chosen])
    titles = {homes[name]: f"row {name!r}" for name in reversed(files.rows)}
    for folder, one in planned.items():
        if one.needs is not None:
            titles.setdefault(one.needs, f"the backbone of {titles[folder]}")
    runs = {
        # The bank is a hidden folder, so that FOLDER/* are the models.
        folder: RowRun(
            titles[folder],
            folder,
            replace(
                one.run,
                backbone=one.needs or one.run.backbone,
                bank_dir=one.run.bank_dir or str(Path(folder).with_name(BANK)),
            ),
        )
        for folder, one in planned.items()
    }
    return RowRuns(runs, {name: homes[name] for name in chosen})


@contextmanager
def named(title: str) -> Generator[None]:
    """Put the name of the row before each error message."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{title}: {error}") from error


def _rows(command: Command, given: object, file: str) -> dict[str, dict[str, Any]]:
    rows = mapping(
        given, f"{file}: {ROWS} are no rows: write a name and its options, one row below the other"
    )
    if not rows:
        raise InputError(f"{file}: {ROWS} has no rows: give at least one")
    found: dict[str, dict[str, Any]] = {}
    for name, options in rows.items():
        title = f"{file}, row {name!r}"
        wrong = f"{title} has no options: write them as `fvgpt: {{tau: 1}}`, or nothing at all"
        own = mapping(options, wrong)
        for stray in _SAME_FOR_ALL:
            if stray in own:
                raise InputError(f"{title}: {stray!r} is the same for all rows: write it above {ROWS!r}")
        found[name] = command.check(own, title)
    return found


def _find(wanted: str, files: Files) -> str:
    """Return the requested row, by its name or by the name of its folder."""
    rows = files.rows
    found = [name for name in rows if wanted == name] or [name for name in rows if slug(wanted) == slug(name)]
    if found:
        return found[0]
    near = difflib.get_close_matches(slug(wanted), {slug(name): name for name in rows}, n=1)
    meant = next((name for name in rows if near and slug(name) == near[0]), None)
    hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join(map(repr, rows))}"
    raise InputError(f"{files.title} has no row {wanted!r}; {hint}")


def _folders(root: Path, files: Files) -> dict[str, str]:
    """Return the folder of each row."""
    if (root / RUN).exists():
        raise InputError(f"{root} holds a single run: choose another output folder for a table")
    names: dict[str, str] = {}
    for name in files.rows:
        own = slug(name)
        if not own:
            raise InputError(f"{files.title}: row {name!r} makes no name of a folder: use letters or numbers")
        if own in names:
            raise InputError(
                f"{files.title}: rows {names[own]!r} and {name!r} have one folder, {own}: rename one"
            )
        names[own] = name
    return {name: str(root / own) for own, name in names.items()}


def _options(files: Files, typed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the options of a row, without settings of other rows' methods.

    Raises:
        InputError: The method does not exist.
    """
    from foveate.methods.registry import parts

    own = files.rows[name]
    values = {**files.common, **own, **typed}
    method = str(values.get("method", RunConfig.method))
    there = {
        *([] if is_auto(method) else parts(method)),
        *(key.partition(".")[0] for key in own),
    }
    kept = {key: one for key, one in values.items() if "." not in key or key.partition(".")[0] in there}
    return {key: one for key, one in kept.items() if key not in _SAME_FOR_ALL}


def _refuse_stray(common: Mapping[str, Any], configs: Mapping[str, RunConfig]) -> None:
    """Refuse shared settings of a part that no row has."""
    there = {part for config in configs.values() for part in config.method.split("+")}
    for part in sorted({name.partition(".")[0] for name in common if "." in name}):
        if part not in there:
            raise InputError(f"settings for {part!r}, but no row has it in its method")


def _backbone(folder: str, config: RunConfig) -> tuple[str, RunConfig] | None:
    """Return the folder and the run of a row's backbone; None if no backbone is to be tuned."""
    inner = config.inner if config.backbone is None else None
    if inner is None:
        return None
    return str(Path(folder).with_name(f"backbone-{slug(inner.method)}-{inner.key[:6]}")), inner
