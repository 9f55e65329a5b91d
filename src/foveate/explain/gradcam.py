"""Grad-CAM on the patches of a vision transformer: which of them speak for a class.

With a the activation that enters a block's attention (the output of its `ln_1`) and g the gradient of the
class's logit or probability there, the relevance of patch i is

- Grad-CAM: Σ_c mean_j(g_jc) · a_ic, one weight a channel ([0], Eq. 1 and 2);
- HiResCAM: Σ_c g_ic · a_ic, each patch with the gradient of its own ([1], Eq. 3).

What is negative counts as 0. The last block's output, its `ln_2` and its perceptron tell nothing: only the
class token (and MMRL's representation tokens) are read afterwards, and the patches' gradients are exactly 0.

- [0]: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
- [1]: HiResCAM, Draelos et al. 2020, https://arxiv.org/abs/2011.08891
"""

from typing import Literal

import torch
from torch import Tensor

from foveate.explain.passes import Heat, as_heat, block_index, patches_of
from foveate.methods.base import Method
from foveate.methods.block_gradients import passes_at
from foveate.methods.capabilities import first_patch
from foveate.types import Branch, Images, Labels, Logits, PerImage

Target = Literal["logit", "probability"]
"""What is derived: the class's logit alone, or its probability among all classes asked about."""


def class_activation(
    method: Method,
    images: Images,
    labels: Labels,
    branch: Branch = "base",
    *,
    averaged: bool,
    target: Target = "probability",
    layer: int = -1,
) -> Heat:
    """Return how much each patch speaks for the given class.

    A method may ask the tower several times (FVG-PT's own answer and CLIP's): the relevance of a patch is the
    sum over all passes, before negative values are cut.

    Args:
        method: Its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class asked about.
        branch: Which label space the classes are.
        averaged: One weight a channel (Grad-CAM), or each patch's own gradient (HiResCAM).
        target: What the gradient is of. With a single class there is no other to tell it from, and its
            probability speaks from nowhere.
        layer: The block, from 0 on or from the end.

    Returns:
        `[B, grid, grid]`; all 0 where no patch speaks for the class.

    Raises:
        InputError: There is no such block.
    """
    vision = method.clip.vision
    block = vision.blocks[block_index(layer, len(vision.blocks))]
    seen = passes_at(
        method,
        block,
        lambda: _asked(method.logits(method.features(images, branch), branch), labels, target),
    )
    relevance: list[Tensor] = []
    for one in seen:
        g, a = (
            patches_of(values, vision.grid**2, first_patch(method))
            for values in (one.gradient, one.activation)
        )
        relevance.append(((g.mean(dim=1, keepdim=True) if averaged else g) * a).sum(dim=-1))
    return as_heat(torch.stack(relevance).sum(dim=0), vision.grid)


def _asked(logits: Logits, labels: Labels, target: Target) -> PerImage:
    """Return what is derived; up to a positive factor a picture, which a heat does not know of.

    ∇p = p (1 − p) ∇(z_c − log Σ_{j≠c} exp z_j). Without the factor it is exact where p has rounded to 1 or 0.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    if target == "logit":
        return own
    if logits.shape[1] == 1:
        return own * 0
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=-1)
    return own - others
