"""Sentences with learned vectors in place of words: where they stand, how they start, how a row is encoded.

Whoever learns such vectors for all classes together is a `PromptMethod`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveate.clip.model import Clip, Edit
from foveate.clip.rows import Rows, encode_rows, pack
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.types import TextFeatures

Position = Literal["end", "middle", "front"]
"""Where the class name stands: after the learned vectors, amid them, or before them."""


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
        _row(tokenizer, name, range(first, first + vectors), position, words)
        for name, first in zip(plain, firsts, strict=True)
    ]
    return pack(rows)


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
        self._rows: Rows | None = None

    def prepare(self) -> None:
        self._rows = lay_out(self.clip.tokenizer, self.names, len(self.ctx), words=self.words)

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
        return self.encode_together(self.rows, lambda rows: encode_rows(self.clip.text, rows, vectors, edit))

    def lay_out_others(self, names: Sequence[str], template: str) -> Rows:
        """Put the learned vectors before other names too; the sentence is left out."""
        return lay_out(self.clip.tokenizer, names, len(self.ctx), words=self.words)

    def encode_others(self, rows: Rows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, self.ctx)

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


def _row(
    tokenizer: ClipTokenizer, name: str, slots: range, position: Position, between: Sequence[int]
) -> list[tuple[int, int]]:
    """Return (token id, slot) pairs of one prompt."""
    words = [(token, -1) for token in tokenizer.words(f"{name}.")]
    learned = [(0, slot) for slot in slots] + [(token, -1) for token in between]
    split = len(tokenizer.words(name))  # the full stop stays last
    body, stop = words[:split], words[split:]
    before = {"end": len(learned), "middle": len(slots) // 2, "front": 0}[position]
    row = [(tokenizer.sot, -1), *learned[:before], *body, *learned[before:], *stop, (tokenizer.eot, -1)]
    over = len(row) - tokenizer.context
    if over > 0:
        raise InputError(
            f"class name {_short(name)} takes {len(words)} tokens with its full stop, and with {len(slots)}"
            f" learned ones the prompt is {over} longer than the {tokenizer.context} that this CLIP reads:"
            " shorten the name"
        )
    return row


def _short(name: str) -> str:
    return repr(name) if len(name) <= 40 else f"{name[:40]!r}…"
