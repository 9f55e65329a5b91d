"""One run: resolve its settings, load and draw pictures, and train its stages in order; each can resume."""

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foveate.clip.model import Clip
from foveate.data.feature_store import FeatureStore
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.data.sources import Source, load_photos
from foveate.errors import InputError
from foveate.files import cache_folder
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet, watchers
from foveate.methods.registry import Settings, build_stage, needs_val, stages
from foveate.train.backbone import TunedBackbone, load_backbone
from foveate.train.banking import BankPlan, StageBatches, open_bank, training_pictures
from foveate.train.checkpoint import ModelConfig
from foveate.train.config import RunConfig
from foveate.train.context import Context
from foveate.train.folder import BANK, LOG, STAGES, abandon_run, answered
from foveate.train.journal import Journal, Reporter
from foveate.train.loop import Diverged, fit
from foveate.train.parallel import ProcessGroup, ProcessLost
from foveate.train.recipe import Recipe
from foveate.train.selecting import SelectionRequest, select, shots_of
from foveate.train.shots import Chosen, choose
from foveate.train.together import DataParallel, TrainStep

KEPT = 5_000_000_000
"""Bytes of features of earlier runs that are kept in the user's cache folder when a run begins."""


@dataclass(frozen=True)
class Run:
    """A run with its towers, its final config and, if tuned before, its backbone.

    Attributes:
        config: Settings of the run; with a backbone, its settings and template are included.
        clip: The frozen towers.
        backbone: The tuned inner method.
    """

    config: RunConfig
    clip: Clip
    backbone: TunedBackbone | None = None

    def identity(self, chosen: Chosen) -> dict[str, Any]:
        """Return all that determines the result of the run, as JSON."""
        config, photos = self.config, chosen.photos
        values = {
            "fingerprint": self.clip.fingerprint(),
            "names": list(photos.names),
            "shots": chosen.shots or 0,
            "pictures": len(photos),
            "data": photos.digest(masks=config.needs_masks)[:16],
            "with_masks": config.needs_masks,
            "version": version("foveate"),
        }
        values |= {"selection": chosen.selection} if chosen.selection else {}
        values |= {"val": chosen.val.digest()[:16]} if len(chosen.val) else {}
        values |= {"backbone": self.backbone.digest} if self.backbone else {}
        return {**config.identity(), **values}

    def model(self, chosen: Chosen) -> ModelConfig:
        """Return the config of the tuned model."""
        identity = self.identity(chosen)
        identity["settings"] = {
            part: asdict(part_config) for part, part_config in self.config.configured.items()
        }
        known = {field.name: identity[field.name] for field in fields(ModelConfig) if field.name in identity}
        return ModelConfig(**known, precision=self.config.dtype, val_pictures=len(chosen.val))

    def notes(self, chosen: Chosen) -> list[str]:
        """Return notes for the user on the backbone and the pictures."""
        return self.backbone.notes(chosen.photos) if self.backbone else []


def resolve(config: RunConfig, clip: Clip, tuned: TunedBackbone | None = None) -> Run:
    """Fill in the settings that a run takes from a tuned backbone.

    Args:
        config: The given config; `clip` and `dtype` are those of the towers.
        clip: The towers.
        tuned: The backbone, if it is loaded already.

    Raises:
        InputError: The backbone does not exist, or its method, towers, settings or template differ.
    """
    if config.backbone is None:
        return Run(config, clip)
    tuned = tuned or load_backbone(config.backbone, config.method)
    tuned.check_towers(clip, config.clip)
    settings, template = tuned.settings_of(config.method, config.settings), tuned.template(config.template)
    return Run(replace(config, settings=settings, template=template), clip, tuned)


def load(config: RunConfig, data: Source | None = None) -> Photos:
    """Load the pictures of a run.

    Args:
        config: The run, with the paths of pictures and masks.
        data: Pictures that replace `config.photos`.

    Raises:
        InputError: The pictures do not exist or cannot be used.
    """
    source = config.photos if data is None else data
    if source is None:
        raise InputError("there are no photos to learn from: say where they are")
    return load_photos(
        source,
        masks=config.masks,
        images=config.images,
        mask_values=config.mask_values,
        invert_masks=config.invert_masks,
        columns=config.columns or None,
    )


def draw(run: Run, photos: Photos, context: Context) -> Chosen:
    """Choose the training pictures and check each of them.

    If the method is still to be chosen, the run takes all that any method may need: masks and validation
    pictures.

    Args:
        run: The run.
        photos: All pictures.
        context: The reporter and the process group.

    Raises:
        InputError: No usable training set remains; the message gives the reason.
    """
    config, reporter = run.config, context.local_reporter
    request = _selection_request(config, keep=context.first)
    shots, selection = shots_of(photos, config.shots, request)
    any_masks = config.is_auto and any(sample.mask for sample in photos.split("train", None).samples)
    chosen = choose(
        photos,
        shots,
        config.seed,
        select=None if request is None else partial(_select, run.clip, request, reporter),
        base_only=config.classes == "base",
        with_masks=any_masks or config.needs_masks,
        with_val=config.is_auto or needs_val(config.method, config.settings),
        on_bad=config.on_bad,
        strict=config.strict_shots,
        watch=partial(reporter.count, "checking pictures"),
    )
    return replace(chosen, shots=shots, selection=selection)


def bank_place(config: RunConfig, folder: Path | None) -> Path | None:
    """Return the folder of a run's bank; None keeps features in memory.

    Features of runs with a folder are kept for later runs too, if there is a cache folder.
    """
    if config.bank_dir:
        return Path(config.bank_dir).expanduser()
    return folder and (_kept_features() or folder / BANK)


def _kept_features() -> Path | None:
    """Return the folder of features that are kept for later runs; None if there is no such folder."""
    folder = cache_folder("features")
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if folder is not None and os.access(folder, os.W_OK) else None


def train(run: Run, chosen: Chosen, folder: Path | None, context: Context) -> Method:
    """Train all stages of a run.

    Args:
        run: The run.
        chosen: The training pictures.
        folder: Run folder; None writes nothing to disk, and the run cannot resume.
        context: The reporter and the process group.

    Raises:
        InputError: Training diverged, or the settings leave nothing to train; a folder that cannot
            resume is freed.
    """
    config, photos = run.config, chosen.photos
    bank_folder = bank_place(config, folder)
    if context.first and bank_folder is not None and bank_folder == cache_folder("features"):
        FeatureStore(bank_folder).trim(KEPT)
    try:
        return run_stages(
            config.method,
            run.clip,
            photos,
            config.schedule,
            settings=config.settings,
            template=config.template,
            seed=config.seed,
            val=chosen.val,
            backbone=run.backbone and run.backbone.build(run.clip, photos.names, config.template),
            folder=folder,
            bank=None if config.bank == "off" else BankPlan(bank_folder, config.bank_dtype),
            log_answers=config.log_answers,
            context=context,
        )
    except InputError as error:
        if folder and context.first and not isinstance(error, ProcessLost):
            # The same run would fail again at the same step.
            abandon_run(folder, keep_states=not isinstance(error, Diverged))
        raise


def _selection_request(config: RunConfig, *, keep: bool) -> SelectionRequest | None:
    """Return the settings of the selector; None if shots are drawn."""
    if config.select is None or config.fraction is None:
        return None
    bank = bank_place(config, None) if config.bank != "off" and keep else None
    return SelectionRequest(config.select, config.fraction, config.seed, template=config.template, bank=bank)


def _select(clip: Clip, request: SelectionRequest, reporter: Reporter, pool: Photos) -> Photos:
    return select(pool, clip, request, reporter.count).photos


def run_stages(  # noqa: PLR0913  (everything that decides a run, all by name)
    method: str,
    clip: Clip,
    photos: Photos,
    recipe: Recipe,
    *,
    settings: Settings | None = None,
    template: str | None = None,
    seed: int = 1,
    val: Photos | None = None,
    backbone: Method | None = None,
    folder: Path | None = None,
    bank: BankPlan | None = None,
    log_answers: bool = False,
    context: Context | None = None,
) -> Method:
    """Train the backbone and the plug-ins in order, each on the frozen method before.

    Args:
        method: Name of the method; "fvgpt+coop" trains CoOp first, then FVG-PT on it.
        clip: The frozen towers.
        photos: Training pictures, with masks if the method needs them.
        recipe: Recipe of each stage.
        settings: Changes to the default settings of each part.
        template: The data set's sentence.
        seed: Seed of initial values, orders and views.
        val: Validation pictures to choose settings on; no test pictures.
        backbone: A tuned inner method with its classes set; then only the outermost plug-in is trained.
        folder: Run folder; None writes nothing and cannot resume.
        bank: Place of the features of frozen towers; None encodes each view whenever it is needed.
        log_answers: Log after each epoch which pictures are classified correctly.
        context: The reporter and the process group. All processes call this function and share each
            batch. Only the folder of the first process is used.
    """
    built, context = backbone, context or Context()
    folder = folder if context.first else None
    # Orders and views depend on the seed only, so each stage has the same shots in the same views.
    pictures = training_pictures(photos, clip.config, recipe, seed)
    stage_bank = None if bank is None else open_bank(bank, pictures, clip, context.process_group)
    val_pictures = None if val is None or not len(val) else eval_pictures(val, clip.config)
    for stage in stages(method) if backbone is None else stages(method)[-1:]:
        stage_recipe = recipe if built is None else replace(recipe, average_mean=None)
        built = build_stage(stage, clip, built, settings, seed)
        built.set_classes(photos.names, template)
        batches = StageBatches(stage, built, pictures, stage_recipe, stage_bank, context)
        journal = _journal(stage, folder, context, partial(answered, built, photos) if log_answers else None)
        _fit_stage(stage, built, batches, journal, batches.support(val_pictures), context)
        for part in reversed(watchers(built)) if context.first else ():
            for note in part.warnings():
                warnings.warn(note, stacklevel=2)
    assert built is not None
    return built


def _shared(stage: str, process_group: ProcessGroup, pictures: int) -> TrainStep:
    """Return the steps of a stage in a process group; add a note if batches are too small for it."""
    world = process_group.share.world
    idle = world - pictures
    if idle > 0 and process_group.first:
        warnings.warn(
            f"{stage}: {world} processes share batches of {pictures}, so that {idle} of them"
            " have no picture of their own; a larger --batch-size gives them some",
            stacklevel=3,
        )
    return DataParallel(process_group, pictures)


def _journal(
    stage: str, folder: Path | None, context: Context, answers: Callable[[], dict[str, bool]] | None
) -> Journal | None:
    """Return the log of a stage, if there is one."""
    if folder:
        (folder / STAGES).mkdir(exist_ok=True)
        return Journal(folder / LOG, stage, answers)
    # Other processes compute the predictions too; otherwise they could time out while they wait.
    return Journal(None, stage, answers) if answers and context.process_group else None


def _fit_stage(
    stage: str,
    method: Method,
    batches: StageBatches,
    journal: Journal | None,
    support: SupportSet,
    context: Context,
) -> None:
    recipe = batches.recipe
    total = recipe.epochs * batches.pictures.steps(recipe.batch_size, drop_last=True)
    state = steps = None
    if journal and journal.path:
        state = journal.path.parent / STAGES / f"{re.sub('[^a-z0-9]+', '-', stage)}.safetensors"
    if context.process_group is not None:
        steps = _shared(stage, context.process_group, min(recipe.batch_size, len(batches.pictures)))
    watch = partial(context.local_reporter.step, stage, total)
    try:
        fit(
            method, batches, recipe, support=support, state=state, journal=journal, on_step=watch, steps=steps
        )
    except Diverged as error:
        raise Diverged(f"{stage}, {error}") from error
