"""The vocabulary of foveate: what tensors mean, as types that tests check.

Axes: `batch` pictures, `classes` class names, `heads` image features per picture (1; MMRL has 2), `dim` the
embedding both towers share, `tokens` and `width` inside one tower.
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
TextFeatures = Float[Tensor, "... classes dim"]  # `...`: the batch, where texts depend on the picture
Tokens = Float[Tensor, "rows tokens width"]
TokenIds = Int[Tensor, "rows tokens"]


@dataclass(frozen=True)
class Features:
    """Both sides of CLIP before normalisation.

    Attributes:
        image: `[H, B, D]` picture features.
        text: `[C, D]` class features; `[B, C, D]` where they depend on the picture.
        prior: What the untouched CLIP sees, where a method asks it too (FVG-PT does).
    """

    image: ImageFeatures
    text: TextFeatures
    prior: "Features | None" = None


@dataclass(frozen=True)
class FeatureSpec:
    """What a frozen feature is of, besides the view and CLIP's weights: features with equal ones are shared.

    Attributes:
        what: The tower and what it was shown: "clip"; "clip, foreground, mean".
        heads: H of its shape `[H, B, D]`.
        dim: D.
        masked: Whether it depends on the view's mask.
    """

    what: str
    heads: int
    dim: int
    masked: bool = False


@dataclass(frozen=True)
class Batch:
    """A few pictures on their way through a method.

    Attributes:
        images: `[B, 3, S, S]` normalised pictures; S is 0 where `frozen` has all that a method needs of them.
        labels: `[B]` row of each picture's name in the method's classes.
        masks: `[B, 1, S, S]` foreground of the very view in `images`, or None where there are no masks.
        areas: `[B]` share of foreground in the whole picture, before the crop; None without masks.
        frozen: Features training cannot change, by name, where a bank holds them already.
        step: How many steps of the training came before; what a method draws at a step depends on it.
    """

    images: Images
    labels: Labels
    masks: Masks | None = None
    areas: PerImage | None = None
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    step: int = 0
