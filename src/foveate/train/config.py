"""`RunConfig`: one training run as a value, for the command line, option files, tables, sweeps and Python.

This module imports no PyTorch until a `RunConfig` is created, so that help pages are fast.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from foveate.clip.precision import Precision, precision_on
from foveate.clip.templates import fill
from foveate.configs import check_types, deciding, declared, mapping, nearest, typed
from foveate.errors import InputError
from foveate.foreground.options import MaskValues, OnBad
from foveate.methods.config import AUTO, is_auto
from foveate.select.configs import Name
from foveate.train.recipe import Recipe, recipe_for

Classes = Literal["all", "base"]
Banked = Literal["epochs", "fixed", "off"]
BankPrecision = Literal["float32", "float16"]
TrackerName = Literal["tensorboard", "wandb", "mlflow"]

MASKS = ("masks", "mask_values", "invert_masks")
_DECIDES = ("method", "clip", "dtype", "template", "seed", "shots", "select", "fraction", "classes")
_PLACES = ("photos", "images", "columns", "on_bad", "strict_shots", "backbone", "log_answers")


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run, before its pictures are loaded.

    Attributes:
        photos: Folder per class, CSV or JSONL (image,label[,mask,split]), CoOp split JSON, or hf:owner/name.
        method: A backbone (zeroshot, coop, kgcoop, promptsrc, mmrl, ...), a plug-in over one (fvgpt+coop), or
            auto: the one that suits these photos best.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded one, for drawn scenes.
        shots: Pictures per class, at most (16).
        select: Selector that chooses training pictures; it replaces the draw of shots.
        fraction: Share of each class that --select chooses.
        seed: Seed of the draw, the initial values, the order of pictures and the augmentation.
        classes: Train on all classes (all), or on the first half only (base), to measure the others as
            new.
        template: The data set's sentence, such as "a photo of a {}, a type of pet."; some methods ignore
            it.
        backbone: Folder or hub id of a tuned inner method (coop, for fvgpt+coop); it is not trained
            again.
        folds: Hold the shots back in so many parts and train without each in turn, to know how sure answers
            may be; 0 never does. By default 4 for methods that are solved at once (linear_probe), else 0.
        minutes: With --method auto: time to compare methods in; to encode the photos takes time of its own.
            By default 3.
        log_answers: Log after each epoch which pictures are answered rightly, for --select forgetting.
        track: Copy the run's log to TensorBoard, W&B (offline) or MLflow, in its folder.
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the frozen towers; auto is bfloat16 where the processor has it, and float16 on
            CUDA. What is learned is float32 always.
        masks: Foreground masks, white on the object: their folder, packed, a COCO file, or boxes.csv.
        images: Where a split JSON's pictures are, if not beside it.
        mask_values: What the numbers in mask files mean.
        invert_masks: Whether masks mark the background.
        on_bad: Stop at a bad picture or mask, or leave it out and say so.
        strict_shots: Whether a class with fewer pictures than shots is an error.
        bank: Encode each epoch's views once and keep their features; learn from one fixed view of a picture;
            or encode at each need (off).
        bank_dir: Folder of kept features, for other runs too; else the user's folder of caches.
        bank_dtype: Precision in which they are kept.
        columns: The names that a list has for its columns: {"image": "file_name"}.
        recipe: What differs from the method's training recipe: {"epochs": 5}.
        settings: What differs from the settings of the method's parts: {"coop": {"tokens": 16}}.

    Raises:
        InputError: A value has the wrong type or is out of range, or two values contradict each other.
    """

    photos: str | None = None
    method: str = "fvgpt+coop"
    clip: str = "tiny"
    shots: int | None = None
    select: Name | None = None
    fraction: float | None = None
    seed: int = 1
    classes: Classes = "all"
    template: str | None = None
    backbone: str | None = None
    folds: int | None = None
    minutes: float | None = None
    log_answers: bool = False
    track: TrackerName | None = None
    device: str = "cpu"
    dtype: Precision = "float32"
    masks: str | None = None
    images: str | None = None
    mask_values: MaskValues = "auto"
    invert_masks: bool = False
    on_bad: OnBad = "error"
    strict_shots: bool = False
    bank: Banked = "epochs"
    bank_dir: str | None = None
    bank_dtype: BankPrecision = "float32"
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    recipe: Mapping[str, Any] = field(default_factory=dict[str, Any])
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def __post_init__(self) -> None:
        from foveate.methods.registry import configure, parts

        check_types(self, "")
        object.__setattr__(
            self, "dtype", precision_on(self.device, self.dtype)
        )  # the resolved value is stored
        self._check_auto()
        if self.is_auto:
            object.__setattr__(self, "method", AUTO)
            self._check_plain()
            return
        method = "+".join(parts(self.method))
        configs = configure(method, self.settings)
        settings = {
            part: {name: getattr(configs[part], name) for name in changes}
            for part, changes in self.settings.items()
        }
        recipe = {name: value for name, value in self.recipe.items() if value is not None}
        augment = recipe.get("augment", "none")
        if self.bank == "fixed" and augment != "none":
            raise InputError(
                f"bank is 'fixed', which takes the centred view alone, but augment is {augment!r}:"
                " leave one out"
            )
        for name, value in (
            ("method", method),
            ("settings", settings),
            ("recipe", typed(Recipe, recipe, "")),
        ):
            object.__setattr__(self, name, value)
        _ = self.schedule
        self._check_plain()

    def _check_plain(self) -> None:
        """Check what does not depend on the method."""
        if self.folds is not None and (self.folds < 0 or self.folds == 1):
            raise InputError(f"folds is {self.folds}: give 2 or more, or 0 for none")
        if self.template is not None:
            fill(self.template, "name")
        self._check_draw()

    @classmethod
    def of(cls, values: Mapping[str, Any], title: str = "a run") -> "RunConfig":
        """Make a run from options: fields, recipe and settings in one flat table.

        Args:
            values: Fields by name; `epochs`, `lr` and so on for the recipe; settings as a table of their
                part or by dotted names: {"coop": {"tokens": 4}}, {"coop.tokens": 4}.
            title: Name of the run in error messages.

        Raises:
            InputError: An option does not exist, or a value is refused as for the class.
        """
        from foveate.methods.registry import methods

        options, recipe, settings = dict[str, Any](), dict[str, Any](), dict[str, dict[str, Any]]()
        for name, value in values.items():
            part, dot, setting = name.partition(".")
            if name in declared(cls):
                options[name] = value
            elif name in declared(Recipe):
                recipe[name] = value
            elif part in methods():
                message = f"{part} is {value!r}: give its settings by name, as in {{name: value}}"
                settings.setdefault(part, {}).update({setting: value} if dot else mapping(value, message))
            else:
                raise InputError(f"{title} has no option {name!r}; {nearest(name, OPTIONS)}")
        if isinstance(options.get("columns"), str):
            from foveate.data.tables import read_columns

            options["columns"] = read_columns(options["columns"])
        recipe_table, settings_table = options.pop("recipe", None), options.pop("settings", None)
        recipe |= mapping(recipe_table, f"recipe is {recipe_table!r}: give a table, as in {{'epochs': 5}}")
        settings_table = mapping(
            settings_table, f"settings is {settings_table!r}: give a table, as in {{'coop': {{'tokens': 4}}}}"
        )
        return cls(**typed(cls, options, ""), recipe=recipe, settings={**settings_table, **settings})

    @property
    def is_auto(self) -> bool:
        """Whether the method is still to be chosen."""
        return is_auto(self.method)

    @cached_property
    def schedule(self) -> Recipe:
        """The complete recipe: that of the method, with the changes of this run."""
        fixed = {"augment": "none"} if self.bank == "fixed" else {}
        return recipe_for(self.method, {**self.recipe, **fixed})

    @property
    def configured(self) -> dict[str, Any]:
        """All settings of the method's parts, as dataclasses."""
        from foveate.methods.registry import configure

        return configure(self.method, self.settings)

    @cached_property
    def needs_masks(self) -> bool:
        """Whether training needs foreground masks, for the method or for exchanged views."""
        from foveate.methods.registry import needs_masks

        return not self.is_auto and (self.schedule.exchanged > 0 or needs_masks(self.method, self.settings))

    @property
    def inner(self) -> "RunConfig | None":
        """The run of a plug-in's backbone; None if the method is no plug-in."""
        from foveate.methods.registry import parts, stages

        *inner_stages, _ = stages(self.method)
        if not inner_stages:
            return None
        settings = {part: values for part, values in self.settings.items() if part in parts(inner_stages[-1])}
        return replace(self, method=inner_stages[-1], settings=settings, backbone=None)

    def identity(self) -> dict[str, Any]:
        """Return all that determines the result except the pictures, as JSON; settings as by `deciding`."""
        values = {name: getattr(self, name) for name in _DECIDES}
        if self.is_auto:
            return values | {"minutes": self.minutes, "bank": self.bank}
        values["settings"] = {part: deciding(config) for part, config in self.configured.items()}
        values["recipe"] = deciding(self.schedule)
        if self.bank != "off" and self.bank_dtype != "float32":
            values["bank_dtype"] = self.bank_dtype
        return json.loads(json.dumps(values))

    @cached_property
    def key(self) -> str:
        """64 hex digits. Runs with the same key are the same training on the same data."""
        places = (*_PLACES, *MASKS) if self.needs_masks else _PLACES
        return digest({**self.identity(), **{name: getattr(self, name) for name in places}})

    def as_dict(self) -> dict[str, Any]:
        """Return the values that differ from the defaults, for JSON and YAML; `of` reads them."""
        values = json.loads(json.dumps(asdict(self)))
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {name: value for name, value in values.items() if value not in (defaults[name], {})}

    def here(self) -> "RunConfig":
        """Return the same run with absolute paths, for use in another working directory."""
        paths = {name: whole_path(getattr(self, name)) for name in ("photos", "masks", "images", "backbone")}
        return replace(self, **paths)

    def _check_auto(self) -> None:
        """Refuse options that `--method auto` does not allow, and options that only it allows."""
        if not self.is_auto:
            if self.minutes is not None:
                raise InputError(
                    f"--minutes is the time of --method auto, and the method is {self.method!r}: leave one"
                    " out"
                )
            return
        flags = [f"--{part}.{name}" for part, values in self.settings.items() for name in values]
        flags += [f"--{name}" for name, value in self.recipe.items() if value is not None]
        flags += ["--backbone"] if self.backbone is not None else []
        flags += ["--bank off"] if self.bank == "off" else []
        if flags:
            flag = flags[0].replace("_", "-")
            raise InputError(
                f"--method auto compares methods with their own settings on kept features: leave {flag} out,"
                " or name a method"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"minutes is {self.minutes:g}: give a number above zero")

    def _check_draw(self) -> None:
        """Refuse shots together with `select`, and `select` without `fraction` or the reverse."""
        if self.shots is not None and self.shots < 1:
            raise InputError(f"shots is {self.shots}: give at least 1")
        if self.select is None:
            if self.fraction is not None:
                raise InputError(
                    f"--fraction is {self.fraction:g}: say who chooses with --select, e.g. herding"
                )
            return
        if self.shots is not None or self.strict_shots:
            flag = "--strict-shots" if self.shots is None else "--shots"
            raise InputError(
                f"--select and {flag} both say how many pictures are learned from: leave one out"
            )
        if self.fraction is None:
            raise InputError(
                f"--select is {self.select}: say which share of each class with --fraction, e.g. 0.2"
            )


def whole_path(path: str | None) -> str | None:
    """Return the absolute path of an existing file; a hub name or a missing path stays unchanged."""
    if path is None:
        return None
    absolute = Path(path).expanduser().absolute()
    return str(absolute) if absolute.exists() else path


OPTIONS = tuple(entry.name for kind in (RunConfig, Recipe) for entry in fields(kind))
"""Names of the options of any run, without the settings of parts."""


def digest(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a table; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
