"""Deletion and insertion: test whether the prediction depends on the patches of the heat map.

- RISE: Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421, Sec. 4.2; there the units are pixels, here
  patches.
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
