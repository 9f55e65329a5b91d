"""CLIP-LoRA: low-rank updates of the attention weights of both towers.

- [0]: Low-Rank Few-Shot Adaptation of Vision-Language Models, Zanella and Ben Ayed 2024,
  https://arxiv.org/abs/2405.18541
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import CHUNK, Rows, encode_rows
from foveate.clip.templates import fill
from foveate.clip.text import text_rows
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.choices import check_choices
from foveate.methods.lora import Drops, LowRank
from foveate.methods.plain import PlainTexts
from foveate.methods.towers import Tower
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Images, Scalar, TextFeatures


@dataclass(frozen=True)
class ClipLoraConfig:
    """Settings of CLIP-LoRA.

    Attributes:
        rank: r, of each update.
        alpha: An update is multiplied with alpha / √r.
        dropout: Share of the numbers that an update does not read while it learns.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    template: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.rank < 1:
            raise InputError(f"clip_lora: rank is {self.rank}: give at least 1")
        if self.alpha <= 0:
            raise InputError(f"clip_lora: alpha is {self.alpha}: give a number above zero")
        if not 0 <= self.dropout < 1:
            raise InputError(f"clip_lora: dropout is {self.dropout}: give a share from 0 to below 1")


class ClipLora(Method):
    """Low-rank adaptation of queries, keys and values in all blocks: 184,320 parameters with ViT-B/16.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Of the random start and of what is dropped; by default the stream of seed 0.

    Raises:
        InputError: A setting is out of its range, or the template has not exactly one `{}`.
    """

    tunes_vision = True

    def __init__(
        self, clip: Clip, config: ClipLoraConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or ClipLoraConfig(), generator or stream(0, "init", "clip_lora")
        super().__init__(clip)
        here, rank = clip.text.proj.device, self.config.rank
        start = partial(LowRank, rank=rank, scale=self.config.alpha / rank**0.5, generator=generator)
        text, vision = clip.config.text, clip.config.vision
        self.text_lora = start(text.layers, text.width).to(here)
        self.vision_lora = start(vision.layers, vision.width).to(here)
        self.drop_seed = int(torch.randint(2**62, (), generator=generator))
        self.plain = PlainTexts(clip, self.config.template)  # holds names and sentence; it encodes nothing
        self._rows: Rows | None = None

    def prepare(self) -> None:
        self.plain.prepare(self.names, self.template)
        rows = text_rows(self.clip, [fill(self.plain.sentence, name) for name in self.names])
        self._rows = rows.to(self.clip.text.pos.device)
        for updates in (self.text_lora, self.vision_lora):
            updates.forget()

    def encode_text(self) -> TextFeatures:
        """Return class features of the updated text tower."""
        return self.encode_others(self._sentences())

    def encode_others(self, rows: Rows) -> TextFeatures:
        return encode_rows(_updated(self.clip.text, self.text_lora), rows)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return picture features of the updated image tower."""
        return _precise(_updated(self.clip.vision, self.vision_lora)(images))[None]

    def answer(self, batch: Batch) -> Features:
        """Return both sides of a batch; while it learns, with dropout, which the batch's step decides."""
        if not self.training or not self.config.dropout:
            return super().answer(batch)
        rows = self._sentences()
        # Texts are not read in parts: a part would be read again for its gradient, and drop other numbers.
        vision = self.vision_lora.beside(self.clip.vision, self._drops(batch.step, "vision", 1))
        text = self.text_lora.beside(self.clip.text, self._drops(batch.step, "text", 2))
        whole = max(CHUNK, sum(rows.lengths))
        return Features(_precise(vision(batch.images))[None], encode_rows(text, rows, chunk=whole))

    def losses_of(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy."""
        return {"ce": F.cross_entropy(self.logits(features), batch.labels)}

    def _sentences(self) -> Rows:
        if self._rows is None:
            raise RuntimeError("set_classes first")
        return self._rows

    def _drops(self, step: int, tower: str, passes: int) -> Drops:
        return Drops(self.config.dropout, self.drop_seed, ("dropout", step, tower), passes)


def _updated(tower: Tower, updates: LowRank) -> Tower:
    """Return the tower with its updates: beside the weights where they learn, else in them."""
    learns = torch.is_grad_enabled() and updates.up.requires_grad
    return updates.beside(tower) if learns else updates.merged(tower)


def _precise(features: torch.Tensor) -> torch.Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))
