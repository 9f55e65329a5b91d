"""Predictions and heat maps for each picture of a set, and metrics of heat maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.configs import check_types
from foveate.data.loader import PictureSet
from foveate.errors import InputError
from foveate.evaluate.answers import Watch, calibrated, parts_of
from foveate.explain.maps import Heat, How, Target, block_index, gaze_and_answer
from foveate.foreground.views import Fill, area, foreground_view
from foveate.memory import Pieces, sent
from foveate.methods.base import Method
from foveate.methods.guidance import kl
from foveate.prediction import PLAIN, Calibration
from foveate.types import Batch, Branch, Images, Labels, Logits, Masks, PerImage

# Metrics of heat maps, one number per picture.
#
# `masks` belong to the view that the method receives. A picture without foreground in its view gets NaN.
# If a heat map is 0 everywhere, energy, lift, pointing and overlap are 0.


def shift_index(full: Logits, foreground: Logits, tau: float = 2.0) -> PerImage:
    """Return D_fg = KL(p_full ‖ p_foreground), the foreground shift index (FVG-PT, App. A.1), in nats.

    It measures the change of a prediction when the background is removed. The paper leaves three choices
    open: the temperature (here that of FVG-PT's distributions, 2), the classes (here all columns of the
    logits) and the replacement of the background (see `foveate.foreground.views.foreground_view`).

    Args:
        full: `[B, C]` logits of whole pictures.
        foreground: `[B, C]` logits of the same views without their background.
        tau: Temperature of both softmax functions.

    Returns:
        `[B]`, 0 or more.
    """
    return kl(full / tau, foreground / tau).clamp_min(0)  # rounding may give a tiny negative number


def gaze_on_object(heat: Heat, masks: Masks) -> PerImage:
    """Return the share of the heat map on the foreground ("energy inside the mask"), in [0, 1].

    Args:
        heat: `[B, grid, grid]` result of `gaze`.
        masks: `[B, 1, S, S]` foreground of the same views.

    Returns:
        `[B]`.
    """
    share = F.adaptive_avg_pool2d(masks, heat.shape[-1])[:, 0]
    return (heat * share).sum(dim=(1, 2))


def lift(heat: Heat, masks: Masks) -> PerImage:
    """Return the energy inside the mask divided by the mask's area; 1 if the gaze ignores the object.

    A large object gets a large share of any heat map; this ratio removes the effect. Arguments as for
    `gaze_on_object`.

    Returns:
        `[B]`; NaN without foreground.
    """
    share = area(masks)
    return torch.where(share > 0, gaze_on_object(heat, masks) / share, torch.nan)


def pointing(heat: Heat, masks: Masks) -> PerImage:
    """Return 1 if the maximum of the heat map lies on the object, else 0 (the pointing game).

    The heat map is resized to the picture by linear interpolation; of several maxima the first in
    reading order is used. Zhang et al. 2016, https://arxiv.org/abs/1608.00507, without their tolerance
    of 15 pixels. Arguments as for `gaze_on_object`.

    Returns:
        `[B]`; NaN without foreground.
    """
    fine, inside = _fine(heat, masks), masks[:, 0].flatten(1)
    hit = inside.gather(1, fine.argmax(dim=1, keepdim=True))[:, 0] > 0.5
    on_object = (hit & (fine.amax(dim=1) > 0)).to(heat.dtype)
    return torch.where(area(masks) > 0, on_object, torch.nan)


def top_overlap(heat: Heat, masks: Masks) -> PerImage:
    """Return IoU of the mask and an equal number of pixels with the highest heat.

    The heat map is resized to the picture by linear interpolation; pixels with heat 0 never count.
    Arguments as for `gaze_on_object`.

    Returns:
        `[B]` in [0, 1]; NaN without foreground.
    """
    fine, inside = _fine(heat, masks), masks[:, 0].flatten(1) > 0.5
    order = fine.argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(fine.shape[1], device=fine.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, positions)
    size = inside.sum(dim=1, keepdim=True)
    top = (rank < size) & (fine > 0)
    common, either = (top & inside).sum(dim=1), (top | inside).sum(dim=1)
    return torch.where(size[:, 0] > 0, common / either, torch.nan).to(heat.dtype)


def _fine(heat: Heat, masks: Masks) -> Float[Tensor, "batch pixels"]:
    """Return the heat map at each pixel."""
    return F.interpolate(heat[:, None], masks.shape[-2:], mode="bilinear", align_corners=False).flatten(1)


# Deletion and insertion: test whether the prediction depends on the patches of the heat map.
#
# - RISE: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, Sec. 4.2; there the units are pixels, here
#   patches.


Curve = Float[Tensor, "batch points"]


@dataclass(frozen=True)
class Removal:
    """Probability of a class while patches are removed or inserted, in order of decreasing heat.

    Attributes:
        shares: `[points]` share of removed (or inserted) patches, from 0 to 1.
        deleted: `[B, points]` probability after removal.
        inserted: `[B, points]` probability after insertion into an empty picture.
        passes: Number of forward passes per picture.
    """

    shares: Float[Tensor, " points"]
    deleted: Curve
    inserted: Curve
    passes: int

    @property
    def deletion(self) -> PerImage:
        """`[B]` area under `deleted`: small if the heat map shows what matters."""
        return torch.trapezoid(self.deleted, self.shares)

    @property
    def insertion(self) -> PerImage:
        """`[B]` area under `inserted`: large if the heat map shows what matters."""
        return torch.trapezoid(self.inserted, self.shares)


@torch.no_grad()
def remove(
    method: Method,
    images: Images,
    labels: Labels,
    heat: Heat,
    branch: Branch = "base",
    *,
    steps: int = 8,
    fill: Fill = "mean",
) -> Removal:
    """Remove patches, and insert them into an empty picture, in order of decreasing heat.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class whose probability is measured.
        heat: `[B, grid, grid]` heat maps; patches with equal heat are in reading order.
        branch: Label space of the class names.
        steps: Number of steps with about equally many patches; at most one per patch. It needs `2 steps`
            passes.
        fill: Replacement for a removed patch, as for `foreground_view`.
    """
    patches = heat.shape[1] * heat.shape[2]
    steps = max(1, min(steps, patches))
    counts = [round(step * patches / steps) for step in range(steps + 1)]
    order = heat.flatten(1).argsort(dim=1, descending=True, stable=True)
    probe = _PatchProbe(method, images, labels, branch, fill)
    deleted, inserted = [probe(order, 0, keep_top=False)], [probe(order, 0, keep_top=True)]
    for count in counts[1:-1]:
        deleted.append(probe(order, count, keep_top=False))
        inserted.append(probe(order, count, keep_top=True))
    whole, empty = deleted[0], inserted[0]
    shares = torch.tensor(counts, device=heat.device) / patches
    return Removal(
        shares, torch.stack([*deleted, empty], 1), torch.stack([*inserted, whole], 1), probe.passes
    )


class _PatchProbe:
    """Runs a method on pictures with only some patches, and counts the passes."""

    def __init__(self, method: Method, images: Images, labels: Labels, branch: Branch, fill: Fill):
        self.method, self.images, self.labels = method, images, labels
        self.branch: Branch = branch
        self.fill: Fill = fill
        self.passes = 0

    def __call__(self, order: Int[Tensor, "batch patches"], count: int, *, keep_top: bool) -> PerImage:
        self.passes += 1
        method, config = self.method, self.method.clip.config
        masks = self._masks(order, count, keep_top)
        views = foreground_view(self.images, masks, self.fill, config.mean, config.std)
        with method.constant_text():
            logits = method.logits(method.features(views, self.branch), self.branch)
        return logits.float().softmax(dim=-1).gather(1, self.labels[:, None])[:, 0]

    def _masks(self, order: Int[Tensor, "batch patches"], count: int, keep_top: bool) -> Masks:
        """Return masks `[B, 1, S, S]`, 1 on the first `count` patches, or on all others."""
        grid, side = self.method.clip.vision.grid, self.images.shape[-1]
        visible = torch.full(order.shape, 0.0 if keep_top else 1.0, device=order.device)
        visible.scatter_(1, order[:, :count], 1.0 if keep_top else 0.0)
        patch = self.method.clip.config.patch_size
        pixels = visible.view(-1, 1, grid, grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        # A tower ignores pixels after its last whole patch.
        return torch.nn.functional.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))


# Predictions, heat maps and metrics for all pictures of a set.


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
