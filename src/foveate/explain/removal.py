"""Deletion and insertion: does the answer hang on what the method is said to look at?

- RISE: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, Sec. 4.2, whose unit is a pixel; here a patch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.explain.passes import Heat
from foveate.foreground.views import Fill, foreground_view
from foveate.methods.base import Method
from foveate.types import Branch, Images, Labels, Masks, PerImage

Curve = Float[Tensor, "batch points"]


@dataclass(frozen=True)
class Removal:
    """How the probability of a class changes while patches go, or come, the most looked-at first.

    Attributes:
        shares: `[points]` of patches that are gone (or there), from 0 to 1.
        deleted: `[B, points]` probability with so many gone.
        inserted: `[B, points]` with so many there, and nothing else.
        passes: How often each picture went through the method.
    """

    shares: Float[Tensor, " points"]
    deleted: Curve
    inserted: Curve
    passes: int

    @property
    def deletion(self) -> PerImage:
        """`[B]` area under `deleted`: small where the gaze was on what mattered."""
        return torch.trapezoid(self.deleted, self.shares)

    @property
    def insertion(self) -> PerImage:
        """`[B]` area under `inserted`: large where the gaze was on what mattered."""
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
    """Take patches away, and bring them back to an empty picture, the most looked-at first.

    Args:
        method: Its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class whose probability counts.
        heat: `[B, grid, grid]`; patches looked at alike go in reading order.
        branch: Which label space the classes are.
        steps: In how many steps, all of about as many patches; at most one a patch. Costs `2 steps` passes.
        fill: What stands in place of a patch that is not there, as for `foreground_view`.
    """
    patches = heat.shape[1] * heat.shape[2]
    steps = max(1, min(steps, patches))
    gone = [round(step * patches / steps) for step in range(steps + 1)]
    order = heat.flatten(1).argsort(dim=1, descending=True, stable=True)
    asking = _Asking(method, images, labels, branch, fill)
    deleted, inserted = [asking(order, 0, keep_top=False)], [asking(order, 0, keep_top=True)]
    for count in gone[1:-1]:
        deleted.append(asking(order, count, keep_top=False))
        inserted.append(asking(order, count, keep_top=True))
    whole, empty = deleted[0], inserted[0]
    shares = torch.tensor(gone, device=heat.device) / patches
    return Removal(
        shares, torch.stack([*deleted, empty], 1), torch.stack([*inserted, whole], 1), asking.passes
    )


class _Asking:
    """Asks a method about pictures of which only some patches are there, and counts how often."""

    def __init__(self, method: Method, images: Images, labels: Labels, branch: Branch, fill: Fill):
        self.method, self.images, self.labels = method, images, labels
        self.branch: Branch = branch
        self.fill: Fill = fill
        self.passes = 0

    def __call__(self, order: Int[Tensor, "batch patches"], count: int, *, keep_top: bool) -> PerImage:
        self.passes += 1
        method, size = self.method, self.method.clip.config
        there = self._masks(order, count, keep_top)
        views = foreground_view(self.images, there, self.fill, size.mean, size.std)
        with method.constant_text():
            logits = method.logits(method.features(views, self.branch), self.branch)
        return logits.float().softmax(dim=-1).gather(1, self.labels[:, None])[:, 0]

    def _masks(self, order: Int[Tensor, "batch patches"], count: int, keep_top: bool) -> Masks:
        """Return masks `[B, 1, S, S]`, 1 on the first `count` patches, or on the others."""
        grid, side = self.method.clip.vision.grid, self.images.shape[-1]
        kept = torch.full(order.shape, 0.0 if keep_top else 1.0, device=order.device)
        kept.scatter_(1, order[:, :count], 1.0 if keep_top else 0.0)
        patch = self.method.clip.config.patch_size
        fine = kept.view(-1, 1, grid, grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        # A tower reads no pixels beyond its last whole patch.
        return torch.nn.functional.pad(fine, (0, side - fine.shape[-1], 0, side - fine.shape[-2]))
