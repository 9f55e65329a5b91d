"""Sentences with learned vectors in place of words: where they stand, how they start, how a row is encoded.

Whoever learns such vectors for all classes together is a `PromptMethod`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveate.clip.model import Clip, Edit, Text
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.types import TextFeatures, Tokens

Position = Literal["end", "middle", "front"]
"""Where the class name stands: after the learned vectors, amid them, or before them."""


@dataclass(frozen=True)
class PromptLayout:
    """One row per class, cut behind the last EOT of all.

    Attributes:
        ids: `[C, L]` token ids; anything where a vector stands.
        slots: `[C, L]` index of the learned vector at a place, or -1 for a word.
        eot: `[C]` where each row ends.
    """

    ids: Int[Tensor, "classes tokens"]
    slots: Int[Tensor, "classes tokens"]
    eot: Int[Tensor, " classes"]

    def to(self, device: torch.device) -> "PromptLayout":
        """Return the same layout on another device."""
        return PromptLayout(self.ids.to(device), self.slots.to(device), self.eot.to(device))


def lay_out(
    tokenizer: ClipTokenizer,
    names: Sequence[str],
    vectors: int,
    position: Position = "end",
    words: Sequence[int] = (),
) -> PromptLayout:
    """Lay out `[SOT] v1 … vn words name . [EOT]`, or its "middle" and "front" forms.

    Args:
        tokenizer: Of the text tower.
        names: Class names; underscores read as spaces.
        vectors: How many learned vectors there are.
        position: Where the name stands among them.
        words: Token ids that stay between the vectors and the name.

    Raises:
        InputError: The vectors, or a name beside them, take more room than the text tower has.
    """
    room = tokenizer.context - 3 - len(words)  # SOT, EOT and a name of one token at least
    if vectors > room:
        raise InputError(
            f"{vectors} learned vectors leave no room for a class name: this CLIP reads {tokenizer.context}"
            f" tokens, so learn at most {room}"
        )
    rows = [_row(tokenizer, name.replace("_", " "), vectors, position, words) for name in names]
    length = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    slots = torch.full((len(rows), length), -1)
    for i, row in enumerate(rows):
        for j, (token, slot) in enumerate(row):
            ids[i, j], slots[i, j] = token, slot
    return PromptLayout(ids, slots, torch.tensor([len(row) - 1 for row in rows]))


def embed(
    text: Text,
    layout: PromptLayout,
    vectors: Float[Tensor, "vectors width"] | Float[Tensor, "classes vectors width"],
) -> Tokens:
    """Return `[C, L, W]`: words from the tower's table, vectors from `vectors`, shared or one set a class."""
    words = text.token(layout.ids)
    vectors = vectors.to(words.dtype)  # fp32 leaves, whatever the tower's precision
    slot = layout.slots.clamp_min(0)
    placed = vectors[slot] if vectors.ndim == 2 else vectors[torch.arange(len(slot))[:, None], slot]
    return torch.where((layout.slots >= 0)[..., None], placed, words)


class PromptMethod(Method):
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
        self._layout: PromptLayout | None = None

    def prepare(self) -> None:
        self._layout = lay_out(self.clip.tokenizer, self.names, len(self.ctx), words=self.words)

    def encode_text(self) -> TextFeatures:
        return self.encode_prompts(self.ctx)

    def encode_prompts(
        self,
        vectors: Float[Tensor, "vectors width"] | Float[Tensor, "classes vectors width"],
        edit: Edit | None = None,
    ) -> TextFeatures:
        """Return `[C, D]` raw features of all classes with these vectors in their prompts."""
        if self._layout is None:
            raise RuntimeError("set_classes first")
        self._layout = layout = self._layout.to(vectors.device)
        return encode_layout(self.clip.text, layout, vectors, edit)

    def official_names(self) -> dict[str, str | list[str]]:
        return {"ctx": "prompt_learner.ctx"}


def encode_layout(
    text: Text,
    layout: PromptLayout,
    vectors: Float[Tensor, "vectors width"] | Float[Tensor, "classes vectors width"],
    edit: Edit | None = None,
) -> TextFeatures:
    """Return `[C, D]` raw features of prompts, in float32 or better."""
    features = text.pool(text.encode(embed(text, layout, vectors), edit), layout.eot)
    return features.to(torch.promote_types(features.dtype, torch.float32))


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


def _row(
    tokenizer: ClipTokenizer, name: str, vectors: int, position: Position, between: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (token id, slot) pairs of one prompt."""
    words = [(token, -1) for token in tokenizer.words(f"{name}.")]
    learned = [(0, slot) for slot in range(vectors)] + [(token, -1) for token in between]
    split = len(tokenizer.words(name))  # the full stop stays last
    body, stop = words[:split], words[split:]
    before = {"end": len(learned), "middle": vectors // 2, "front": 0}[position]
    row = [(tokenizer.sot, -1), *learned[:before], *body, *learned[before:], *stop, (tokenizer.eot, -1)]
    over = len(row) - tokenizer.context
    if over > 0:
        raise InputError(
            f"class name {name[:40]!r}… takes {len(words)} tokens, and with {vectors} learned ones the prompt"
            f" is {over} longer than the {tokenizer.context} that this CLIP reads: shorten the name"
        )
    return row
