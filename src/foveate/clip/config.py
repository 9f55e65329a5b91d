"""Sizes of a CLIP."""

from dataclasses import dataclass

EMBEDDED = ("tiny", "tiny-mild", "tiny-strong", "tiny-control")
"""CLIPs of drawn scenes inside the package: one of plain names, and three of species (`foveate.world`)."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TowerConfig:
    """Size of one transformer tower.

    Attributes:
        width: Length of a token.
        layers: Number of blocks.
        heads: Attention heads; they divide the width.
        hidden: Width inside the blocks' perceptrons; None: four times the tokens'.
    """

    width: int
    layers: int
    heads: int
    hidden: int | None = None


@dataclass(frozen=True)
class ClipConfig:
    """Every size of a CLIP; the default is ViT-B/16.

    Attributes:
        embed: Dimension both towers share.
        context: Longest text, in tokens, SOT and EOT included.
        quick_gelu: Whether blocks use `x * sigmoid(1.702 x)` (OpenAI's weights) or the exact GELU.
        mean: Channel means of a picture in [0, 1] that the tower expects.
        std: Channel deviations, likewise.
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
