"""Learned tokens: among the words of a sentence, and between the blocks of a tower.

Who learns vectors in place of words is a `PromptMethod`; with tokens in further blocks, a `DeepPromptMethod`.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Clip, Edit, Vision
from foveate.clip.rows import Rows, encode_rows, pack
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.base import check_names, precise
from foveate.methods.capabilities import ExtraTexts, OfficialCheckpoint, ShardedText
from foveate.methods.configs import Position
from foveate.methods.prompt_rows import prompt_row
from foveate.types import ImageFeatures, Images, TextFeatures, Tokens

PUBLISHED_BLOCKS = 12
"""Of either tower of ViT-B/16, for which depths are published."""

LearnedTokens = Float[Tensor, "learned channels"]
DeepTokens = Float[Tensor, "layers learned channels"]  # of the second block and of those behind it


def lay_out(
    tokenizer: ClipTokenizer,
    names: Sequence[str],
    vectors: int,
    position: Position = "end",
    words: Sequence[int] = (),
    *,
    own: bool = False,
) -> Rows:
    """Lay out `[SOT] v1 … vn words name . [EOT]`, or its "middle" and "front" forms.

    Args:
        tokenizer: Of the text tower.
        names: Class names; underscores read as spaces.
        vectors: How many learned vectors a row has.
        position: Where the name stands among them.
        words: Token ids that stay between the vectors and the name.
        own: Whether each row has vectors of its own; those of row i are then i·n to i·n + n − 1.

    Raises:
        InputError: The vectors, or a name beside them, take more room than the text tower has.
    """
    room = tokenizer.context - 4 - len(words)  # SOT, EOT, the full stop and a name of one token at least
    if vectors > room:
        raise InputError(
            f"{vectors} learned vectors leave no room for a class name: this CLIP reads {tokenizer.context}"
            f" tokens, so learn at most {room}"
        )
    firsts = [i * vectors if own else 0 for i in range(len(names))]
    plain = [name.replace("_", " ") for name in names]
    rows = [
        prompt_row(tokenizer, name, range(first, first + vectors), position, words)
        for name, first in zip(plain, firsts, strict=True)
    ]
    return pack(rows)


class PromptMethod(ShardedText):
    """A method with learned vectors among the words, the same for all classes.

    Args:
        clip: The frozen towers.
        vectors: `[M, W]` start of the learned vectors.
        words: Token ids that stay between them and the name.
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
        self._rows: Rows | None = None

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        check_names(names)
        rows = self.lay_out_classes(names)
        super().set_classes(names, template, trained)
        self._rows = rows

    def lay_out_classes(self, names: Sequence[str]) -> Rows:
        """Return the prompts of classes; see `lay_out`."""
        return lay_out(self.clip.tokenizer, names, len(self.ctx), words=self.words)

    def encode_text(self) -> TextFeatures:
        return self.encode_prompts(self.ctx)

    @property
    def rows(self) -> Rows:
        """The prompts of all classes, where the learned vectors are."""
        if self._rows is None:
            raise RuntimeError("set_classes first")
        self._rows = self._rows.to(self.ctx.device)
        return self._rows

    def encode_prompts(
        self, vectors: Float[Tensor, "vectors width"], edit: Edit | None = None
    ) -> TextFeatures:
        """Return `[C, D]` raw features of all classes with these vectors in their prompts."""
        return self.encode_sharded(self.rows, lambda rows: encode_rows(self.clip.text, rows, vectors, edit))


class SharedPrompt(PromptMethod, ExtraTexts, OfficialCheckpoint):
    """A prompt method whose vectors may stand before any other text too; the sentence is left out."""

    def extra_rows(self, names: Sequence[str], template: str) -> Rows:
        return self.lay_out_classes(names)

    def encode_rows(self, rows: Rows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, self.ctx)

    def official_names(self) -> dict[str, str | list[str]]:
        return {"ctx": "prompt_learner.ctx"}


class DeepPromptMethod(PromptMethod, ExtraTexts, OfficialCheckpoint):
    """A prompt method with tokens of their own in further blocks of the text tower, behind SOT.

    Other texts stay in their sentence; the deeper tokens take their places behind SOT all the same.

    Attributes:
        deep_text: Tokens of the second block and of those that follow it; None where there are none.
    """

    deep_text: nn.Parameter | None

    def encode_text(self) -> TextFeatures:
        """Return class features, with each block's own tokens in the places behind SOT."""
        return self.encode_prompts(self.ctx, replacing(self.deep_text, 1))

    def encode_rows(self, rows: Rows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, edit=replacing(self.deep_text, 1))

    def official_names(self) -> dict[str, str | list[str]]:
        return {"ctx": "prompt_learner.ctx"}


def noise(*shape: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return N(0, 0.02²) in float32, the field's start of learned tokens, where `like` is."""
    return torch.empty(*shape).normal_(0.0, 0.02, generator=generator).to(like.device)  # drawn on the CPU


@torch.no_grad()
def embedded_start(
    clip: Clip, tokens: int, init: str | None, generator: torch.Generator, method: str
) -> tuple[Float[Tensor, "vectors width"], list[int]]:
    """Return the start of learned vectors, and the token ids of `init` that stay words behind them.

    The authors' code of IVLP, PromptSRC and MaPLe learns the first few tokens of its sentence and keeps the
    rest: of "a photo of a" with two vectors, "of a" stays.

    Args:
        clip: The frozen towers.
        tokens: How many vectors are learned.
        init: Words to start from; None starts from N(0, 0.02²).
        generator: Of the random start.
        method: Its name, for messages.

    Raises:
        InputError: Fewer than one vector, or more than `init` has tokens.
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


def resolve_depth(given: int | None, blocks: int, published: int, setting: str, *, least: int = 1) -> int:
    """Return how many blocks, from the first on, get learned tokens.

    Args:
        given: The setting; None takes the published depth, and of a shallower tower the same share.
        blocks: Of the tower.
        published: The depth that the method's authors use with 12 blocks.
        setting: Its whole name, for messages: "promptsrc: text_depth".
        least: Smallest depth that makes sense.

    Raises:
        InputError: The tower has fewer blocks, or the depth is below the least.
    """
    if given is None:
        share = published * min(blocks, PUBLISHED_BLOCKS) / PUBLISHED_BLOCKS
        return max(least, round(share))
    if not least <= given <= blocks:
        raise InputError(f"{setting} is {given}, but the tower has {blocks} blocks: give {least} to {blocks}")
    return given


def put(tokens: Tokens, learned: LearnedTokens, start: int) -> Tokens:
    """Return the tokens of each row with `learned` in place of those from `start` on."""
    rows = learned.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :start], rows, tokens[:, start + len(learned) :]], dim=1)


def insert(tokens: Tokens, learned: LearnedTokens, start: int) -> Float[Tensor, "rows grown width"]:
    """Return the tokens of each row with `learned` between those before `start` and the others."""
    rows = learned.to(tokens.dtype).expand(tokens.shape[0], -1, -1)
    return torch.cat([tokens[:, :start], rows, tokens[:, start:]], dim=1)


def replacing(deeper: DeepTokens | None, start: int) -> Edit | None:
    """Return the edit that puts `deeper[k]` before block k + 2 (counted from 1), over what stood there.

    Args:
        deeper: Tokens of the second block and of those that follow it; None leaves all blocks alone.
        start: Their place in a row; negative counts from the end, -4 being the last four.
    """
    if deeper is None:
        return None

    def edit(layer: int, tokens: Tensor) -> Tensor:
        if not 1 <= layer <= len(deeper):
            return tokens
        # Of a row's length an exported graph is told as of a number: pictures have as many patches always.
        return put(tokens, deeper[layer - 1], start if start >= 0 else int(tokens.shape[1]) + start)

    return edit


def encode_prompted(
    vision: Vision, images: Images, first: LearnedTokens, deeper: DeepTokens | None
) -> ImageFeatures:
    """Return raw features `[1, B, D]` of a tower with learned tokens behind the patches.

    The first block's tokens have no position and pass `ln_pre`; before each further block its own take their
    place as they are. Blocks behind those with tokens of their own read what these made of the last ones.

    Args:
        vision: The image tower.
        images: Normalised pictures.
        first: Tokens of the first block.
        deeper: Tokens of the blocks that follow, if any.
    """
    tokens = vision.tokens(images)
    tokens = insert(tokens, first, len(vision.pos))
    return precise(vision.pool(vision.encode(tokens, replacing(deeper, -len(first)))[:, 0]))[None]


def deep_start(
    depth: int, tokens: int, width: int, *, generator: torch.Generator, like: Tensor
) -> nn.Parameter | None:
    """Return the start of the tokens of all blocks but the first, N(0, 0.02²), where `like` is.

    Args:
        depth: Blocks with learned tokens, the first included; with fewer than two there is nothing to learn.
        tokens: How many a block.
        width: Of the tower.
        generator: Of the random start.
        like: Where to put it.
    """
    if depth < 2:
        return None
    return nn.Parameter(noise(depth - 1, tokens, width, generator=generator, like=like))


def official_deep(tower: str, deeper: DeepTokens) -> list[str]:
    """Return the names of these tokens in checkpoints of the authors' code of IVLP, PromptSRC and VPT."""
    return [f"{tower}.transformer.resblocks.{k}.VPT_shallow" for k in range(1, len(deeper) + 1)]
