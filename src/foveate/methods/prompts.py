"""Learned tokens: in place of words of a sentence, and between the blocks of a tower.

A method with learned vectors in place of words is a `PromptMethod`; with tokens in further blocks, a
`DeepPromptMethod`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Clip, Edit, Vision
from foveate.clip.rows import TokenRows, encode_rows, pack
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.base import check_names, precise
from foveate.methods.capabilities import (
    ExtraTexts,
    OfficialCheckpoint,
    PortableTexts,
    ShardedText,
    TextRecipe,
)
from foveate.methods.configs import Position
from foveate.methods.prompt_rows import prompt_row
from foveate.types import ImageFeatures, Images, TextFeatures, Tokens

PUBLISHED_BLOCKS = 12
"""Blocks of each tower of ViT-B/16, for which depths are published."""

LearnedTokens = Float[Tensor, "learned channels"]
DeepTokens = Float[Tensor, "layers learned channels"]  # of the second block and the blocks after it


def lay_out(
    tokenizer: ClipTokenizer,
    names: Sequence[str],
    vectors: int,
    position: Position = "end",
    words: Sequence[int] = (),
    *,
    per_class: bool = False,
) -> TokenRows:
    """Lay out prompts `[SOT] v1 … vn words name . [EOT]`, or the "middle" and "front" forms.

    Args:
        tokenizer: Tokenizer of the text tower.
        names: Class names; an underscore counts as a space.
        vectors: Number of learned vectors per row.
        position: Place of the name relative to the vectors.
        words: Token ids between the vectors and the name.
        per_class: Whether each row has its own vectors; those of row i are then i·n to i·n + n − 1.

    Raises:
        InputError: The vectors, or a name with them, are longer than the context of the text tower.
    """
    room = tokenizer.context - 4 - len(words)  # SOT, EOT, the full stop and at least one token of a name
    if vectors > room:
        raise InputError(
            f"{vectors} learned vectors leave no room for a class name: this CLIP reads {tokenizer.context}"
            f" tokens, so learn at most {room}"
        )
    first_slots = [i * vectors if per_class else 0 for i in range(len(names))]
    texts = [name.replace("_", " ") for name in names]
    rows = [
        prompt_row(tokenizer, name, range(first_slot, first_slot + vectors), position, words)
        for name, first_slot in zip(texts, first_slots, strict=True)
    ]
    return pack(rows)


class PromptMethod(ShardedText, PortableTexts):
    """A method with learned vectors among the words, shared by all classes.

    Args:
        clip: The frozen towers.
        vectors: `[M, W]` initial values of the learned vectors.
        words: Token ids between the vectors and the name.
        head_weights: See `Method`.
    """

    def __init__(
        self,
        clip: Clip,
        vectors: Float[Tensor, "vectors width"],
        words: Sequence[int] = (),
        head_weights: Sequence[float] = (1.0,),
    ):
        super().__init__(clip, head_weights)
        self.ctx = nn.Parameter(vectors)
        self.words = tuple(words)
        self._rows: TokenRows | None = None

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        check_names(names)
        rows = self.lay_out_classes(names)
        super().set_classes(names, template, trained)
        self._rows = rows

    def lay_out_classes(self, names: Sequence[str]) -> TokenRows:
        """Return the prompts of classes as token rows; see `lay_out`."""
        return lay_out(self.clip.tokenizer, names, len(self.ctx), words=self.words)

    def encode_text(self) -> TextFeatures:
        return self.encode_prompts(self.ctx)

    @property
    def rows(self) -> TokenRows:
        """The prompts of all classes, on the device of the learned vectors."""
        if self._rows is None:
            raise RuntimeError("set_classes first")
        self._rows = self._rows.to(self.ctx.device)
        return self._rows

    def official_names(self) -> dict[str, str | list[str]]:
        """Return the vectors' name in the authors' checkpoints, for an `OfficialCheckpoint`."""
        return {"ctx": "prompt_learner.ctx"}

    def text_recipe(self) -> TextRecipe:
        return TextRecipe("prompt", self.clip.text, self.ctx[None], ("end",), self.words)

    def encode_prompts(
        self, vectors: Float[Tensor, "vectors width"], edit: Edit | None = None
    ) -> TextFeatures:
        """Return `[C, D]` raw features of all classes, with these vectors in their prompts."""
        return self.encode_sharded(self.rows, lambda rows: encode_rows(self.clip.text, rows, vectors, edit))


class SharedPrompt(PromptMethod, ExtraTexts, OfficialCheckpoint):
    """A prompt method that can put its vectors before any other text too; they replace the sentence."""

    def extra_rows(self, names: Sequence[str], template: str) -> TokenRows:
        return self.lay_out_classes(names)

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, self.ctx)


class DeepPromptMethod(PromptMethod, ExtraTexts, OfficialCheckpoint):
    """A prompt method with separate tokens in further blocks of the text tower, after SOT.

    Other texts keep their sentence; the deeper tokens replace the tokens after SOT there too.

    Attributes:
        deep_text: Tokens of the second block and the blocks after it; None if there are none.
    """

    deep_text: nn.Parameter | None

    def deeper_text(self) -> DeepTokens | None:
        """Return the tokens that are used in the second block and the blocks after it."""
        return self.deep_text

    def encode_text(self) -> TextFeatures:
        """Return class features; each block has its own tokens after SOT."""
        return self.encode_prompts(self.ctx, self.text_edit())

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, edit=self.text_edit())

    def text_recipe(self) -> TextRecipe:
        return replace(super().text_recipe(), edit=self.text_edit)

    def text_edit(self, _: Tensor | None = None) -> Edit | None:
        """Return the edit that puts the deeper tokens after SOT."""
        return replacing(self.deeper_text(), 1)


def noise(*shape: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return N(0, 0.02²) noise in float32, the usual initial values, on the device of `like`."""
    return torch.empty(*shape).normal_(0.0, 0.02, generator=generator).to(like.device)  # drawn on the CPU


@torch.no_grad()
def embedded_start(
    clip: Clip, tokens: int, init: str | None, generator: torch.Generator, method: str
) -> tuple[Float[Tensor, "vectors width"], list[int]]:
    """Return the initial values of learned vectors, and the token ids of `init` that stay words after them.

    The authors' code of IVLP, PromptSRC and MaPLe learns the first tokens of its sentence and keeps the
    rest as words: of "a photo of a" with two vectors, "of a" stays.

    Args:
        clip: The frozen towers.
        tokens: Number of learned vectors.
        init: Words that initialise the vectors; None draws from N(0, 0.02²).
        generator: Random generator of the initial values.
        method: Name of the method, for messages.

    Raises:
        InputError: `tokens` is below 1, or above the length of `init`.
    """
    if tokens < 1:
        raise InputError(f"{method}: tokens is {tokens}, but at least one vector must be learned")
    table = clip.text.token.weight
    if init is None:
        return noise(tokens, table.shape[1], generator=generator, like=table), []
    words = clip.tokenizer.words(init.replace("_", " "))
    if len(words) < tokens:
        raise InputError(
            f"{method}: tokens is {tokens}, but init {init!r} has {len(words)}: give more words, or no init"
        )
    return table[torch.tensor(words[:tokens], device=table.device)].float(), words[tokens:]


# --- between blocks ---


def resolve_depth(
    configured: int | None, blocks: int, published: int, setting: str, *, least: int = 1
) -> int:
    """Return the number of blocks, from the first, that get learned tokens.

    Args:
        configured: The setting; None takes the published depth, or the same share of a shallower tower.
        blocks: Number of blocks of the tower.
        published: Depth that the authors use with 12 blocks.
        setting: Full name of the setting, for messages: "promptsrc: text_depth".
        least: Smallest allowed depth.

    Raises:
        InputError: The depth is larger than the number of blocks, or smaller than `least`.
    """
    if configured is None:
        depth = published * min(blocks, PUBLISHED_BLOCKS) / PUBLISHED_BLOCKS
        return max(least, round(depth))
    if not least <= configured <= blocks:
        raise InputError(
            f"{setting} is {configured}, but the tower has {blocks} blocks: give {least} to {blocks}"
        )
    return configured


def put(tokens: Tokens, learned: LearnedTokens, start: int) -> Tokens:
    """Return the tokens of each row with `learned` in place of those from `start` on."""
    expanded = learned.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :start], expanded, tokens[:, start + len(learned) :]], dim=1)


def insert(tokens: Tokens, learned: LearnedTokens, start: int) -> Float[Tensor, "rows grown width"]:
    """Return the tokens of each row with `learned` between those before `start` and the others."""
    expanded = learned.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :start], expanded, tokens[:, start:]], dim=1)


def replacing(deeper: DeepTokens | None, start: int) -> Edit | None:
    """Return the edit that puts `deeper[k]` before block k + 2 (counted from 1), replacing older tokens.

    Args:
        deeper: Tokens of the second block and the blocks after it; None means no edit.
        start: Index in a row; a negative index counts from the end, -4 means the last four.
    """
    if deeper is None:
        return None

    def edit(layer: int, tokens: Tensor) -> Tensor:
        if not 1 <= layer <= len(deeper):
            return tokens
        # `int` makes the row length a constant of an exported graph: all pictures have as many patches.
        return put(tokens, deeper[layer - 1], start if start >= 0 else int(tokens.shape[1]) + start)

    return edit


def encode_prompted(
    vision: Vision, images: Images, first: LearnedTokens, deeper: DeepTokens | None
) -> ImageFeatures:
    """Return raw features `[1, B, D]` of an image tower with learned tokens after the patches.

    The first block's tokens have no position embedding and pass through `ln_pre`. Before each further
    block, that block's tokens replace them unchanged. Later blocks without tokens keep the outputs of
    the last ones.

    Args:
        vision: The image tower.
        images: Normalised pictures.
        first: Tokens of the first block.
        deeper: Tokens of the next blocks, if any.
    """
    tokens = vision.tokens(images)
    tokens = insert(tokens, first, len(vision.pos))
    encoded = vision.encode(tokens, replacing(deeper, -len(first)), only=1)
    return precise(vision.pool(encoded[:, 0]))[None]


def deep_start(
    depth: int, tokens: int, width: int, *, generator: torch.Generator, like: Tensor
) -> nn.Parameter | None:
    """Return initial tokens of all blocks but the first, N(0, 0.02²), on the device of `like`.

    Args:
        depth: Number of blocks with learned tokens, including the first; the result is None below two.
        tokens: Number of tokens per block.
        width: Width of the tower.
        generator: Random generator of the initial values.
        like: A tensor on the target device.
    """
    if depth < 2:
        return None
    return nn.Parameter(noise(depth - 1, tokens, width, generator=generator, like=like))


def official_deep(tower: str, deeper: DeepTokens) -> list[str]:
    """Return the names of these tokens in checkpoints of the authors' code of IVLP, PromptSRC and VPT."""
    return [f"{tower}.transformer.resblocks.{k}.VPT_shallow" for k in range(1, len(deeper) + 1)]
