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
from foveate.configs import mapping, nearest, typed
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
        mixed: Whether to evaluate trained and other classes together as well.
        shift: Whether to compute the foreground shift index; it needs masks of test pictures.
        gaze: Whether to compute how much of the heat maps is on the object; it needs these masks too.
        conditions: Test splits to evaluate, such as "home", for data sets that have several; empty: the
            set's own.
        recipe: Source of the settings.
        clip: Source of the towers.
        dtype: Precision of the towers; "auto" in the file is resolved for the device.
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
    top = mapping(read_yaml(file), f"{file} says nothing: write `tables` with rows, sets and a protocol")
    tables = top.pop("tables", None)
    overrides = {name: value for name, value in (changes or {}).items() if value is not None}
    shared = {**top, **overrides}
    raw_tables = {file.stem: {}} if tables is None else mapping(tables, f"{file}: `tables` has none")
    if not raw_tables:
        raise InputError(f"{file}: `tables` has none: write a title and what the table has")
    for title in only or ():
        if title not in raw_tables:
            raise InputError(f"{file} has no table {title!r}; {nearest(title, raw_tables)}")
    raw_tables = {title: table for title, table in raw_tables.items() if only is None or title in only}
    parsed = tuple(
        _table(title, {**_merged(shared, table, file, title), **overrides}, str(file))
        for title, table in raw_tables.items()
    )
    parsed = tuple(replace(table, dtype=precision_on(device, table.dtype)) for table in parsed)
    root = shared.get("root")
    return SweepConfig(
        file.stem, parsed, None if root is None else str(root), _imported([shared, *raw_tables.values()])
    )


def find_sweep(file: Path) -> Path:
    """Return a sweep's file: the given one, or the one of this name among those of the package.

    "table1", "table1.yaml" and "configs/table1.yaml" name the same file of the package.

    Raises:
        InputError: There is no such file.
    """
    if file.is_file():
        return file
    known = {path.stem: path for path in sorted(_packaged().glob("*.yaml"))}
    if file.parent in (Path(), Path("configs")) and file.suffix in ("", ".yaml") and file.stem in known:
        return known[file.stem]
    matches = difflib.get_close_matches(file.stem, known, n=1)
    hint = f"did you mean {matches[0]}?" if matches else f"give a sweep's file, or one of {', '.join(known)}"
    raise InputError(f"{file}: no such file: {hint}")


def _packaged() -> Path:
    """Return the folder of the package's sweeps: in a wheel beside this module, in a clone at the top."""
    folder = Path(__file__).parent / "tables"
    return folder if folder.is_dir() else Path(__file__).parents[3] / "configs"


def _imported(values: Sequence[object]) -> tuple[str, ...]:
    """Return all "module:Class" parts of the methods in nested values, each once."""
    imported: dict[str, None] = {}
    for value in values:
        if isinstance(value, Mapping):
            node = cast("Mapping[str, object]", value)
            method = node.get("method")
            if isinstance(method, str):
                imported |= dict.fromkeys(part.strip() for part in method.split("+") if ":" in part)
            imported |= dict.fromkeys(_imported(list(node.values())))
    return tuple(imported)


def _merged(shared: Mapping[str, Any], table: object, file: Path, title: str) -> dict[str, Any]:
    """Return a table with the shared values; a key without a value in the table removes the shared value."""
    own = mapping(table, f"{file}, {title}: write `protocol`, `sets` and `rows`")
    merged = {**shared, **own}
    for name in shared.keys() & own.keys():
        if isinstance(shared[name], dict) and name != "rows":
            merged[name] = {**shared[name], **mapping(own[name], f"{file}, {title}: {name} is no table")}
    return {name: value for name, value in merged.items() if value is not None or name not in shared}


def _table(title: str, entries: Mapping[str, Any], file: str) -> SweepTable:
    where = file if Path(file).stem == title else f"{file}, {title}"
    rows = mapping(entries.get("rows"), f"{where} has no rows: write a name and its method")
    common = {name: value for name, value in entries.items() if name not in _TABLE}
    values = {name: _value(name, value, where) for name, value in entries.items() if name in _TABLE}
    values = {name: value for name, value in values.items() if name not in ("rows", "root")}
    if not rows:
        raise InputError(f"{where} has no rows: write a name and its method")
    for name in ("protocol", "sets"):
        if name not in values:
            raise InputError(f"{where} says no {name}: give {_expected(name)}")
    values["rows"] = tuple(_row(name, options, common, where) for name, options in rows.items())
    _check_stray(common, values["rows"], where)
    _check_names([row.name for row in values["rows"]], where)
    _check_fit(values, where)
    _check_conditions(values, where)
    _check_new_names(values, where)
    if values["protocol"] == "few-shot" and "shots" not in values:
        values["shots"] = (1, 2, 4, 8, 16)
    return SweepTable(title=title, **values)


def _row(name: str, entry: object, common: Mapping[str, Any], where: str) -> SweepRow:
    title = f"{where}, row {name!r}"
    options = mapping(entry, f"{title}: write its options, as in `{{method: coop}}`")
    method = options.get("method", common.get("method"))
    if not isinstance(method, str):
        raise InputError(f"{title} says no method: give one, such as coop or fvgpt+coop")
    try:
        method = import_methods(method)
        part_names = parts(method)
        for key in options:
            if key not in (*_ROW, *_TRAINING, *part_names):
                raise InputError(
                    f"there is no option {key!r}; {nearest(key, (*_ROW, *_TRAINING, *part_names))}"
                )
        settings = {
            part: {**_settings(common, part), **_settings(options, part)}
            for part in part_names
            if part in options or part in common
        }
        training = typed(
            Recipe,
            {key: values[key] for values in (common, options) for key in _TRAINING if key in values},
            "",
        )
        merged = {key: options.get(key, common.get(key)) for key in _ROW[1:]}
        _check_masks(merged, options, method)
        if merged["backbone"] is not None:
            _check_backbone(merged["backbone"], method)
        configure("+".join(part_names), settings)
        recipe_for(method, training)
        if merged["template"] is not None:
            fill(str(merged["template"]), "x")
    except InputError as error:
        raise InputError(f"{title}: {error}") from error
    return SweepRow(name, "+".join(part_names), settings, training, **merged)


def _check_masks(merged: Mapping[str, Any], options: Mapping[str, Any], method: str) -> None:
    for key in ("masks", "test_masks"):
        value = merged[key]
        if value is not None and not (isinstance(value, str) and value):
            raise InputError(f"{key} is {value!r}: give the name of a set's masks, or a folder of masks")
    if options.get("test_masks") is not None and not sees_regions(method):
        raise InputError(f"test_masks is {options['test_masks']!r}, but {method} looks at none: leave it out")


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


def _settings(options: Mapping[str, Any], part: str) -> dict[str, Any]:
    value = options.get(part)
    settings = mapping(value, f"{part} is {value!r}: give its settings, as in `{part}: {{name: value}}`")
    return typed(methods()[part].config_type, settings, part)


def _value(name: str, value: Any, where: str) -> Any:
    """Return a value of a table in its stored type.

    Raises:
        InputError: The value has another type.
    """
    error = InputError(f"{where}: {name} is {value!r}: give {_expected(name)}")
    if name in _LISTS:
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        if name == "sets":
            values = [_key(item, where) if isinstance(item, str) else item for item in values]
        kind = _LISTS[name]
        fits = all(isinstance(item, int | float if kind is float else kind) for item in values)
        empty = not values and name != "conditions"  # no conditions: the set's own test split
        if empty or not fits or any(isinstance(item, bool) for item in values):
            raise error
        _check_list(name, values, error)
        return tuple(kind(item) for item in values)
    if name in _WORDS and value not in _WORDS[name]:
        matches = difflib.get_close_matches(str(value), _WORDS[name], n=1)
        raise InputError(f"{error}{f' (did you mean {matches[0]!r}?)' if matches else ''}")
    if (name in _TEXTS and not isinstance(value, str)) or (name in _FLAGS and not isinstance(value, bool)):
        raise error
    return _key(str(value), where) if name == "source" else value


def _key(name: str, where: str) -> str:
    """Return the key of a data set from any of its names."""
    try:
        return sets.key_of(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_list(name: str, values: Sequence[Any], error: InputError) -> None:
    if len(set(values)) < len(values):
        repeated = next(value for value in values if values.count(value) > 1)
        raise InputError(f"{error} (each once; {repeated!r} stands twice)")
    if name in ("shots", "seeds") and min(values) < (1 if name == "shots" else 0):
        raise error
    if name == "fractions" and not all(0 < value <= 1 for value in values):
        raise error
    if name == "selectors" and not set(values) <= set(get_args(Name)):
        raise error
    if name == "conditions" and not set(values) <= set(PASTED):
        raise error


def _expected(name: str) -> str:
    descriptions = {
        "seeds": "whole numbers, as in [1, 2, 3]",
        "shots": "whole numbers from 1 on",
        "fractions": "shares above 0 and up to 1, as in [0.25, 0.5, 1.0]",
        "sets": "keys of data sets, as in [dtd, eurosat]",
        "selectors": f"some of {', '.join(get_args(Name))}",
        "conditions": f"test splits, some of {', '.join(PASTED)}",
    }
    if name in _WORDS:
        return f"one of {', '.join(_WORDS[name])}"
    return descriptions.get(name, "true or false" if name in _FLAGS else "text")


def _check_stray(common: Mapping[str, Any], rows: Sequence[SweepRow], where: str) -> None:
    """Refuse keys that belong to no table and to no row's method."""
    part_names = {part for row in rows for part in parts(row.method)}
    known = (*_TABLE, *_ROW, *_TRAINING, *sorted(part_names))
    for key in common:
        if key not in known:
            raise InputError(f"{where}: there is no option {key!r}; {nearest(key, known)}")


def _check_names(names: Sequence[str], where: str) -> None:
    by_slug: dict[str, str] = {}
    for name in names:
        if not slug(name):
            raise InputError(f"{where}: row {name!r} makes no name of a folder: use letters or numbers")
        if slug(name) in by_slug:
            raise InputError(
                f"{where}: rows {by_slug[slug(name)]!r} and {name!r} have one folder: rename one"
            )
        by_slug[slug(name)] = name


def _check_fit(values: Mapping[str, Any], where: str) -> None:
    """Refuse values that the protocol does not use, and missing ones."""
    protocol = values["protocol"]
    for name, protocols in _ONLY_FOR.items():
        if values.get(name) and protocol not in protocols:
            raise InputError(
                f"{where}: {name} is for {' and '.join(protocols)}, not for {protocol}: leave it out"
            )
    transfer = protocol in _ONLY_FOR["source"]
    if transfer and "source" not in values:
        raise InputError(f"{where}: {protocol} needs `source`, the set that is trained on, such as imagenet")
    if transfer and values["source"] in values["sets"]:
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
