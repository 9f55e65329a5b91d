"""One method, measured in this process: its last stage's steps without and with a bank, and its answers."""

import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.weights import demand_device, load_clip
from foveate.costs.drawn import draw_photos, made_up_names
from foveate.costs.peaks import peak_mb
from foveate.costs.windows import Speed, Windows
from foveate.data.loader import PictureSet
from foveate.errors import InputError
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, capability
from foveate.methods.frozen import frozen_specs
from foveate.methods.registry import build, parts, stages, wrap
from foveate.train.banking import BankPlan, StageBatches, open_bank, seen_as_asked, training_pictures
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch, Branch

RANDOM = "random"
"""In place of a source of weights: random ones of ViT-B/16's size."""

_EPOCH = {"cpu": (16, 2), "cuda": (256, 8)}  # pictures of an epoch, and batches of it, at least
_ASKED = {"cpu": 8, "cuda": 100}  # pictures of a pass of answers; a CPU encodes eight at once


@dataclass(frozen=True)
class CostPlan:
    """What is measured, and how long.

    Attributes:
        method: E.g. "fvgpt+mmrl".
        clip: What `load_clip` takes, or `RANDOM`.
        classes: How many; 51 is the base half of Flowers102.
        batch_size: Pictures a step; None takes the method's recipe.
        device: Where the towers run.
        dtype: Precision of the frozen towers.
        shots: Pictures a class, for methods that look at all of them before the first step.
        pictures: Of an epoch, and so of a bank, and at most of a pass of answers; None takes 16 on a CPU and
            256 on a GPU, and more where a batch is large.
        windows: Measurements of each figure.
        seconds: Least length of each.
    """

    method: str
    clip: str = RANDOM
    classes: int = 51
    batch_size: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    shots: int = 16
    pictures: int | None = None
    windows: int = 5
    seconds: float = 1.0


@dataclass(frozen=True)
class MeasuredCost:
    """What was measured. Speeds are pictures a second.

    Attributes:
        method: E.g. "fvgpt+mmrl".
        stage: What was tuned: "fvgpt", over a frozen backbone.
        learned_numbers: That the stage learns.
        batch_size: Pictures a step.
        tuning: Of whole steps: read, decode, encode, loss, gradient, optimiser. None where none are taken.
        banked: Of the same steps, with features of frozen towers on the shelf; None where there are none.
        filling: Of making such features, decoding included.
        inference: Of answers among trained names; pictures are decoded already, class texts constant.
        new_inference: Of answers among new names.
        peak_memory_mb: Most memory so far when tuning without a bank had ended.
        loaded_mb: The same, once the towers were there.
    """

    method: str
    stage: str
    learned_numbers: int
    batch_size: int
    tuning: Speed | None
    banked: Speed | None
    filling: float | None
    inference: Speed
    new_inference: Speed
    peak_memory_mb: float
    loaded_mb: float


def measure(plan: CostPlan) -> MeasuredCost:
    """Measure one method.

    Peaks are those of the whole process, so a process should measure one method only.

    Raises:
        InputError: No such method, CLIP or device, or a number that makes no sense.
    """
    check(plan)
    recipe = _recipe(plan)
    clip = towers(plan)
    loaded = peak_mb(plan.device)
    method = last_stage(plan.method, clip)
    names = made_up_names(plan.classes)
    method.set_classes(names)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the method says of pictures that mean nothing
        pictures = _pictures(Path(folder), plan, method, recipe, names)
        watch = partial(Windows, plan.windows, plan.seconds, _settle(plan.device))
        feed = StageBatches(plan.method, method, pictures, recipe)
        tuning = _tune(method, feed, recipe, watch(), pictures.varies)
        peak = peak_mb(plan.device) if tuning else 0.0
        filling, banked = _tune_on_bank(method, clip, pictures, recipe, watch) if tuning else (None, None)
        images = _asked(pictures, clip, plan)
        branches: tuple[Branch, Branch] = ("base", "new")
        base, new = (_answer(method, images, branch, watch()) for branch in branches)
    return MeasuredCost(
        method=plan.method,
        stage=parts(plan.method)[0] if len(stages(plan.method)) > 1 else plan.method,
        learned_numbers=learned_numbers(method),
        batch_size=recipe.batch_size,
        tuning=tuning,
        banked=banked,
        filling=filling,
        inference=base,
        new_inference=new,
        peak_memory_mb=peak or peak_mb(plan.device),
        loaded_mb=loaded,
    )


def check(plan: CostPlan) -> None:
    """Refuse a plan that cannot be measured, before anything is loaded.

    Raises:
        InputError: It says what to give instead.
    """
    parts(plan.method)
    demand_device(plan.device)
    _recipe(plan)
    for name, least in (("classes", 2), ("shots", 1), ("pictures", 1), ("windows", 1)):
        given = getattr(plan, name)
        if given is not None and given < least:
            raise InputError(f"{name} is {given}: give {least} or more")
    if not plan.seconds >= 0:
        raise InputError(f"seconds is {plan.seconds}: give zero or more")


def _recipe(plan: CostPlan) -> Recipe:
    # One epoch is all there is: how many would follow does not change a step. Nor may a loss end it.
    recipe = recipe_for(plan.method, {"batch_size": plan.batch_size, "epochs": 1})
    return replace(recipe, explode_at=1e30)


def towers(plan: CostPlan) -> Clip:
    """Return the frozen towers.

    Raises:
        InputError: There are no such weights.
    """
    dtype = getattr(torch, plan.dtype)
    if plan.clip != RANDOM:
        return load_clip(plan.clip, dtype=dtype, device=plan.device)
    clip = Clip(ClipConfig()).initialise(torch.Generator().manual_seed(0))
    scale = clip.logit_scale.data.clone()
    clip = clip.to(device=plan.device, dtype=dtype)
    clip.logit_scale.data = scale.to(plan.device)
    return clip.eval().requires_grad_(False)


def last_stage(method: str, clip: Clip) -> Method:
    """Build what is trained last, over a frozen and untuned rest: how long a step takes is the same."""
    *before, last = stages(method)
    return wrap(parts(last)[0], build(before[-1], clip)) if before else build(last, clip)


def learned_numbers(method: Method) -> int:
    """Return how many numbers a stage learns, by gradients or by solving for them; not those below it."""
    own = method.trainable() or method.learned()
    return sum(tensor.numel() for tensor in own.values())


def _pictures(folder: Path, plan: CostPlan, method: Method, recipe: Recipe, names: list[str]) -> PictureSet:
    least, batches = _EPOCH[_kind(plan)]
    number = plan.pictures or max(least, batches * recipe.batch_size)
    drawn = draw_photos(folder, number, names)
    if capability(
        method, ClosedForm, trained=True
    ):  # at all pictures of a training; one is as good as another
        turns = math.ceil(plan.shots * plan.classes / number)
        drawn = drawn.with_samples((drawn.samples * turns)[: plan.shots * plan.classes])
        drawn = drawn.with_samples(
            [replace(sample, label=row % plan.classes) for row, sample in enumerate(drawn.samples)]
        )
    return training_pictures(drawn, method.clip.config, recipe, seed=1)


def _kind(plan: CostPlan) -> str:
    return "cuda" if torch.device(plan.device).type == "cuda" else "cpu"


def _settle(device: str) -> partial[None]:
    return partial(torch.cuda.synchronize, device) if torch.device(device).type == "cuda" else partial(_wait)


def _wait() -> None:
    """A CPU has done what it was given."""


def _tune(
    method: Method, feed: StageBatches, recipe: Recipe, windows: Windows, other_views: bool
) -> Speed | None:
    """Take steps of the real loop until the windows are full; None where the method takes none."""

    def batches(_: int) -> Iterator[Batch]:
        windows.begin()
        for turn in count():
            for batch in feed(turn if other_views else 0):
                yield batch
                windows.count(len(batch.labels))  # back here, the loop has made its step
                if windows.done:
                    return

    fit(method, batches, recipe, support=feed.support())
    return windows.speed() if windows.done else None


def _tune_on_bank(
    method: Method, clip: Clip, pictures: PictureSet, recipe: Recipe, watch: partial[Windows]
) -> tuple[float | None, Speed | None]:
    """Return how fast a bank is made, and how fast steps on it are."""
    if not frozen_specs(method):
        return None, None
    feed = StageBatches("", method, pictures, recipe, open_bank(BankPlan(), pictures, clip))
    settle = _settle(str(clip.logit_scale.device))
    settle()
    start = time.perf_counter()
    for _ in feed(0):
        pass
    settle()
    filling = len(pictures) / (time.perf_counter() - start)
    return filling, _tune(method, feed, recipe, watch(), other_views=False)


def _asked(pictures: PictureSet, clip: Clip, plan: CostPlan) -> torch.Tensor:
    """Return pictures as predictions see them, decoded, on the device."""
    number = min(_ASKED[_kind(plan)], plan.pictures or 100)
    photos = pictures.photos.with_samples((pictures.photos.samples * number)[:number])
    whole = next(iter(seen_as_asked(photos, clip.config).batches(None, number, workers=0)))
    return sent(whole.images, clip.logit_scale.device)


def _answer(method: Method, images: torch.Tensor, branch: Branch, windows: Windows) -> Speed:
    """Ask about the same pictures until the windows are full; class texts are read once, in the warm-up."""
    method.eval()
    with method.constant_text():
        while not windows.done:
            method.logits(method.features(images, branch), branch).cpu()
            windows.count(len(images))
    return windows.speed()
