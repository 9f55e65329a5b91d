"""Measures one method in this process: steps of its last stage without and with a bank, and inference."""

import math
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image, ImageDraw

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.clip.precision import dtype_on
from foveate.clip.weights import demand_device, load_clip
from foveate.data.loader import PictureSet, eval_pictures
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.memory import peak_mb, sent
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, capability
from foveate.methods.frozen import frozen_specs
from foveate.methods.registry import build, parts, stages, wrap
from foveate.train.banking import BankPlan, StageBatches, open_bank, training_pictures
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.types import Batch, Branch

# Measures the speed of repeated work: after a warm-up, in several time windows.


WARM = 2
"""Minimum number of work items in the warm-up, which also lasts at least one window."""


@dataclass(frozen=True)
class Speed:
    """Speed in pictures per second.

    Attributes:
        typical: Median over the windows.
        least: Speed in the slowest window.
        most: Speed in the fastest window.
    """

    typical: float
    least: float
    most: float


class Windows:
    """Counts work until the windows are full.

    Args:
        number: Number of windows after the warm-up.
        seconds: Minimum duration of a window; each window has at least one complete work item.
        settle: Waits for the device to finish; the clock is read after it.
        clock: Returns seconds from any start.
    """

    def __init__(
        self,
        number: int,
        seconds: float,
        settle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._number, self._seconds, self._settle, self._clock = number, seconds, settle, clock
        self._rates: list[float] = []
        self._warmed, self._pieces, self._pictures, self._start = False, 0, 0, 0.0
        self.begin()

    @property
    def done(self) -> bool:
        """Whether all windows are full."""
        return len(self._rates) >= self._number

    def begin(self) -> None:
        """Start a window now; time since the last work item is not counted."""
        self._settle()
        self._pieces = self._pictures = 0
        self._start = self._clock()

    def count(self, pictures: int) -> None:
        """Count one finished work item."""
        self._pieces, self._pictures = self._pieces + 1, self._pictures + pictures
        if self._clock() - self._start < self._seconds or (not self._warmed and self._pieces < WARM):
            return
        self._settle()
        if self._warmed:
            self._rates.append(self._pictures / (self._clock() - self._start))
        self._warmed = True
        self.begin()

    def speed(self) -> Speed:
        """Return the speed over the windows.

        Raises:
            ValueError: No window is full.
        """
        return _speed(self._rates)


def _speed(rates: Sequence[float]) -> Speed:
    if not rates:
        raise ValueError("no window is full")
    return Speed(median(rates), min(rates), max(rates))


# Measures a method: its training steps, its bank, its inference and its memory.


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


# Synthetic pictures and class names: speed does not depend on their content, so no data set is needed.


SIZES = ((256, 256), (320, 240), (375, 500), (500, 375))
"""Width and height of the pictures, in rotation; similar to common data sets."""

ADJECTIVES = """
alpine arctic barred bearded black blue branded brown canyon common coastal crested dark desert dusky
eastern false field giant golden great green grey hairy hooded island lesser little long marsh meadow
mountain northern orange painted pale plain prairie purple ringed river rock royal rusty sand scarlet
shore silver slender smooth southern spotted striped swamp tawny timber tufted velvet western white wild
winter yellow
"""
BEGINNINGS = """
arrow bell blade bone bristle butter button cap cotton crown fire flag foam glass hair horn iron jewel
lace lamp leaf milk moon needle paper pearl pepper pin plume reed ribbon saddle sail salt shell sickle
silk snow spear spoon star stone straw sun thistle thorn thread tide wax whip wind wing wool
"""
ENDS = """
back beak bill bird bloom bush cap crest daisy fin finch fish flower fly foot fox grass hawk head jay
lark lily lizard mouse moth nettle nut owl palm poppy ray root seal snail snake snipe tail thrush toad
top tree vine weed wing worm wort wren
"""
SHARES = (0.45, 0.45, 0.07, 0.03)
"""Shares of names with one to four words. A name has 5.0 tokens on average, including "." and EOT: a
little more than in Flowers102 (4.5) and in ImageNet (3.9)."""


def made_up_names(number: int) -> list[str]:
    """Return distinct names of one to four words; the first names do not depend on `number`."""
    rng, names = random.Random(0), dict[str, None]()
    adjectives, beginnings, ends = ADJECTIVES.split(), BEGINNINGS.split(), ENDS.split()
    while len(names) < number:
        adjective_count = rng.choices(range(len(SHARES)), SHARES)[0]
        noun = rng.choice(beginnings) + rng.choice(ends)
        names[" ".join([*rng.sample(adjectives, adjective_count), noun])] = None
    return list(names)


def draw_photos(folder: Path, number: int, names: Sequence[str]) -> Photos:
    """Draw JPEG pictures of `SIZES` (an ellipse on coloured noise) and JPEG masks of the same sizes.

    Args:
        folder: Output folder; created if missing.
        number: Number of pictures; labels cycle through the classes.
        names: Class names.
    """
    samples: list[Sample] = []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        rng = np.random.default_rng(index)
        size = SIZES[index % len(SIZES)]
        noise = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        mask = Image.new("L", size)
        left, top = (int(rng.integers(0, side // 3)) for side in size)
        box = (left, top, left + size[0] // 2, top + size[1] // 2)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        files = folder / f"{index}.jpg", folder / f"{index}-mask.jpg"
        for image, file in zip((picture, mask), files, strict=True):
            image.save(file, quality=90)
        samples.append(Sample(files[0], index % len(names), files[1]))
    return Photos(tuple(names), tuple(samples), mask_values="binary255")
