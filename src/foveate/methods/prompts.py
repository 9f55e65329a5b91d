"""Sentences with learned vectors in place of words: where the vectors stand, and how a row is embedded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveate.clip.model import Text
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.types import Tokens

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


def lay_out(tokenizer: ClipTokenizer, names: Sequence[str], vectors: int, position: Position) -> PromptLayout:
    """Lay out `[SOT] v1 … vn name . [EOT]`, or its "middle" and "front" forms.

    Raises:
        InputError: A name leaves no room in the text tower's context.
    """
    rows = [_row(tokenizer, name.replace("_", " "), vectors, position) for name in names]
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


def _row(tokenizer: ClipTokenizer, name: str, vectors: int, position: Position) -> list[tuple[int, int]]:
    """Return (token id, slot) pairs of one prompt."""
    words = [(token, -1) for token in tokenizer.words(f"{name}.")]
    learned = [(0, slot) for slot in range(vectors)]
    split = len(tokenizer.words(name))  # the full stop stays last
    body, stop = words[:split], words[split:]
    before = {"end": vectors, "middle": vectors // 2, "front": 0}[position]
    row = [(tokenizer.sot, -1), *learned[:before], *body, *learned[before:], *stop, (tokenizer.eot, -1)]
    if len(row) > tokenizer.context:
        raise InputError(
            f"class name {name[:40]!r}… takes {len(words)} tokens, and with {vectors} learned ones the prompt"
            f" is longer than the {tokenizer.context} that this CLIP reads: shorten the name"
        )
    return row
