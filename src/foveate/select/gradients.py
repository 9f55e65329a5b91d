"""Inner products of last-layer gradients, without the gradients themselves; and GraNd, by their norms.

The loss of picture i is the cross-entropy of the linear layer W Z + b with W = scale · T and b = 0. With
g_i = softmax(logits_i) - onehot(y_i), its gradient is G_i = [g_i, vec(g_i ⊗ Z_i)], with C (1 + D)
numbers. Inner products do not need them: <G_i, G_j> = <g_i, g_j> (1 + <Z_i, Z_j>).

- GraNd: Paul et al. 2021, https://arxiv.org/abs/2107.07075, definition 2.1
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions

WHOLE = 8192
"""Largest class size for which all inner products are stored (512 MiB); larger classes store fewer rows."""

PIECE = 1 << 24
"""Number of inner products that are computed together (128 MiB)."""

MakeRows = Callable[[Tensor], Tensor]
"""Function from indices `[k]` to rows `[k, n]`."""


def residuals(logits: Tensor, label: int) -> Tensor:
    """Return g `[n, C]`, the gradient of the cross-entropy with respect to the logits.

    For the right class it is p - 1, computed as a sum over the others, so it stays precise if p is
    nearly 1.
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
    """Return rows of the cosines of gradients; a zero gradient has cosine 0 with all."""
    g, z = residuals(block.logits, block.label), block.features
    norms = g.norm(dim=1, keepdim=True)
    g = g / torch.where(norms > 0, norms, 1)  # divide first: products of tiny numbers would be zero
    lengths = (1 + z.square().sum(dim=1)).sqrt()
    products = inner_products(g, z)
    return lambda rows: products(rows) / lengths[rows, None] / lengths


def nearness(block: ClassFeatures) -> MakeRows:
    """Return rows of c - ‖G_i - G_j‖, where c is an upper bound of all distances."""
    g, z = residuals(block.logits, block.label), block.features
    products, squares = inner_products(g, z), squared_norms(g, z)
    bound = 2 * float(squares.max().sqrt())
    return lambda rows: bound - (squares[rows, None] + squares - 2 * products(rows)).clamp(min=0).sqrt()


class Similarity:
    """A symmetric matrix `[n, n]`; if it is too large to be stored, the first requested rows are cached.

    Args:
        number: n.
        make: Function that computes rows.
    """

    def __init__(self, number: int, make: MakeRows):
        self.number, self._make = number, make
        self._whole = torch.cat(list(self._make_rows())) if number <= WHOLE else None
        self._cache = torch.empty(0 if number <= WHOLE else WHOLE**2 // number, number, dtype=torch.float64)
        self._cache_row: dict[int, int] = {}  # row in `_cache` of each cached row

    def row(self, index: int) -> Float[Tensor, " pictures"]:
        """Return one row."""
        return self.rows([index])[0]

    def rows(self, indices: Sequence[int]) -> Float[Tensor, "some pictures"]:
        """Return some rows."""
        if self._whole is not None:
            return self._whole[torch.tensor(indices)]
        missing = [index for index in indices if index not in self._cache_row]
        new = dict(zip(missing, self._make(torch.tensor(missing)), strict=True)) if missing else {}
        for index, row in list(new.items())[: len(self._cache) - len(self._cache_row)]:
            self._cache_row[index] = len(self._cache_row)
            self._cache[self._cache_row[index]] = row
        return torch.stack([new[i] if i in new else self._cache[self._cache_row[i]] for i in indices])

    def pieces(self) -> Iterator[Float[Tensor, "some pictures"]]:
        """Yield all rows in order, several at a time."""
        if self._whole is not None:
            yield self._whole
        else:
            yield from self._make_rows()

    def _make_rows(self) -> Iterator[Tensor]:
        for indices in torch.arange(self.number).split(max(1, PIECE // self.number)):
            yield self._make(indices)
