"""Type annotations of tensors; tests check them at run time.

Axes: `batch` pictures; `classes` class names; `heads` image features per picture (1; MMRL has 2); `dim`
the common embedding of both towers; `tokens` and `width` inside one tower.
"""

from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "batch 3 height width"]  # normalised with the tower's mean and standard deviation
Masks = Float[Tensor, "batch 1 height width"]  # 1 on the foreground, 0 elsewhere
Labels = Int[Tensor, " batch"]
Logits = Float[Tensor, "batch classes"]
PerImage = Float[Tensor, " batch"]
Scalar = Float[Tensor, ""]
ImageFeatures = Float[Tensor, "heads batch dim"]
TextFeatures = Float[Tensor, "... classes dim"]  # `...`: the batch, if texts depend on the picture
Tokens = Float[Tensor, "rows tokens width"]
TokenIds = Int[Tensor, "rows tokens"]

Branch = Literal["base", "new", "mixed"]
"""Label space of the class names: trained classes, classes that were not trained, or both."""


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
        masked: Whether the feature depends on the view's mask.
    """

    what: str
    heads: int
    dim: int
    masked: bool = False


@dataclass(frozen=True)
class Batch:
    """A batch of training pictures.

    Attributes:
        images: `[B, 3, S, S]` normalised pictures; S is 0 if `frozen` has all features that the method
            needs.
        labels: `[B]` index of each picture's class in the method's names.
        masks: `[B, 1, S, S]` foreground of the views in `images`; None without masks.
        areas: `[B]` share of the foreground in the whole picture, before the crop; None without masks.
        frozen: Features that training does not change, by name, as far as a bank holds them.
        step: Number of training steps before this batch; random numbers of a step depend on it.
    """

    images: Images
    labels: Labels
    masks: Masks | None = None
    areas: PerImage | None = None
    frozen: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    step: int = 0
