"""Grad-CAM on the patches of a vision transformer: the relevance of each patch for a class.

With a the input of a block's attention (the output of its `ln_1`) and g the gradient of the class's
logit or probability at that point, the relevance of patch i is

- Grad-CAM: Σ_c mean_j(g_jc) · a_ic, one weight per channel ([0], Eq. 1 and 2);
- HiResCAM: Σ_c g_ic · a_ic, with each patch's own gradient ([1], Eq. 3).

Negative values become 0. The last block's output, its `ln_2` and its MLP cannot be used: only the class
token (and MMRL's representation tokens) are used after them, so the gradients of patches are exactly 0.

- [0]: Grad-CAM, Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391
- [1]: HiResCAM, Draelos et al. 2020, https://arxiv.org/abs/2011.08891
"""

from typing import Literal

import torch
from torch import Tensor

from foveate.explain.passes import Gaze, as_heat, block_index, patches_of
from foveate.methods.base import Method
from foveate.methods.block_gradients import passes_at
from foveate.methods.capabilities import first_patch
from foveate.types import Branch, Images, Labels, Logits, PerImage

Target = Literal["logit", "probability"]
"""Quantity whose gradient is computed: the class's logit, or its probability among all class names."""


def class_activation(
    method: Method,
    images: Images,
    labels: Labels | None,
    branch: Branch = "base",
    *,
    averaged: bool,
    target: Target = "probability",
    layer: int = -1,
) -> Gaze:
    """Return the relevance of each patch for a class, and the logits of the same passes.

    A method may use the tower several times (FVG-PT: the backbone and CLIP). The relevance of a patch is
    the sum over all passes, before negative values become 0.

    Args:
        method: The method with its classes set.
        images: `[B, 3, S, S]` normalised pictures.
        labels: `[B]` the class to explain; None is each picture's answer.
        branch: Label space of the class names.
        averaged: True: one weight per channel (Grad-CAM); False: each patch's own gradient (HiResCAM).
        target: Quantity whose gradient is computed. With a single class the probability is constant, so
            the map is 0.
        layer: Block, counted from 0; negative numbers count from the end.

    Returns:
        A heat map is all 0 if no patch supports the class.

    Raises:
        InputError: The block does not exist.
    """
    vision, outputs = method.clip.vision, list[Logits]()
    block = vision.blocks[block_index(layer, len(vision.blocks))]

    def target_values() -> PerImage:
        outputs.append(method.logits(method.features(images, branch), branch))
        return _asked(outputs[0], outputs[0].argmax(dim=-1) if labels is None else labels, target)

    passes = passes_at(method, block, target_values)
    relevance: list[Tensor] = []
    for tower_pass in passes:
        g, a = (
            patches_of(values, vision.grid**2, first_patch(method))
            for values in (tower_pass.gradient, tower_pass.activation)
        )
        relevance.append(((g.mean(dim=1, keepdim=True) if averaged else g) * a).sum(dim=-1))
    logits = outputs[0].detach()
    heat = as_heat(torch.stack(relevance).sum(dim=0), vision.grid)
    return Gaze(heat, logits, logits.argmax(dim=-1) if labels is None else labels)


def _asked(logits: Logits, labels: Labels, target: Target) -> PerImage:
    """Return the quantity to differentiate, up to a positive factor per picture, which a heat map ignores.

    ∇p = p (1 − p) ∇(z_c − log Σ_{j≠c} exp z_j). Without the factor the result is exact even if p is
    rounded to 1 or 0.
    """
    class_logits = logits.gather(1, labels[:, None])[:, 0]
    if target == "logit":
        return class_logits
    if logits.shape[1] == 1:
        return class_logits * 0
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=-1)
    return class_logits - others
