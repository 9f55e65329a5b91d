"""Sizes of a CLIP model."""

from dataclasses import dataclass

EMBEDDED = ("tiny", "tiny-mild", "tiny-strong", "tiny-control")
"""Embedded CLIP models of drawn scenes: one with plain names, three with species (`foveate.world`)."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerConfig:
    """Size of one transformer tower.

    Attributes:
        width: Dimension of a token.
        layers: Number of blocks.
        heads: Number of attention heads; it divides the width.
        hidden: Hidden dimension of the MLPs; None is four times the width.
    """

    width: int
    layers: int
    heads: int
    hidden: int | None = None


@dataclass(frozen=True)
class ClipConfig:
    """All sizes of a CLIP model; the default is ViT-B/16.

    Attributes:
        embed: Dimension of the shared embedding space.
        context: Maximum length of a text in tokens, including SOT and EOT.
        quick_gelu: Whether blocks use `x * sigmoid(1.702 x)` (OpenAI's weights) or the exact GELU.
        mean: Channel means of the tower's input, for pictures in [0, 1].
        std: Channel standard deviations, likewise.
    """

    vision: TowerConfig = TowerConfig(768, 12, 12)
    text: TowerConfig = TowerConfig(512, 12, 8)
    image_size: int = 224
    patch_size: int = 16
    context: int = 77
    vocab: int = 49408
    embed: int = 512
    quick_gelu: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
