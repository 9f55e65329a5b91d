"""Type annotations of tensors; tests check them at run time.

Axes: `batch` pictures; `classes` class names; `heads` image features per picture (1; MMRL has 2); `dim`
the common embedding of both towers; `tokens` and `width` inside one tower.
"""

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from foveate.prediction import Branch as Branch

Images = Float[Tensor, "batch 3 height width"]  # normalised with the tower's mean and deviation
Masks = Float[Tensor, "batch 1 height width"]  # 1 on the foreground, 0 elsewhere
Labels = Int[Tensor, " batch"]
Logits = Float[Tensor, "batch classes"]
PerImage = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
ImageFeatures = Float[Tensor, "heads batch dim"]
TextFeatures = Float[Tensor, "... classes dim"]  # `...`: the batch, if texts depend on the picture
Tokens = Float[Tensor, "rows tokens width"]
TokenIds = Int[Tensor, "rows tokens"]


@dataclass(frozen=True)
class Features:
    """Features of pictures and texts, before normalisation to unit length.

    Attributes:
        image: `[H, B, D]` picture features.
        text: `[C, D]` class features; `[B, C, D]` if they depend on the picture.
        prior: Features of the unchanged CLIP, if the method uses them (FVG-PT does).
    """

    image: ImageFeatures
    text: TextFeatures
    prior: "Features | None" = None


@dataclass(frozen=True)
class FeatureSpec:
    """Key of a frozen feature, besides the view and CLIP's weights; features with equal keys are shared.

    Attributes:
        what: The tower and its input: "clip"; "clip, foreground, mean".
        heads: H of the shape `[H, B, D]`.
        dim: D.
        masked: Whether it depends on the view's mask.
        exchanged: Whether the input is the view's object on another picture's ground, drawn anew each epoch.
        region: Whether the mask marks a region of the whole view, and not the part that is kept.
    """

    what: str
    heads: int
    dim: int
    masked: bool = False
    exchanged: bool = False
    region: bool = False


@dataclass(frozen=True)
class Batch:
    """A batch of training pictures.

    Attributes:
        images: `[B, 3, S, S]` normalised pictures; S is 0 if `frozen` has all that the method needs of them.
        labels: `[B]` index of each picture's class in the method's classes.
        masks: `[B, 1, S, S]` foreground of the same view as in `images`; None if there are no masks.
        areas: `[B]` share of foreground in the whole picture, before the crop; None without masks.
        frozen: Features that training cannot change, by name, if a bank has them already.
        exchanged: `[B, 3, S, S]` the same views, each object on another picture's ground; None unless a
            method asks for them.
        step: Number of training steps before this one; random numbers of a method depend on it.
    """

    images: Images
    labels: Labels
    masks: Masks | None = None
    areas: PerImage | None = None
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    exchanged: Images | None = None
    step: int = 0
