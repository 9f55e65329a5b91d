"""Predictions, heat maps and metrics of a method for each picture of a set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.configs import check_types
from foveate.data.loader import PictureSet
from foveate.errors import InputError
from foveate.evaluate.answers import Watch, calibrated, parts_of
from foveate.explain.gradcam import Target
from foveate.explain.indices import gaze_on_object, lift, pointing, shift_index, top_overlap
from foveate.explain.looking import How, gaze_and_answer
from foveate.explain.passes import Heat, block_index
from foveate.explain.removal import remove
from foveate.foreground.views import Fill, foreground_view
from foveate.memory import Pieces, sent
from foveate.methods.base import Method
from foveate.prediction import PLAIN, Calibration
from foveate.types import Batch, Branch, Labels, Logits, Masks, PerImage

ANSWER, LABEL = "answer", "label"
OF_MASKS: dict[str, Callable[[Heat, Masks], PerImage]] = {
    "energy": gaze_on_object,
    "lift": lift,
    "pointing": pointing,
    "overlap": top_overlap,
}


@dataclass(frozen=True)
class LookConfig:
    """Settings of heat maps and metrics.

    Attributes:
        how: See `foveate.explain.gaze`.
        target: See `foveate.explain.gaze`.
        layer: See `foveate.explain.gaze`.
        about: Class to explain: each picture's "answer" (prediction), its "label", or one class name for
            all.
        tau: Temperature of the foreground shift index.
        fill: Replacement for removed pixels.
        steps: Number of steps of deletion and insertion; 0 leaves both out.
    """

    how: How = "hirescam"
    target: Target = "probability"
    layer: int = -1
    about: str = ANSWER
    tau: float = 2.0
    fill: Fill = "mean"
    steps: int = 8

    def __post_init__(self) -> None:
        check_types(self)
        if self.tau <= 0:
            raise InputError(f"tau is {self.tau}: give a temperature above 0")
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}: give 1 or more, or 0 for no deletion and insertion")


@dataclass(frozen=True)
class Looks:
    """Predictions, heat maps and metrics of a method for a picture set.

    Attributes:
        method: Name of the method.
        names: Class names of the columns.
        logits: `[N, C]`.
        labels: `[N]` true labels, if known.
        explained: `[N]` explained class of each picture.
        heat: `[N, grid, grid]` heat maps.
        figures: Metrics by name, `[N]` numbers each; NaN for pictures without the metric.
        passes: Number of forward passes per picture.
        calibration: Converts logits to probabilities.
    """

    method: str
    names: tuple[str, ...]
    logits: Logits
    labels: Labels
    explained: Labels
    heat: Heat
    figures: dict[str, PerImage]
    passes: int
    calibration: Calibration = PLAIN

    @property
    def answers(self) -> Labels:
        """`[N]` predicted classes."""
        return self.logits.argmax(dim=-1)

    @property
    def right(self) -> Bool[Tensor, " batch"]:
        """`[N]` whether the prediction is right."""
        return self.answers == self.labels

    @property
    def probabilities(self) -> Logits:
        """`[N, C]` probabilities."""
        return calibrated(self.logits, self.calibration)

    def of(self, labels: Labels) -> PerImage:
        """Return `[N]` the probability of the given class of each picture."""
        return self.probabilities.gather(1, labels[:, None])[:, 0]

    def means(self, which: Bool[Tensor, " batch"] | None = None) -> dict[str, float | None]:
        """Return accuracy in percent and the mean of each metric, over the pictures that have it.

        Args:
            which: Pictures to use; None uses all. If no picture has a metric, its mean is None.
        """
        selected = torch.ones_like(self.right) if which is None else which
        values = {"accuracy": 100 * self.right.double(), **self.figures}
        return {name: _mean(value[selected]) for name, value in values.items()}


def look(
    method: Method,
    pictures: PictureSet,
    branch: Branch,
    config: LookConfig,
    *,
    name: str = "",
    batch_size: int = 32,
    watch: Watch | None = None,
) -> Looks:
    """Return predictions, heat maps and metrics for all pictures, in order; the classes must be set.

    Args:
        method: The method.
        pictures: Pictures without augmentation; if they have masks, metrics of masks are included.
        branch: Label space of the class names.
        config: Settings of heat maps and metrics.
        name: Name of the method.
        batch_size: Pictures per batch; fewer if the device's memory is not sufficient.
        watch: Called with progress.

    Raises:
        InputError: There are no pictures, or the block or the class to explain does not exist.
    """
    if not len(pictures):
        raise InputError("there are no pictures to look at")
    block_index(config.layer, len(method.clip.vision.blocks))
    column = _chosen(config.about, method.names)
    results: list[_BatchLooks] = []
    pieces, done = Pieces(batch_size), 0
    method.eval()
    for batch in pictures.batches(None, batch_size):
        results += pieces.run(
            lambda size, batch=batch: [
                _look(method, part, branch, config, column) for part in parts_of(batch, size)
            ]
        )
        done += len(batch.labels)
        if watch:
            watch(done, len(pictures))
    figures = {
        metric: torch.cat([result.figures[metric] for result in results]) for metric in results[0].figures
    }
    logits, labels, explained, heat = (
        torch.cat([getattr(result, field) for result in results])
        for field in ("logits", "labels", "explained", "heat")
    )
    return Looks(name, method.names, logits, labels, explained, heat, figures, results[0].passes)


@dataclass(frozen=True)
class _BatchLooks:
    """The fields of `Looks` for one batch."""

    logits: Logits
    labels: Labels
    explained: Labels
    heat: Heat
    figures: dict[str, PerImage]
    passes: int


def _look(
    method: Method, batch: Batch, branch: Branch, config: LookConfig, column: int | None
) -> _BatchLooks:
    device = method.clip.logit_scale.device
    images, labels = sent(batch.images, device), sent(batch.labels, device)
    targets = None if config.about == ANSWER else labels
    targets = targets if column is None else torch.full_like(labels, column)
    # One pass serves for the gaze and the answer.
    gaze = gaze_and_answer(
        method, images, targets, branch, how=config.how, target=config.target, layer=config.layer
    )
    logits, explained, heat, passes = gaze.logits.float(), gaze.labels, gaze.heat, 1
    figures: dict[str, PerImage] = {}
    if batch.masks is not None:
        masks = sent(batch.masks, device)
        figures |= _mask_figures(method, images, masks, logits, heat, branch, config)
        passes += 1
    if config.steps:
        removal = remove(method, images, explained, heat, branch, steps=config.steps, fill=config.fill)
        figures |= {"deletion": removal.deletion, "insertion": removal.insertion}
        passes += removal.passes
    on_cpu = {name: value.cpu() for name, value in figures.items()}
    return _BatchLooks(logits.cpu(), batch.labels, explained.cpu(), heat.cpu(), on_cpu, passes)


@torch.no_grad()
def _logits_of(method: Method, images: Tensor, branch: Branch) -> Logits:
    with method.constant_text():
        return method.logits(method.features(images, branch), branch).float()


def _mask_figures(
    method: Method,
    images: Tensor,
    masks: Masks,
    logits: Logits,
    heat: Heat,
    branch: Branch,
    config: LookConfig,
) -> dict[str, PerImage]:
    size = method.clip.config
    foreground = foreground_view(images, masks, config.fill, size.mean, size.std)
    figures = {"shift": shift_index(logits, _logits_of(method, foreground, branch), config.tau)}
    figures |= {name: figure(heat, masks) for name, figure in OF_MASKS.items()}
    has_foreground = masks.flatten(1).any(dim=1)
    return {name: torch.where(has_foreground, value, torch.nan) for name, value in figures.items()}


def _chosen(about: str, names: Sequence[str]) -> int | None:
    """Return the column of the one class to explain; None if it varies by picture."""
    if about in names:
        return names.index(about)
    if about in (ANSWER, LABEL):
        return None
    examples = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise InputError(
        f"class {about!r} is none of those asked about: {examples}; give one, or add it with --classes"
    )


def _mean(values: Tensor) -> float | None:
    known = values[~values.isnan()]
    return known.double().mean().item() if len(known) else None
