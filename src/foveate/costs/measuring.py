"""Measures one method in this process: steps of its last stage without and with a bank, and inference."""

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
from foveate.clip.precision import dtype_on
from foveate.clip.weights import demand_device, load_clip
from foveate.costs.drawn import draw_photos, made_up_names
from foveate.costs.peaks import peak_mb
from foveate.costs.windows import Speed, Windows
from foveate.data.loader import PictureSet, eval_pictures
from foveate.errors import InputError
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, capability
from foveate.methods.frozen import frozen_specs
from foveate.methods.registry import build, parts, stages, wrap
from foveate.train.banking import BankPlan, StageBatches, open_bank, training_pictures
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch, Branch

RANDOM = "random"
"""Replaces a source of weights: random weights of ViT-B/16's size."""

_EPOCH_MINIMUM = {"cpu": (16, 2), "cuda": (256, 8)}  # pictures and batches of an epoch, minimum
_INFERENCE_PICTURES = {"cpu": 8, "cuda": 100}  # pictures of an inference pass; a CPU encodes eight at once


@dataclass(frozen=True)
class CostPlan:
    """Settings of a measurement.

    Attributes:
        method: Method, e.g. "fvgpt+mmrl".
        clip: Source for `load_clip`, or `RANDOM`.
        classes: Number of classes; 51 is the base half of Flowers102.
        batch_size: Number of pictures in a step; None uses the method's recipe.
        device: Device of the towers.
        dtype: Precision of the frozen towers.
        shots: Pictures of each class, for methods that process all of them before the first step.
        pictures: Number of pictures in an epoch and in a bank, and maximum in an inference pass. None
            uses 16 on a CPU and 256 on a GPU, and more for large batches.
        windows: Number of measurements of each figure.
        seconds: Minimum duration of each measurement.
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
    """Measured cost. Speeds are in pictures per second.

    Attributes:
        method: Method, e.g. "fvgpt+mmrl".
        stage: The tuned stage: "fvgpt", over a frozen backbone.
        learned_numbers: Number of learned parameters of the stage.
        batch_size: Number of pictures in a step.
        tuning: Speed of complete steps: read, decode, encode, loss, gradient, optimiser. None if there
            are none.
        banked: Speed of the same steps with stored features of frozen towers; None if there are none.
        filling: Speed of computing such features, including decoding.
        inference: Speed of inference with trained names; pictures are decoded, and text features are
            cached.
        new_inference: Speed of inference with new names.
        peak_memory_mb: Peak memory at the end of tuning without a bank.
        loaded_mb: Peak memory after loading the towers.
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

    Peaks are those of the whole process, so a process should measure only one method.

    Raises:
        InputError: The method, CLIP or device does not exist, or a number is invalid.
    """
    check(plan)
    recipe = _recipe(plan)
    clip = towers(plan)
    loaded = peak_mb(plan.device)
    method = last_stage(plan.method, clip)
    names = made_up_names(plan.classes)
    method.set_classes(names)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about synthetic pictures
        pictures = _pictures(Path(folder), plan, method, recipe, names)
        new_windows = partial(Windows, plan.windows, plan.seconds, partial(_settle, plan.device))
        batches = StageBatches(plan.method, method, pictures, recipe)
        tuning = _measure_steps(method, batches, recipe, new_windows(), pictures.varies)
        peak = peak_mb(plan.device) if tuning else 0.0
        filling, banked = (
            _measure_bank(method, clip, pictures, recipe, new_windows) if tuning else (None, None)
        )
        images = _test_images(pictures, clip, plan)
        branches: tuple[Branch, Branch] = ("base", "new")
        base, new = (_answer(method, images, branch, new_windows()) for branch in branches)
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
        InputError: The message gives valid values.
    """
    parts(plan.method)
    demand_device(plan.device)
    _recipe(plan)
    for name, minimum in (("classes", 2), ("shots", 1), ("pictures", 1), ("windows", 1)):
        value = getattr(plan, name)
        if value is not None and value < minimum:
            raise InputError(f"{name} is {value}: give {minimum} or more")
    if not plan.seconds >= 0:
        raise InputError(f"seconds is {plan.seconds}: give zero or more")


def _recipe(plan: CostPlan) -> Recipe:
    # One epoch only: the number of epochs does not change a step. A bad loss must not stop it either.
    recipe = recipe_for(plan.method, {"batch_size": plan.batch_size, "epochs": 1})
    return replace(recipe, explode_at=1e30)


def towers(plan: CostPlan) -> Clip:
    """Return the frozen towers.

    Raises:
        InputError: The weights do not exist.
    """
    if plan.clip != RANDOM:
        return load_clip(plan.clip, dtype=plan.dtype, device=plan.device)
    clip = Clip(ClipConfig()).initialise(torch.Generator().manual_seed(0))
    scale = clip.logit_scale.data.clone()
    clip = clip.to(device=plan.device, dtype=dtype_on(plan.device, plan.dtype))
    clip.logit_scale.data = scale.to(plan.device)
    return clip.eval().requires_grad_(False)


def last_stage(method: str, clip: Clip) -> Method:
    """Build the last trained stage over a frozen, untuned backbone: the duration of a step is the same."""
    *earlier, last = stages(method)
    return wrap(parts(last)[0], build(earlier[-1], clip)) if earlier else build(last, clip)


def learned_numbers(method: Method) -> int:
    """Return the number of parameters that a stage learns, by gradients or in closed form."""
    tensors = method.trainable() or method.learned()
    return sum(tensor.numel() for tensor in tensors.values())


def _pictures(folder: Path, plan: CostPlan, method: Method, recipe: Recipe, names: list[str]) -> PictureSet:
    minimum, batches = _EPOCH_MINIMUM[_kind(plan)]
    number = plan.pictures or max(minimum, batches * recipe.batch_size)
    photos = draw_photos(folder, number, names)
    if capability(
        method, ClosedForm, trained=True
    ):  # it uses all training pictures, so drawn pictures are repeated up to their number
        repeats = math.ceil(plan.shots * plan.classes / number)
        photos = photos.with_samples((photos.samples * repeats)[: plan.shots * plan.classes])
        photos = photos.with_samples(
            [replace(sample, label=index % plan.classes) for index, sample in enumerate(photos.samples)]
        )
    return training_pictures(photos, method.clip.config, recipe, seed=1)


def _kind(plan: CostPlan) -> str:
    return "cuda" if torch.device(plan.device).type == "cuda" else "cpu"


def _settle(device: str) -> None:
    """Wait until a GPU has finished; a CPU works synchronously."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _measure_steps(
    method: Method, epoch_batches: StageBatches, recipe: Recipe, windows: Windows, other_views: bool
) -> Speed | None:
    """Run steps of the real training loop until the windows are full; return None if there are none."""

    def batches(_: int) -> Iterator[Batch]:
        windows.begin()
        for epoch in count():
            for batch in epoch_batches(epoch if other_views else 0):
                yield batch
                windows.count(len(batch.labels))  # when control returns here, the step is done
                if windows.done:
                    return

    fit(method, batches, recipe, support=epoch_batches.support())
    return windows.speed() if windows.done else None


def _measure_bank(
    method: Method, clip: Clip, pictures: PictureSet, recipe: Recipe, new_windows: partial[Windows]
) -> tuple[float | None, Speed | None]:
    """Return the speed of filling a bank, and of steps with it."""
    if not frozen_specs(method):
        return None, None
    epoch_batches = StageBatches("", method, pictures, recipe, open_bank(BankPlan(), pictures, clip))
    device = str(clip.logit_scale.device)
    _settle(device)
    start = time.perf_counter()
    for _ in epoch_batches(0):
        pass
    _settle(device)
    filling = len(pictures) / (time.perf_counter() - start)
    return filling, _measure_steps(method, epoch_batches, recipe, new_windows(), other_views=False)


def _test_images(pictures: PictureSet, clip: Clip, plan: CostPlan) -> torch.Tensor:
    """Return decoded pictures in the evaluation view, on the device."""
    number = min(_INFERENCE_PICTURES[_kind(plan)], plan.pictures or 100)
    photos = pictures.photos.with_samples((pictures.photos.samples * number)[:number])
    batch = next(iter(eval_pictures(photos, clip.config).batches(None, number, workers=0)))
    return sent(batch.images, clip.logit_scale.device)


def _answer(method: Method, images: torch.Tensor, branch: Branch, windows: Windows) -> Speed:
    """Run inference on the same pictures until the windows are full; the warm-up caches text features."""
    method.eval()
    with method.constant_text():
        while not windows.done:
            method.logits(method.features(images, branch), branch).cpu()
            windows.count(len(images))
    return windows.speed()
