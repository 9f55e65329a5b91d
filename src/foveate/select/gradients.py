"""Gradients of the last layer, never written out; and GraNd, which takes their norms.

The loss of picture i is the cross entropy of the linear layer W Z + b with W = scale · T and b = 0. With
g_i = softmax(logits_i) - onehot(y_i), its gradient is G_i = [g_i, vec(g_i ⊗ Z_i)], C (1 + D) numbers. Inner
products need none of them: <G_i, G_j> = <g_i, g_j> (1 + <Z_i, Z_j>).

- GraNd: Paul et al. 2021, https://arxiv.org/abs/2107.07075, definition 2.1
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions

WHOLE = 8192
"""Pictures of a class up to which all inner products are kept (512 MiB); of more, rows are made anew."""

PIECE = 1 << 24
"""Inner products that are made at once (128 MiB)."""

MakeRows = Callable[[Tensor], Tensor]
"""Places `[k]` to their rows `[k, n]`."""


def residuals(logits: Tensor, label: int) -> Tensor:
    """Return g `[n, C]`, the gradient of the cross entropy by the logits.

    Of the right class it is p - 1, summed from the others: so it keeps its digits where p is nearly 1.
    """
    g = logits.softmax(dim=-1)
    g[:, label] = 0
    g[:, label] = -g.sum(dim=1)
    return g


def grand(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the largest ‖G_i‖ = ‖g_i‖ √(1 + ‖Z_i‖²)."""
    return positions(ranked(squared_norms(residuals(block.logits, block.label), block.features))[:count])


def squared_norms(g: Tensor, z: Tensor) -> Float[Tensor, " pictures"]:
    """Return ‖G_i‖²."""
    return g.square().sum(dim=1) * (1 + z.square().sum(dim=1))


def inner_products(g: Tensor, z: Tensor) -> MakeRows:
    """Return rows of <G_i, G_j>."""
    return lambda rows: (g[rows] @ g.T) * (1 + z[rows] @ z.T)


def cosines(block: ClassFeatures) -> MakeRows:
    """Return rows of the cosines of gradients; a gradient of zero has none with any."""
    g, z = residuals(block.logits, block.label), block.features
    norms = g.norm(dim=1, keepdim=True)
    g = g / torch.where(norms > 0, norms, 1)  # first, for products of tiny numbers would be zero
    lengths = (1 + z.square().sum(dim=1)).sqrt()
    products = inner_products(g, z)
    return lambda rows: products(rows) / lengths[rows, None] / lengths


def nearness(block: ClassFeatures) -> MakeRows:
    """Return rows of c - ‖G_i - G_j‖, where c is as large as any distance can be."""
    g, z = residuals(block.logits, block.label), block.features
    products, own = inner_products(g, z), squared_norms(g, z)
    most = 2 * float(own.max().sqrt())
    return lambda rows: most - (own[rows, None] + own - 2 * products(rows)).clamp(min=0).sqrt()


class Similarity:
    """A symmetric matrix `[n, n]`, kept whole where it is small enough, and else made row by row.

    Args:
        number: n.
        make: Its rows.
    """

    def __init__(self, number: int, make: MakeRows):
        self.number, self._make = number, make
        self._whole = torch.cat(list(self._made())) if number <= WHOLE else None

    def row(self, place: int) -> Float[Tensor, " pictures"]:
        """Return one row."""
        return self._make(torch.tensor([place]))[0] if self._whole is None else self._whole[place]

    def pieces(self) -> Iterator[Float[Tensor, "some pictures"]]:
        """Yield all rows in their order, some at a time."""
        if self._whole is not None:
            yield self._whole
        else:
            yield from self._made()

    def _made(self) -> Iterator[Tensor]:
        for places in torch.arange(self.number).split(max(1, PIECE // self.number)):
            yield self._make(places)
