"""Counts the floating-point operations of matrix products in both implementations; a multiply-add is two.

Norms, softmax and activations are left out: they are below one percent of the operations at these sizes,
but more of the time. A backward pass through frozen layers costs as much as the products of the forward
pass (only gradients to the inputs), and twice as much for attention. Gradients of learned projections
(MMRL) are left out too.
"""

from dataclasses import dataclass

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.rows import CHUNK, TokenRows
from foveate.methods.base import Method
from foveate.methods.mmrl import Mmrl
from foveate.methods.prompts import PromptMethod
from foveate.methods.promptsrc import PromptSRC


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass; attention is counted separately."""

    products: float = 0.0
    attention: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.products + other.products, self.attention + other.attention)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.products * times, self.attention * times)

    @property
    def forward(self) -> float:
        """Operations of the forward pass."""
        return self.products + self.attention

    @property
    def backward(self) -> float:
        """Operations of the gradients to the inputs."""
        return self.products + 2 * self.attention


def block(size: TowerConfig, tokens: float, seen: float, read: float | None = None) -> Flops:
    """Count one block.

    Args:
        size: Size of the tower.
        tokens: Number of tokens.
        seen: Number of tokens that each of them attends to.
        read: Number of tokens that continue after the attention; None: all.
    """
    read, width, hidden = tokens if read is None else read, size.width, size.hidden or 4 * size.width
    products = 2 * tokens * 3 * width**2 + 2 * read * (width**2 + 2 * width * hidden)
    return Flops(products, 4 * tokens * seen * width)


def layers(size: TowerConfig, rows: float, lengths: list[int]) -> Flops:
    """Count blocks, given the row length in each of them."""
    return sum((block(size, rows * length, length) for length in lengths), Flops())


def picture(
    config: ClipConfig, extra: int = 0, first: int = 0, last: int | None = None, read: int | None = None
) -> Flops:
    """Count one picture with `extra` tokens in the blocks from `first`, or only the blocks below `last`.

    `read` tokens of the last block are computed; None: all, as in the reference implementation.
    """
    patches = (config.image_size // config.patch_size) ** 2
    size, total = config.vision, config.vision.layers
    lengths = [patches + 1 + extra * (layer >= first) for layer in range(total)]
    stem = Flops(2 * patches * 3 * config.patch_size**2 * size.width + 2 * size.width * config.embed)
    if last is not None:
        return layers(size, 1, lengths[:last])
    if read is None:
        return layers(size, 1, lengths) + stem
    end = Flops(block(size, lengths[-1], 0, read).products, 4 * read * lengths[-1] * size.width)
    return layers(size, 1, lengths[:-1]) + end + stem


def whole_texts(config: ClipConfig, classes: int, extra: int = 0, first: int = 0) -> Flops:
    """Count class texts with the whole context, with `extra` tokens in the blocks from `first`."""
    lengths = [config.context + extra * (layer >= first) for layer in range(config.text.layers)]
    return layers(config.text, classes, lengths) + Flops(2 * classes * config.text.width * config.embed)


def packed_texts(config: ClipConfig, rows: TokenRows, extra: int = 0, first: int = 0) -> Flops:
    """Count the same texts in foveate: prefix once, no padding, only EOT in the last block."""
    size, own, classes = config.text, sum(rows.lengths), len(rows.lengths)
    spread = max(rows.lengths)  # attention uses a padded grid
    total = Flops(2 * classes * size.width * config.embed)
    for layer in range(size.layers):
        begun, last = rows.shared + extra * (layer >= first), layer + 1 == size.layers
        total += block(size, begun, begun, 0 if last else None)
        products = block(size, own, 0, classes if last else None)
        total += products + Flops(0, 4 * classes * spread * (begun + spread) * size.width)
    return total


@dataclass(frozen=True)
class StepFlops:
    """Operations of a tuning step.

    Attributes:
        texts: Class texts in the reference implementation, forward and backward.
        packed: Class texts in foveate.
        pictures: One picture with learned tokens, forward and backward: in the reference, in foveate.
        frozen: One picture in the frozen tower, in both.
    """

    texts: float
    packed: float
    pictures: tuple[float, float]
    frozen: tuple[float, float]

    def field(self, batch: int) -> float:
        """Return the operations of a step in the reference implementation."""
        return self.texts + batch * (self.pictures[0] + self.frozen[0])

    def ours(self, batch: int, *, bank: bool = True) -> float:
        """Return the operations of a step in foveate, with or without a bank of frozen features."""
        return self.packed + batch * (self.pictures[1] + (0 if bank else self.frozen[1]))


def tuning(method: Method, config: ClipConfig) -> StepFlops:
    """Count a step of a method with its classes set."""
    classes, frozen = len(method.names), (picture(config).forward, picture(config, read=1).forward)
    rows = _rows(method)
    again = read_again(rows)
    if isinstance(method, Mmrl):
        extra, first = len(method.tokens), method.first_block - 1
        texts, packed = whole_texts(config, classes, extra, first), packed_texts(config, rows, extra, first)
        share = 1 - first / config.text.layers  # gradients stop at this layer
        ways = (picture(config, extra, first), picture(config, extra, first, read=1 + extra))
        below = picture(config, extra, first, last=first)
        field, ours = (seen.forward + seen.backward - below.backward for seen in ways)
        return StepFlops(
            texts.forward + share * texts.backward,
            (1 + again) * packed.forward + share * packed.backward,
            (field, ours),
            frozen,
        )
    texts, packed = whole_texts(config, classes), packed_texts(config, rows)
    pictures = 0.0, 0.0
    if isinstance(method, PromptSRC):
        ways = (picture(config, len(method.vision_ctx), read=read) for read in (None, 1))
        field, ours = (seen.forward + seen.backward for seen in ways)
        pictures = field, ours
    forward_again = again * packed.forward
    return StepFlops(
        texts.forward + texts.backward, packed.forward + packed.backward + forward_again, pictures, frozen
    )


def read_again(rows: TokenRows) -> float:
    """Return the share of own tokens that are recomputed for gradients: all except the last chunk."""
    return max(0.0, 1 - CHUNK / sum(rows.lengths))


def _rows(method: Method) -> TokenRows:
    if isinstance(method, PromptMethod):
        return method.rows
    assert isinstance(method, Mmrl)
    return method.plain.rows()
