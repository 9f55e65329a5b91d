"""Tables of runs: each row of a file of options is a run in a folder of its own.

Plug-ins of several rows that stand on the same backbone share it: it is tuned once, in the folder of the row
that is this backbone, or else in `backbone-METHOD-…`. All rows share what frozen towers say, in `.bank`.
"""

import difflib
import hashlib
import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.classifier import Classifier
from foveate.commands.config_file import Config
from foveate.commands.learning import GROUPS, Learned, Options, classifier_of, learn, recipe_of
from foveate.commands.parsing import Words
from foveate.commands.screen import note
from foveate.errors import InputError
from foveate.methods.registry import configure, needs_masks, parts, stages
from foveate.sweep.jobs import slug
from foveate.train.loop import Diverged
from foveate.train.recipe import recipe_for
from foveate.train.run import BANK, RUN

_MASKS = ("masks", "mask_values", "invert_masks")
_NO_MATTER = {"out", "row", "device", "method", "settings", "bank", "bank_dir", *GROUPS["training"]}
"""Options that change nothing of a run's outcome, or are told apart below."""


@dataclass(frozen=True)
class Run:
    """One thing to be trained.

    Attributes:
        title: What messages call it.
        options: Of `fit`; a plug-in's `backbone` is the folder of another run.
    """

    title: str
    options: Options

    @property
    def folder(self) -> str:
        """Where it goes."""
        return self.options["out"]


@dataclass(frozen=True)
class Table:
    """What is to be trained for some rows.

    Attributes:
        runs: By folder, each behind its backbone.
        rows: By the name of a row, its folder.
    """

    runs: dict[str, Run]
    rows: dict[str, str]


def plan(read: Words) -> Table:
    """Work out the runs of the rows asked for, before anything is trained.

    Raises:
        InputError: An option of any row does not fit, or there is no such row; the message names the row.
    """
    assert read.config is not None
    config = read.config.without("row").without("out")
    wanted = read.take("row") or read.config.values.get("row")
    chosen = [_find(str(wanted), config.rows, config.title)] if wanted else list(config.rows)
    root = read.take("out") or read.config.values.get("out")
    homes = _folders(None if root is None else Path(str(root)), config)
    if read.typed("print_config"):
        if len(chosen) > 1:
            raise InputError("--print-config prints the options of one run: choose it with --row")
        read.arguments(_with_out(config.row(chosen[0]), homes[chosen[0]]))
    rows = {name: read.arguments(_with_out(config.row(name), homes[name])) for name in config.rows}
    given = {part for options in rows.values() for part in options["settings"]}
    rows = {name: _settled(options, config, name) for name, options in rows.items()}
    _refuse_stray(given, rows.values())
    own: dict[str, str] = {}
    for options in rows.values():
        own.setdefault(_key(options), options["out"])
    runs: dict[str, Run] = {}
    for name in chosen:
        _add(runs, f"row {name!r}", rows[name], own)
    return Table(runs, {name: rows[name]["out"] for name in chosen})


def train(table: Table) -> dict[str, Learned | Diverged]:
    """Train every run of a table that has not finished; return by folder what has come of it.

    A run that diverges does not stop the others.

    Raises:
        InputError: Anything else that is wrong; the message names the row.
    """
    classifiers = _classifiers(table.runs.values())
    done: dict[str, Learned | Diverged] = {}
    for count, run in enumerate(table.runs.values(), 1):
        below = done.get(run.options["backbone"])
        if isinstance(below, Diverged):
            done[run.folder] = below
            continue
        note(f"run {count} of {len(table.runs)}: {run.title}, in {run.folder}")
        try:
            with _named(run.title):
                done[run.folder] = learn(run.options, classifiers[run.folder], f"{run.title}, ")
        except Diverged as error:
            done[run.folder] = error
    return done


def _find(wanted: str, rows: Mapping[str, object], title: str) -> str:
    """Return the row that was asked for by its name or its folder's."""
    found = [name for name in rows if wanted == name] or [name for name in rows if slug(wanted) == slug(name)]
    if found:
        return found[0]
    near = difflib.get_close_matches(slug(wanted), {slug(name): name for name in rows}, n=1)
    meant = next((name for name in rows if near and slug(name) == near[0]), None)
    hint = f"did you mean {meant!r}?" if meant else f"there are {', '.join(map(repr, rows))}"
    raise InputError(f"{title} has no row {wanted!r}; {hint}")


def _folders(root: Path | None, config: Config) -> dict[str, str | None]:
    """Return the folder of each row; None, where nobody said in which folder they all are."""
    if root is not None and (root / RUN).exists():
        raise InputError(f"{root} holds a single run: choose another output folder for a table")
    names: dict[str, str] = {}
    for name in config.rows:
        own = slug(name)
        if not own:
            raise InputError(
                f"{config.title}: row {name!r} makes no name of a folder: use letters or numbers"
            )
        if own in names:
            raise InputError(
                f"{config.title}: rows {names[own]!r} and {name!r} have one folder, {own}: rename one"
            )
        names[own] = name
    return {name: None if root is None else str(root / own) for own, name in names.items()}


def _with_out(config: Config, folder: str | None) -> Config:
    return config if folder is None else Config(config.title, {**config.values, "out": folder})


def _refuse_stray(given: Iterable[str], rows: Iterable[Options]) -> None:
    """Refuse settings, shared by all rows, of a part that none of them has."""
    there = {part for options in rows for part in parts(options["method"])}
    for part in sorted(given):
        if part not in there:
            raise InputError(f"settings for {part!r}, but no row has it in its method")


def _settled(options: dict[str, Any], config: Config, name: str) -> dict[str, Any]:
    """Return a row's options without settings that are there for other rows.

    Raises:
        InputError: The row's method, settings or recipe are none.
    """
    with _named(f"{config.title}, row {name!r}"):
        method = "+".join(parts(options["method"]))
        kept = {*parts(method), *config.rows[name]}
        settings = {part: values for part, values in options["settings"].items() if part in kept}
        configure(method, settings)
        recipe_for(method, recipe_of(options))
    return {**options, "method": method, "settings": settings}


def _add(runs: dict[str, Run], title: str, options: Options, own: Mapping[str, str]) -> None:
    """Add a run, and before it the one of its backbone, unless they are there already.

    Args:
        runs: By folder.
        title: Of the run.
        options: Of the run.
        own: Folders of rows by `_key`: a backbone that is a row itself is trained there.
    """
    inner = _inner(options)
    if inner and options["backbone"] is None:
        key = _key(inner)
        name = f"backbone-{slug(inner['method'])}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"
        folder = own.get(key, str(Path(options["out"]).with_name(name)))
        _add(runs, f"the backbone of {title}", {**inner, "out": folder}, own)
        options = {**options, "backbone": folder}
    if options["bank_dir"] is None:  # out of sight, so that FOLDER/* are the models
        options = {**options, "bank_dir": str(Path(options["out"]).with_name(BANK))}
    runs.setdefault(options["out"], Run(title, options))


def _inner(options: Options) -> dict[str, Any] | None:
    """Return the options of what a plug-in stands on; None for what is no plug-in."""
    *inner, _ = stages(options["method"])
    if not inner:
        return None
    settings = {part: values for part, values in options["settings"].items() if part in parts(inner[-1])}
    return {**options, "method": inner[-1], "settings": settings}


def _key(options: Options) -> str:
    """Return what decides a run's outcome, and where its data is, as text."""
    method = options["method"]
    decides = {name: value for name, value in options.items() if name not in _NO_MATTER}
    if not needs_masks(method, options["settings"]):
        decides = {name: value for name, value in decides.items() if name not in _MASKS}
    settings = {part: asdict(config) for part, config in configure(method, options["settings"]).items()}
    recipe = asdict(recipe_for(method, recipe_of(options)))
    return json.dumps([method, settings, recipe, decides], sort_keys=True)


def _classifiers(runs: Iterable[Run]) -> dict[str, Classifier]:
    """Build all of them first, so that a setting out of its range is known before hours of training."""
    built: dict[str, Classifier] = {}
    towers: dict[Sequence[str], Classifier] = {}
    for run in runs:
        place = tuple(run.options[name] for name in ("clip", "device", "dtype"))
        with _named(run.title):
            built[run.folder] = classifier_of(run.options, towers.get(place))
        towers.setdefault(place, built[run.folder])
    return built


@contextmanager
def _named(title: str) -> Generator[None]:
    """Say of which row a mistake is."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{title}: {error}") from error
