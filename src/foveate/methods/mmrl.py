"""MMRL: tokens of a space shared by both towers, inserted into their upper blocks, with their own output.

R are the shared tokens; r_v and r_t their projections for a block of the image tower and of the text
tower; f_c and f_r the features of the class token and of the tokens r_v; g a class text; z and z_r
logits of f_c and f_r.

- [0]: MMRL: Multi-Modal Representation Learning for Vision-Language Models, Guo and Gu 2025,
  https://arxiv.org/abs/2503.08497
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip, Edit
from foveate.clip.rows import TokenRows, encode_rows
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod, align, precise
from foveate.methods.capabilities import (
    ExtraTexts,
    ImageTokens,
    OfficialCheckpoint,
    PortableTexts,
    ShardedText,
    TextRecipe,
)
from foveate.methods.configs import MmrlConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_clip
from foveate.methods.layers import copies, linear
from foveate.methods.prompts import PUBLISHED_BLOCKS, LearnedTokens, insert, noise, put
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Images, Scalar, TextFeatures


class Mmrl(
    SentenceMethod, ShardedText, ExtraTexts, PortableTexts, ImageTokens, FrozenFeatures, OfficialCheckpoint
):
    """Multi-modal representation learning: 4,992,256 parameters with ViT-B/16.

    Image features have two heads, f_c and f_r. Logits of trained classes fuse both heads; those of new
    classes use f_c alone. f_c stays close to CLIP's feature, while f_r is free to fit the training
    pictures.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: A setting is out of range, or the towers do not have its blocks.
    """

    name, title, config_type = "mmrl", "MMRL", MmrlConfig
    heads = 2
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: MmrlConfig | None = None, generator: torch.Generator | None = None
    ):
        config, generator = config or MmrlConfig(), generator or stream(0, "init", "mmrl")
        super().__init__(clip, (config.alpha, 1 - config.alpha))
        vision, text, proj = clip.config.vision, clip.config.text, clip.vision.proj
        self.config, self.first_patch = config, 1 + config.tokens
        self.first_block, last = token_blocks(config, min(vision.layers, text.layers))
        blocks, width = last - self.first_block + 1, config.width
        self.tokens = nn.Parameter(noise(config.tokens, width, generator=generator, like=proj))
        self.vision_maps = copies(linear(width, vision.width, generator), blocks).to(proj.device)
        self.text_maps = copies(linear(width, text.width, generator), blocks).to(proj.device)
        initial = torch.empty(vision.width, clip.config.embed).normal_(generator=generator)
        self.proj_rep = nn.Parameter((vision.width**-0.5 * initial).to(proj.device))
        self.plain = PlainTexts(clip, config.template)  # g_CLIP

    def encode_text(self) -> TextFeatures:
        """Return g: features of class sentences from a tower with r_t after the first token."""
        return self.encode_sharded(self.plain.rows(), self.encode_rows)

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return `[2, B, D]`: f_c = ln_post(CLS) · proj, and f_r = mean(ln_post(r_v)) · proj_rep."""
        vision = self.clip.vision
        edit = growing(self._mapped(self.vision_maps), self.first_block)
        tokens = vision.encode(vision.tokens(images), edit, only=1 + len(self.tokens))
        representation = vision.ln_post(tokens[:, 1 : 1 + len(self.tokens)]).mean(dim=1)
        f_r = precise(representation)
        return torch.stack([precise(vision.pool(tokens[:, 0])), f_r @ self.proj_rep.to(f_r.dtype)])

    def frozen(self) -> dict[str, Frozen]:
        return {"clip": frozen_clip(self.clip)}

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        edit = growing(self._mapped(self.text_maps), self.first_block)
        return encode_rows(self.clip.text, rows, edit=edit)

    def text_recipe(self) -> TextRecipe:
        edit = growing(self._mapped(self.text_maps), self.first_block)
        return TextRecipe("sentence", self.clip.text, edit=lambda _: edit, grown=len(self.tokens))

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return α CE(z), (1 − α) CE(z_r), λ (1 − cos(f_c, f_CLIP)), λ (1 − cos(g, g_CLIP)).

        Cosines are means, over pictures and over classes; f_r is not regularised.
        """
        config = self.config
        z, z_rep = (align(Features(head[None], features.text), self.clip.scale) for head in features.image)
        image = F.cosine_similarity(features.image[0], batch.frozen["clip"][0], dim=-1)
        return {
            "ce": config.alpha * F.cross_entropy(z, batch.labels),
            "ce_rep": (1 - config.alpha) * F.cross_entropy(z_rep, batch.labels),
            "image": config.regulariser * (1 - image.mean()),
            "text": config.regulariser * self.text_drift(features),
        }

    def official_names(self) -> dict[str, str | list[str]]:
        learner = "representation_learner.compound_rep_tokens"
        names: dict[str, str | list[str]] = {"tokens": learner, "proj_rep": "image_encoder.proj_rep"}
        for ours, theirs in (("vision_maps", "r2vproj"), ("text_maps", "r2tproj")):
            for k in range(len(self.vision_maps)):
                for tensor in ("weight", "bias"):
                    names[f"{ours}.{k}.{tensor}"] = f"{learner}_{theirs}.{k}.{tensor}"
        return names

    def _mapped(self, maps: nn.ModuleList) -> list[LearnedTokens]:
        """Return r for one tower: R through the projection of each block."""
        return [to_tower(self.tokens) for to_tower in maps]


def growing(learned: Sequence[LearnedTokens], first_block: int) -> Edit:
    """Return the edit that inserts learned tokens into rows, after the first token (CLS or SOT).

    Args:
        learned: Tokens of each block. The first ones are inserted; the next ones replace those before.
        first_block: The block, counted from 1, before which they are inserted.
    """

    def edit(layer: int, tokens: Tensor) -> Tensor:
        k = layer + 1 - first_block
        if not 0 <= k < len(learned):
            return tokens
        return (insert if k == 0 else put)(tokens, learned[k], 1)

    return edit


def token_blocks(config: MmrlConfig, blocks: int) -> tuple[int, int]:
    """Return the first and the last block with their own tokens, counted from 1; equal in both towers.

    Args:
        config: Settings.
        blocks: Number of blocks of the shallower tower.

    Raises:
        InputError: The towers do not have these blocks.
    """
    depth = min(blocks, PUBLISHED_BLOCKS)  # 6 and 12 in [0], also for a deeper image tower
    first = max(1, depth // 2) if config.first_block is None else config.first_block
    last = depth if config.last_block is None else config.last_block
    if not 1 <= first <= last <= blocks:
        raise InputError(
            f"mmrl: first_block is {first} and last_block {last}, but both towers have blocks 1 to {blocks}"
            " only: give two of these, the lower one first"
        )
    return first, last
