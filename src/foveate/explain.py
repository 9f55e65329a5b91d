"""Where a method looks: Grad-CAM on the image tower's last block, and pictures of it.

- Grad-CAM: Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391; on a transformer's tokens the relevance
  of a patch is the sum over channels of gradient times activation.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.methods.base import Method
from foveate.types import Branch, Images, Labels, Masks, PerImage

Heat = Float[Tensor, "batch grid grid"]


def gaze(method: Method, images: Images, labels: Labels, branch: Branch = "base") -> Heat:
    """Return how much each patch speaks for the given class, not negative, summing to 1 over a picture.

    Where no patch speaks for it (with a single class none can), it is 0 everywhere.

    Args:
        method: Its classes set.
        images: Normalised pictures.
        labels: The class asked about, one a picture.
        branch: Which label space the classes are.
    """
    caught: list[Tensor] = []

    def catch(_module: object, _inputs: object, output: Tensor) -> Tensor:
        leaf = output.detach().requires_grad_()
        caught.append(leaf)
        return leaf

    vision = method.clip.vision
    handle = vision.blocks[-1].get_submodule("ln_1").register_forward_hook(catch)
    try:
        with method.constant_text(), torch.inference_mode(False), torch.enable_grad():
            log_p = method.logits(method.features(images, branch), branch).log_softmax(dim=-1)
            chosen = log_p.gather(1, labels[:, None]).sum()
            # A method may ask the tower twice (its own answer and CLIP's): every pass that counts, counts.
            gradients = torch.autograd.grad(chosen, caught, materialize_grads=True)
    finally:
        handle.remove()
    passes = [(g.float() * a.detach().float()).sum(-1) for g, a in zip(gradients, caught, strict=True)]
    cut = [_of_patches(relevance, vision.grid**2, method.first_patch) for relevance in passes]
    patches = torch.stack(cut).sum(0).clamp_min(0)
    heat = patches / patches.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    return heat.view(-1, vision.grid, vision.grid)


def _of_patches(
    relevance: Float[Tensor, "batch tokens"], patches: int, first: int
) -> Float[Tensor, "batch patches"]:
    """Cut the patches out of one pass of the tower.

    Args:
        relevance: Of the class token, the patches, and tokens that the method may have put among them.
        patches: How many there are.
        first: Where they begin with the method's tokens.
    """
    if relevance.shape[1] == patches + 1:  # none were put: this is the untouched CLIP
        first = 1
    return relevance[:, first : first + patches]


def gaze_on_object(heat: Heat, masks: Masks) -> PerImage:
    """Return the share of the gaze that falls on the foreground, in [0, 1].

    Args:
        heat: From `gaze`.
        masks: `[B, 1, S, S]` foreground of the same views.
    """
    share = F.adaptive_avg_pool2d(masks, heat.shape[-1])[:, 0]
    return (heat * share).sum(dim=(1, 2))


def overlay(picture: Image.Image, heat: Float[Tensor, "grid grid"], side: int) -> Image.Image:
    """Return the picture, darkened where the gaze is not, with the gaze as a warm light.

    Args:
        picture: What the method saw, square.
        heat: Its gaze.
        side: Pixels a side of the result.
    """
    smooth = F.interpolate(heat[None, None].float(), size=(side, side), mode="bicubic", align_corners=False)[
        0, 0
    ]
    strength = (smooth / smooth.max().clamp_min(1e-12)).clamp(0, 1).cpu().numpy()[..., None] ** 0.8
    base = np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), np.float32)
    warm = np.array((255, 196, 64), np.float32)
    lit = base * (0.5 + 0.5 * strength) + 0.45 * strength * (warm - base)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], captions: Sequence[Sequence[str]], heads: Sequence[str]
) -> Image.Image:
    """Lay pictures of one size out in a table, a caption under each and a head over each column.

    Args:
        rows: Pictures, row by row.
        captions: One a picture; a leading "+" or "-" colours it as right or wrong and is not shown.
        heads: One a column.
    """
    from PIL import ImageDraw, ImageFont

    side, gap, line = rows[0][0].width, 12, 22
    width = gap + len(heads) * (side + gap)
    sheet = Image.new("RGB", (width, gap + line + len(rows) * (side + line + gap)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    colours = {"+": (24, 128, 56), "-": (190, 40, 40)}
    for j, head in enumerate(heads):
        pen.text((gap + j * (side + gap), gap), head, fill=(20, 20, 20), font=font)
    for i, (pictures, said) in enumerate(zip(rows, captions, strict=True)):
        top = gap + line + i * (side + line + gap)
        for j, (picture, text) in enumerate(zip(pictures, said, strict=True)):
            left = gap + j * (side + gap)
            sheet.paste(picture, (left, top))
            fill = colours.get(text[:1], (70, 70, 70))
            pen.text((left, top + side + 3), text[1:] if text[:1] in colours else text, fill=fill, font=font)
    return sheet
