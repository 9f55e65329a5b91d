"""Infers all sizes of a CLIP model from the shapes of its tensors."""

import re
from collections.abc import Mapping
from math import isqrt

import torch

from foveate.clip.config import CLIP_MEAN, CLIP_STD, ClipConfig, TowerConfig
from foveate.clip.layouts import OURS, Layout, Tensors, need
from foveate.errors import InputError

# Heads have width 64, except in open_clip's larger image towers: ViT-H, g, bigG and e.
_WIDE_HEADS = {1280: 80, 1408: 88, 1664: 104, 1792: 112}

Triple = tuple[float, float, float]


def infer_config(
    tensors: Tensors,
    layout: Layout = OURS,
    *,
    heads: tuple[int, int] | None = None,
    quick_gelu: bool | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
) -> ClipConfig:
    """Infer the sizes of a CLIP from its tensors; sizes that shapes do not determine may be given.

    Args:
        tensors: Tensors with foveate's names (on any device, including "meta").
        layout: Their source; messages use its names.
        heads: Number of heads of the image and the text tower; None: heads as wide as in the known CLIP
            models.
        quick_gelu: None: as in OpenAI's weights, except for image towers wider than all of theirs.
        mean: Channel means of pictures; None: OpenAI's.
        std: Channel standard deviations of pictures; None: OpenAI's.

    Raises:
        InputError: A tensor is missing, or the shapes do not form a CLIP.
    """
    width, _, patch, _ = _shape(tensors, "vision.patches.weight", 4, layout)
    positions, _ = _shape(tensors, "vision.pos", 2, layout)
    grid = isqrt(max(positions - 1, 0))
    if grid**2 != positions - 1:
        raise InputError(
            f"{layout.theirs('vision.pos')} has {positions} rows: no square grid and a class token"
        )
    vocab, text_width = _shape(tensors, "text.token.weight", 2, layout)
    head_width = _WIDE_HEADS.get(width, 64)
    counts = heads or (None, None)
    return ClipConfig(
        vision=_tower(tensors, "vision", layout, width, _heads("vision", width, counts[0], head_width)),
        text=_tower(tensors, "text", layout, text_width, _heads("text", text_width, counts[1], 64)),
        image_size=grid * patch,
        patch_size=patch,
        context=_shape(tensors, "text.pos", 2, layout)[0],
        vocab=vocab,
        embed=_shape(tensors, "vision.proj", 2, layout)[1],
        quick_gelu=width < min(_WIDE_HEADS) if quick_gelu is None else quick_gelu,
        mean=mean or CLIP_MEAN,
        std=std or CLIP_STD,
    )


def check_shapes(tensors: Tensors, expected: Mapping[str, torch.Size], layout: Layout = OURS) -> None:
    """Check that the tensors are exactly the expected ones.

    Raises:
        InputError: A tensor is missing, unexpected, or of another shape.
    """
    for name, shape in expected.items():
        if need(tensors, name, layout).shape != shape:
            have, want = tuple(tensors[name].shape), tuple(shape)
            raise InputError(f"{layout.theirs(name)} is {have} where the other tensors ask for {want}")
    for name in tensors:
        if name not in expected:
            raise InputError(
                f"{layout.theirs(name)} is a tensor too many: a plain CLIP has none of that name"
            )


def _shape(tensors: Tensors, name: str, axes: int, layout: Layout) -> tuple[int, ...]:
    shape = tuple(need(tensors, name, layout).shape)
    if len(shape) != axes or 0 in shape:
        raise InputError(f"{layout.theirs(name)} is {shape}, where a CLIP has {axes} axes")
    return shape


def _heads(tower: str, width: int, requested: int | None, head_width: int) -> int:
    if requested is None and width % head_width:
        raise InputError(
            f"the {tower} tower is {width} wide, no multiple of {head_width}: give heads=(vision, text)"
        )
    heads = width // head_width if requested is None else requested
    if heads < 1 or width % heads:
        raise InputError(f"{heads} heads do not divide the {tower} tower's width of {width}")
    return heads


def _tower(tensors: Tensors, tower: str, layout: Layout, width: int, heads: int) -> TowerConfig:
    matches = [re.match(rf"{tower}\.blocks\.(\d+)\.", name) for name in tensors]
    layers = 1 + max((int(match[1]) for match in matches if match), default=0)
    hidden = _shape(tensors, f"{tower}.blocks.0.fc.weight", 2, layout)[0]
    return TowerConfig(width, layers, heads, None if hidden == 4 * width else hidden)
