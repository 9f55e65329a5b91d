"""Reads a sweep file: tables of rows, sets and seeds, each under a protocol. Every key is checked here.

    clip: openai/clip-vit-base-patch16
    recipe: released-code
    seeds: [1, 2, 3]

    tables:
      Table 1:
        protocol: base-to-new
        sets: [dtd, eurosat]
        rows:
          CoOp: {method: coop}
          CoOp + FVG-PT: {method: fvgpt+coop}

Keys above `tables` apply to all tables. A file with one table may omit `tables`.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, cast, get_args

from foveate.clip.precision import Precision, precision_on
from foveate.clip.templates import fill
from foveate.configs import typed
from foveate.datasets.catalogue import PASTED
from foveate.errors import InputError
from foveate.methods.registry import configure, import_methods, methods, parts, sees_regions, stages
from foveate.readers import read_yaml
from foveate.select.configs import Name
from foveate.sweep import sets
from foveate.sweep.jobs import Protocol, slug
from foveate.sweep.recipes import Source
from foveate.train.recipe import Recipe, recipe_for

_TRAINING = tuple(setting.name for setting in fields(Recipe))
_ROW = ("method", "template", "masks", "test_masks", "backbone")
_LISTS = {"seeds": int, "shots": int, "fractions": float, "sets": str, "selectors": str, "conditions": str}
_WORDS: dict[str, tuple[str, ...]] = {
    "protocol": get_args(Protocol),
    "recipe": get_args(Source),
    "classes": ("base", "all"),
    "dtype": get_args(Precision),
}
_TEXTS = ("source", "clip", "root")
_FLAGS = ("mixed", "shift", "gaze")
_TABLE = (*_LISTS, *_WORDS, *_TEXTS, *_FLAGS, "rows")
_ONLY_FOR = {
    "source": ("cross-dataset", "domain-generalisation"),
    "fractions": ("data-efficiency",),
    "classes": ("data-efficiency",),
    "selectors": ("data-efficiency",),
    "mixed": ("base-to-new", "seed-robustness", "data-efficiency"),
    "conditions": ("base-to-new", "seed-robustness", "data-efficiency"),
}
_SHOTS = 16


@dataclass(frozen=True)
class SweepRow:
    """A row of a table.

    Attributes:
        name: Name in the table.
        method: Method, e.g. "fvgpt+coop".
        settings: Changes to the source's settings, for each part of the method.
        training: Changes to the source's training recipe.
        template: Template that replaces the data set's.
        masks: Masks for training: NAME of the data set's folder `mask-NAME`, or another folder; None
            uses the data set's own masks.
        test_masks: Masks of test pictures, for a method that sees a region of each: "own" for the data set's
            own, NAME, or a folder; None gives no regions.
        backbone: Path of tuned backbones, which are not trained again: folders of foveate or checkpoints of
            the authors' code; "{set}" and "{seed}" stand for those of a run.
    """

    name: str
    method: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    template: str | None = None
    masks: str | None = None
    test_masks: str | None = None
    backbone: str | None = None


@dataclass(frozen=True)
class SweepTable:
    """Rows, data sets and seeds under a protocol.

    Attributes:
        title: Title, e.g. "Table 1".
        protocol: Protocol: the training classes and the questions.
        sets: Keys of data sets; of the target sets, if models are evaluated on other sets.
        rows: Rows of the table.
        seeds: Seeds of draw, initialisation, order and views.
        source: The training set, if models are evaluated on other sets.
        shots: Pictures of each class; several values for "few-shot".
        fractions: Shares of the training pictures, for "data-efficiency".
        selectors: Methods that select these pictures; without one, a share of the shots is drawn.
        classes: Train on half of the classes or on all, for "data-efficiency".
        mixed: Whether to evaluate trained and other classes together, too.
        shift: Whether to compute the foreground shift index; it needs masks of test pictures.
        gaze: Whether to compute how much of the heat maps is on the object; it needs them too.
        conditions: Test splits to evaluate, such as "home", for data sets that have several; none: the
            set's own.
        recipe: Source of the settings.
        clip: Source of the towers.
        dtype: Precision of the towers; auto, in the file, is replaced by what it means on the device.
    """

    title: str
    protocol: Protocol
    sets: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    source: str | None = None
    shots: tuple[int, ...] = (_SHOTS,)
    fractions: tuple[float, ...] = ()
    selectors: tuple[str, ...] = ()
    classes: str = "base"
    mixed: bool = False
    shift: bool = False
    gaze: bool = False
    conditions: tuple[str, ...] = ()
    recipe: Source = "released-code"
    clip: str = "tiny"
    dtype: str = "float32"


@dataclass(frozen=True)
class SweepConfig:
    """Content of a sweep file.

    Attributes:
        title: File name without the suffix.
        tables: Tables; at least one.
        root: Folder of the data sets.
        imported: Methods that the file names as "module:Class".
    """

    title: str
    tables: tuple[SweepTable, ...]
    root: str | None = None
    imported: tuple[str, ...] = ()


def read_sweep(
    file: Path,
    changes: Mapping[str, Any] | None = None,
    device: str = "cpu",
    only: Sequence[str] | None = None,
) -> SweepConfig:
    """Read a sweep file.

    Args:
        file: YAML file.
        changes: Values that override all tables, e.g. {"clip": "tiny"}.
        device: Device of the runs, for tables whose dtype is auto.
        only: Titles of the tables to read; None reads all.

    Raises:
        InputError: The file does not exist or is not YAML, a key is unknown, or a value is invalid; the
            message names the table and the row.
    """
    file = find_sweep(file)
    top = _mapping(read_yaml(file), f"{file} says nothing: write `tables` with rows, sets and a protocol")
    tables = top.pop("tables", None)
    said = {name: value for name, value in (changes or {}).items() if value is not None}
    shared = {**top, **said}
    given = {file.stem: {}} if tables is None else _mapping(tables, f"{file}: `tables` has none")
    if not given:
        raise InputError(f"{file}: `tables` has none: write a title and what the table has")
    for title in only or ():
        if title not in given:
            raise InputError(f"{file} has no table {title!r}; {_near(title, list(given))}")
    given = {title: one for title, one in given.items() if only is None or title in only}
    read = tuple(
        _table(title, {**_merged(shared, one, file, title), **said}, str(file))
        for title, one in given.items()
    )
    read = tuple(replace(one, dtype=precision_on(device, one.dtype)) for one in read)
    root = shared.get("root")
    return SweepConfig(
        file.stem, read, None if root is None else str(root), _imported([shared, *given.values()])
    )


def find_sweep(file: Path) -> Path:
    """Return a sweep's file: the given one, or the one of this name among those of the package.

    "table1", "table1.yaml" and "configs/table1.yaml" name the same file of the package.

    Raises:
        InputError: There is no such file.
    """
    if file.is_file():
        return file
    own = {one.stem: one for one in sorted(_packaged().glob("*.yaml"))}
    if file.parent in (Path(), Path("configs")) and file.suffix in ("", ".yaml") and file.stem in own:
        return own[file.stem]
    near = difflib.get_close_matches(file.stem, own, n=1)
    hint = f"did you mean {near[0]}?" if near else f"give a sweep's file, or one of {', '.join(own)}"
    raise InputError(f"{file}: no such file: {hint}")


def _packaged() -> Path:
    """Return the folder of the package's sweeps: in a wheel beside this module, in a clone at the top."""
    here = Path(__file__).parent / "tables"
    return here if here.is_dir() else Path(__file__).parents[3] / "configs"


def _imported(given: Sequence[object]) -> tuple[str, ...]:
    """Return all "module:Class" below these values, each once."""
    found: dict[str, None] = {}
    for one in given:
        if isinstance(one, Mapping):
            values = cast("Mapping[str, object]", one)
            method = values.get("method")
            if isinstance(method, str):
                found |= dict.fromkeys(part.strip() for part in method.split("+") if ":" in part)
            found |= dict.fromkeys(_imported(list(values.values())))
    return tuple(found)


def _merged(shared: Mapping[str, Any], own: object, file: Path, title: str) -> dict[str, Any]:
    """Return a table with the shared values; a key of its own without a value takes back the shared one."""
    found = _mapping(own, f"{file}, {title}: write `protocol`, `sets` and `rows`")
    both = {**shared, **found}
    for name in shared.keys() & found.keys():
        if isinstance(shared[name], dict) and name != "rows":
            both[name] = {**shared[name], **_mapping(found[name], f"{file}, {title}: {name} is no table")}
    return {name: value for name, value in both.items() if value is not None or name not in shared}


def _table(title: str, given: Mapping[str, Any], file: str) -> SweepTable:
    where = file if Path(file).stem == title else f"{file}, {title}"
    rows = _mapping(given.get("rows"), f"{where} has no rows: write a name and its method")
    common = {name: value for name, value in given.items() if name not in _TABLE}
    values = {name: _value(name, value, where) for name, value in given.items() if name in _TABLE}
    values = {name: value for name, value in values.items() if name not in ("rows", "root")}
    if not rows:
        raise InputError(f"{where} has no rows: write a name and its method")
    for name in ("protocol", "sets"):
        if name not in values:
            raise InputError(f"{where} says no {name}: give {_wanted(name)}")
    values["rows"] = tuple(_row(name, own, common, where) for name, own in rows.items())
    _check_stray(common, values["rows"], where)
    _check_names([row.name for row in values["rows"]], where)
    _check_fit(values, where)
    _check_conditions(values, where)
    _check_new_names(values, where)
    if values["protocol"] == "few-shot" and "shots" not in values:
        values["shots"] = (1, 2, 4, 8, 16)
    return SweepTable(title=title, **values)


def _row(name: str, given: object, common: Mapping[str, Any], where: str) -> SweepRow:
    title = f"{where}, row {name!r}"
    own = _mapping(given, f"{title}: write its options, as in `{{method: coop}}`")
    method = own.get("method", common.get("method"))
    if not isinstance(method, str):
        raise InputError(f"{title} says no method: give one, such as coop or fvgpt+coop")
    try:
        method = import_methods(method)
        there = parts(method)
        for key in own:
            if key not in (*_ROW, *_TRAINING, *there):
                raise InputError(f"there is no option {key!r}; {_near(key, (*_ROW, *_TRAINING, *there))}")
        settings = {
            part: {**_settings(common, part), **_settings(own, part)}
            for part in there
            if part in own or part in common
        }
        training = typed(
            Recipe, {key: one[key] for one in (common, own) for key in _TRAINING if key in one}, ""
        )
        other = {key: own.get(key, common.get(key)) for key in _ROW[1:]}
        _check_masks(other, own, method)
        if other["backbone"] is not None:
            _check_backbone(other["backbone"], method)
        configure("+".join(there), settings)
        recipe_for(method, training)
        if other["template"] is not None:
            fill(str(other["template"]), "x")
    except InputError as error:
        raise InputError(f"{title}: {error}") from error
    return SweepRow(name, "+".join(there), settings, training, **other)


def _check_masks(given: Mapping[str, Any], own: Mapping[str, Any], method: str) -> None:
    for key in ("masks", "test_masks"):
        value = given[key]
        if value is not None and not (isinstance(value, str) and value):
            raise InputError(f"{key} is {value!r}: give the name of a set's masks, or a folder of masks")
    if own.get("test_masks") is not None and not sees_regions(method):
        raise InputError(f"test_masks is {own['test_masks']!r}, but {method} looks at none: leave it out")


def _check_backbone(backbone: object, method: str) -> None:
    if not (isinstance(backbone, str) and backbone):
        raise InputError(f"backbone is {backbone!r}: give a path, as in 'coop/{{set}}/seed{{seed}}'")
    if len(stages(method)) < 2:
        raise InputError(
            f"backbone is {backbone!r}, but method {method!r} stands on no backbone: leave it out"
        )
    try:
        backbone.format(set="dtd", seed=1)
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(f"backbone is {backbone!r}: only {{set}} and {{seed}} may stand in it") from error


def _settings(given: Mapping[str, Any], part: str) -> dict[str, Any]:
    own = given.get(part)
    found = _mapping(own, f"{part} is {own!r}: give its settings, as in `{part}: {{name: value}}`")
    return typed(methods()[part].config_type, found, part)


def _value(name: str, value: Any, where: str) -> Any:
    """Return a value of a table in its stored type.

    Raises:
        InputError: The value has another type.
    """
    wrong = InputError(f"{where}: {name} is {value!r}: give {_wanted(name)}")
    if name in _LISTS:
        some = cast("list[Any]", value) if isinstance(value, list) else [value]
        if name == "sets":
            some = [_key(one, where) if isinstance(one, str) else one for one in some]
        kind = _LISTS[name]
        fits = all(isinstance(one, int | float if kind is float else kind) for one in some)
        none = not some and name != "conditions"  # [] there: the set's own test split
        if none or not fits or any(isinstance(one, bool) for one in some):
            raise wrong
        _check_list(name, some, wrong)
        return tuple(kind(one) for one in some)
    if name in _WORDS and value not in _WORDS[name]:
        near = difflib.get_close_matches(str(value), _WORDS[name], n=1)
        raise InputError(f"{wrong}{f' (did you mean {near[0]!r}?)' if near else ''}")
    if (name in _TEXTS and not isinstance(value, str)) or (name in _FLAGS and not isinstance(value, bool)):
        raise wrong
    return _key(str(value), where) if name == "source" else value


def _key(name: str, where: str) -> str:
    """Return the key of a data set from any of its names."""
    try:
        return sets.key_of(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_list(name: str, some: Sequence[Any], wrong: InputError) -> None:
    if len(set(some)) < len(some):
        twice = next(one for one in some if some.count(one) > 1)
        raise InputError(f"{wrong} (each once; {twice!r} stands twice)")
    if name in ("shots", "seeds") and min(some) < (1 if name == "shots" else 0):
        raise wrong
    if name == "fractions" and not all(0 < one <= 1 for one in some):
        raise wrong
    if name == "selectors" and not set(some) <= set(get_args(Name)):
        raise wrong
    if name == "conditions" and not set(some) <= set(PASTED):
        raise wrong


def _wanted(name: str) -> str:
    said = {
        "seeds": "whole numbers, as in [1, 2, 3]",
        "shots": "whole numbers from 1 on",
        "fractions": "shares above 0 and up to 1, as in [0.25, 0.5, 1.0]",
        "sets": "keys of data sets, as in [dtd, eurosat]",
        "selectors": f"some of {', '.join(get_args(Name))}",
        "conditions": f"test splits, some of {', '.join(PASTED)}",
    }
    if name in _WORDS:
        return f"one of {', '.join(_WORDS[name])}"
    return said.get(name, "true or false" if name in _FLAGS else "text")


def _check_stray(common: Mapping[str, Any], rows: Sequence[SweepRow], where: str) -> None:
    """Refuse keys that belong to no table and to no row's method."""
    there = {part for row in rows for part in parts(row.method)}
    known = (*_TABLE, *_ROW, *_TRAINING, *sorted(there))
    for key in common:
        if key not in known:
            raise InputError(f"{where}: there is no option {key!r}; {_near(key, known)}")


def _check_names(names: Sequence[str], where: str) -> None:
    own: dict[str, str] = {}
    for name in names:
        if not slug(name):
            raise InputError(f"{where}: row {name!r} makes no name of a folder: use letters or numbers")
        if slug(name) in own:
            raise InputError(f"{where}: rows {own[slug(name)]!r} and {name!r} have one folder: rename one")
        own[slug(name)] = name


def _check_fit(values: Mapping[str, Any], where: str) -> None:
    """Refuse values that the protocol does not use, and missing ones."""
    protocol = values["protocol"]
    for name, protocols in _ONLY_FOR.items():
        if values.get(name) and protocol not in protocols:
            raise InputError(
                f"{where}: {name} is for {' and '.join(protocols)}, not for {protocol}: leave it out"
            )
    carried = protocol in _ONLY_FOR["source"]
    if carried and "source" not in values:
        raise InputError(f"{where}: {protocol} needs `source`, the set that is trained on, such as imagenet")
    if carried and values["source"] in values["sets"]:
        raise InputError(f"{where}: {values['source']!r} is the source: leave it out of `sets`, the targets")
    if protocol == "data-efficiency" and "fractions" not in values:
        raise InputError(f"{where}: data-efficiency needs `fractions`, as in [0.25, 0.5, 0.75, 1.0]")
    if protocol != "few-shot" and len(values.get("shots", ())) > 1:
        raise InputError(f"{where}: several shots are for few-shot; {protocol} takes one number")
    if values.get("selectors") and "shots" in values:
        raise InputError(f"{where}: selectors choose among all training pictures: leave `shots` out")


def _check_conditions(values: Mapping[str, Any], where: str) -> None:
    """Refuse test conditions for data sets with one test split."""
    for key, condition in product(values["sets"], values.get("conditions", ())):
        try:
            sets.key_of(f"{key}@{condition}")
        except InputError as error:
            raise InputError(
                f"{where}: conditions are for sets of species and photographs: {error}"
            ) from error


def _check_new_names(values: Mapping[str, Any], where: str) -> None:
    """Refuse rows that cannot classify new classes, if the protocol asks about them."""
    if values["protocol"] == "few-shot" or values.get("classes") == "all":
        return
    for row in values["rows"]:
        for config in configure(row.method, row.settings).values():
            if config.without_new_names:
                raise InputError(
                    f"{where}, row {row.name!r}: {config.without_new_names} has no vectors for new classes,"
                    " which are asked about: take few-shot, or data-efficiency with `classes: all`"
                )


def _near(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"


def _mapping(value: object, wrong: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(wrong)
    return {str(key): one for key, one in cast("dict[object, Any]", value).items()}
