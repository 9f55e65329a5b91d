"""Encodes many texts with few tokens; the result equals encoding each text alone.

The tower is causal, so three savings are exact. Tokens after a text's EOT are not encoded. The common
prefix of all texts (SOT, learned vectors, "a photo of a") is encoded once, and every text attends to its
keys and values. The texts' own tokens are packed one after another, without padding. Gradients flow
through all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveate.clip.model import Clip, Edit, Text, blocks_of
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.errors import InputError
from foveate.memory import Pieces
from foveate.types import TextFeatures, Tokens

CHUNK = 2048
"""Number of own tokens encoded together: fills a matrix product and bounds the memory."""

Packed = Float[Tensor, "packed width"]
Vectors = Float[Tensor, "vectors width"]
Piece = tuple[Tensor, Tensor, Tensor]
"""Ids, slots and positions of some tokens."""


@dataclass(frozen=True)
class TokenRows:
    """Token sequences, split into their common prefix and each row's own tokens.

    Attributes:
        ids: `[P + N]` token ids: the common prefix, then the own tokens of all rows, row after row.
        slots: `[P + N]` index of the learned vector at a position, or -1 for a word.
        positions: `[P + N]` position within the row.
        shared: P, length of the common prefix.
        lengths: Number of own tokens of each row; the last one is its EOT.
    """

    ids: Int[Tensor, " tokens"]
    slots: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    shared: int
    lengths: tuple[int, ...]

    def row(self, number: int) -> list[tuple[int, int]]:
        """Return all (token id, slot) pairs of one row."""
        start = self.shared + sum(self.lengths[:number])
        indices = [*range(self.shared), *range(start, start + self.lengths[number])]
        return [(int(self.ids[index]), int(self.slots[index])) for index in indices]

    def part(self, start: int, stop: int) -> "TokenRows":
        """Return some rows with the same common prefix."""
        offset = self.shared + sum(self.lengths[:start])
        part = slice(offset, offset + sum(self.lengths[start:stop]))
        ids, slots, positions = (
            torch.cat([tensor[: self.shared], tensor[part]])
            for tensor in (self.ids, self.slots, self.positions)
        )
        return TokenRows(ids, slots, positions, self.shared, self.lengths[start:stop])

    def split(self, sizes: Sequence[int]) -> list[Piece]:
        """Return the common prefix, and the own tokens in pieces of these sizes."""
        splits = (tensor.split([self.shared, *sizes]) for tensor in (self.ids, self.slots, self.positions))
        return list(zip(*splits, strict=True))

    def to(self, device: torch.device) -> "TokenRows":
        """Return the same rows on another device."""
        if self.ids.device == device:
            return self
        return TokenRows(
            self.ids.to(device), self.slots.to(device), self.positions.to(device), self.shared, self.lengths
        )


@dataclass(frozen=True)
class ClassTokens:
    """Tokens of each row that replace, from one block on, the tokens after the first.

    From that block on, only the first token is common, so only that one is still encoded once for all
    rows.

    Attributes:
        layer: The block before which the tokens are inserted, counted from 0.
        tokens: `[C, n, W]`, for the positions 1 to n, which lie within the common prefix.
    """

    layer: int
    tokens: Float[Tensor, "classes learned width"]

    def part(self, start: int, stop: int, behind: Float[Tensor, "behind width"]) -> "ClassTokens":
        """Return the tokens of some rows, followed by the tokens `behind` of the common prefix."""
        rest = behind.expand(stop - start, -1, -1)
        return ClassTokens(self.layer, torch.cat([self.tokens[start:stop].to(rest.dtype), rest], dim=1))


def pack(rows: Sequence[Sequence[tuple[int, int]]]) -> TokenRows:
    """Split and pack rows of (token id, slot) pairs, each with its EOT last."""
    shared = min(len(row) for row in rows) - 1  # every row keeps at least its EOT
    for row in rows:
        while row[:shared] != rows[0][:shared]:
            shared -= 1
    rest = [(position, pair) for row in rows for position, pair in enumerate(row) if position >= shared]
    tokens = [*enumerate(rows[0][:shared]), *rest]
    ids, slots = (torch.tensor([pair[i] for _, pair in tokens]) for i in range(2))
    positions = torch.tensor([position for position, _ in tokens])
    return TokenRows(ids, slots, positions, shared, tuple(len(row) - shared for row in rows))


def encode_rows(
    text: Text,
    rows: TokenRows,
    vectors: Vectors | None = None,
    edit: Edit | None = None,
    chunk: int = CHUNK,
    class_tokens: ClassTokens | None = None,
) -> TextFeatures:
    """Return raw features `[C, D]` of packed rows, in float32 or a wider dtype.

    Args:
        text: The tower.
        rows: At least one.
        vectors: Learned vectors for the slots; rows with different vectors index one long list.
        edit: Changes the tokens of the common prefix before each block; it may insert tokens.
        chunk: Number of own tokens in one pass. If there are more, all chunks except the last are
            recomputed in the backward pass. If the device runs out of memory, the number is halved
            repeatedly.
        class_tokens: Tokens that each row has of its own, from one block on.
    """
    if class_tokens is not None and rows.shared < 1 + class_tokens.tokens.shape[1]:
        number = class_tokens.tokens.shape[1]
        raise ValueError(f"class tokens take {number} positions, but rows share {rows.shared}")
    rows = rows.to(text.pos.device)
    pieces = Pieces(min(chunk, sum(rows.lengths)))
    return pieces.run(lambda tokens: _encode(text, rows, vectors, edit, class_tokens, tokens))


def _encode(
    text: Text,
    rows: TokenRows,
    vectors: Vectors | None,
    edit: Edit | None,
    class_tokens: ClassTokens | None,
    chunk: int,
) -> TextFeatures:
    """Compute `encode_rows` with `chunk` own tokens in one pass."""
    groups, start = _chunks(rows.lengths, chunk), 0
    prefix, *pieces = rows.split([sum(group) for group in groups])
    memory, behind = _read_prefix(text, _embed(text, prefix, vectors)[None], edit, class_tokens)
    features: list[Tensor] = []
    for piece, lengths in zip(pieces, groups, strict=True):
        group_tokens = class_tokens and class_tokens.part(start, start + len(lengths), behind)
        start += len(lengths)
        # A chunk without learned vectors needs no gradient of its embeddings.
        learned = vectors if vectors is not None and bool((piece[1] >= 0).any()) else None
        inputs = (text, piece, lengths, group_tokens, learned, *memory)
        # Backward starts with the last chunk, so its activations stay in memory; others are recomputed.
        if len(features) + 1 < len(groups) and torch.is_grad_enabled():
            encoded = checkpoint(_read_rows, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            encoded = _read_rows(*inputs)
        features.append(encoded)
    joined = torch.cat(features)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def _embed(text: Text, piece: Piece, vectors: Vectors | None) -> Packed:
    """Return the embeddings of tokens with their positions."""
    ids, slots, positions = piece
    tokens = text.token(ids)
    if vectors is not None:
        learned = vectors.to(tokens.dtype)[slots.clamp_min(0)]  # float32 in a tower of any dtype
        tokens = torch.where((slots >= 0)[:, None], learned, tokens)
    return tokens + text.pos[positions]


def _read_prefix(
    text: Text, x: Tokens, edit: Edit | None, class_tokens: ClassTokens | None
) -> tuple[list[Tensor], Packed]:
    """Return the keys and values `[heads, P, d]` of the common prefix: two tensors for each block, in a list.

    With `class_tokens`, also return the prefix tokens that stood after the replaced ones.
    """
    memory: list[Tensor] = []
    behind = x[0, :0]
    for layer, block in enumerate(blocks_of(text)):
        x = edit(layer, x) if edit else x
        if class_tokens and layer == class_tokens.layer:
            x, behind = x[:, :1], x[0, 1 + class_tokens.tokens.shape[1] :]
        normed = block.ln_1(x)
        q, k, v = block.split(block.qkv(normed))
        memory += [k[0], v[0]]
        if layer + 1 < len(text.blocks):  # the output of the last block is not used
            gathered = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = block.beside(block.feed(x + block.proj(gathered.transpose(1, 2).flatten(2))), normed)
    return memory, behind


def _read_rows(
    text: Text,
    piece: Piece,
    lengths: tuple[int, ...],
    class_tokens: ClassTokens | None,
    vectors: Vectors | None,
    *memory: Tensor,
) -> Float[Tensor, "rows dim"]:
    """Encode the rows' own tokens; each attends to the common prefix and to earlier own tokens.

    They are embedded here, so that only the token ids of a recomputed chunk stay in memory.
    """
    x = _embed(text, piece, vectors)
    rows, grid = len(lengths), _grid(lengths, x.device)
    for layer, block in enumerate(blocks_of(text)):
        if class_tokens and layer == class_tokens.layer:
            x = _insert(x, lengths, class_tokens.tokens)
            grid = _grid([length + class_tokens.tokens.shape[1] for length in lengths], x.device)
        longest, filled = grid.longest, grid.filled
        normed = block.ln_1(x)
        qkv = block.qkv(normed)
        padded = qkv.new_zeros(rows * longest, qkv.shape[1]).index_copy(0, filled, qkv)
        q, k, v = block.split(padded.view(rows, longest, -1))
        prefix_length = memory[2 * layer].shape[1]  # an edit may have inserted tokens
        k = torch.cat([memory[2 * layer].expand(rows, -1, -1, -1), k], dim=2)
        v = torch.cat([memory[2 * layer + 1].expand(rows, -1, -1, -1), v], dim=2)
        # Padding is at the end of a row, so the causal mask already excludes it.
        mask = torch.ones(longest, prefix_length + longest, dtype=torch.bool, device=x.device).tril(
            prefix_length
        )
        gathered = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        gathered = gathered.transpose(1, 2).reshape(rows * longest, -1)
        if layer + 1 == len(text.blocks):  # only EOT features are needed
            x, normed, filled = x[grid.last], normed[grid.last], grid.ends
        x = block.beside(block.feed(x + block.proj(gathered[filled])), normed)
    return text.ln_final(x) @ text.proj


@dataclass(frozen=True)
class _Grid:
    """Positions of the rows' own tokens.

    Attributes:
        longest: Number of tokens of the longest row: the width of the padded grid.
        filled: Grid position of each packed token.
        ends: Grid position of each row's EOT.
        last: Index of each row's EOT among the packed tokens.
    """

    longest: int
    filled: Int[Tensor, " packed"]
    ends: Int[Tensor, " rows"]
    last: Int[Tensor, " rows"]


def _grid(lengths: Sequence[int], device: torch.device) -> _Grid:
    sizes, longest = torch.tensor(lengths, device=device), max(lengths)
    occupied = torch.arange(longest, device=device) < sizes[:, None]
    ends = torch.arange(len(sizes), device=device) * longest + sizes - 1
    return _Grid(longest, occupied.flatten().nonzero()[:, 0], ends, sizes.cumsum(0) - 1)


def _insert(
    x: Packed, lengths: Sequence[int], tokens: Float[Tensor, "rows learned width"]
) -> Float[Tensor, "grown width"]:
    """Return packed tokens with each row's inserted `tokens` in front of it."""
    sizes, n = torch.tensor(lengths, device=x.device), tokens.shape[1]
    rows = torch.arange(len(sizes), device=x.device)
    moved = torch.arange(len(x), device=x.device) + n * (rows.repeat_interleave(sizes) + 1)
    starts = (sizes + n).cumsum(0) - sizes - n
    inserted = (starts[:, None] + torch.arange(n, device=x.device)).flatten()
    grown = x.new_empty(len(x) + len(inserted), x.shape[1]).index_copy(0, moved, x)
    return grown.index_copy(0, inserted, tokens.flatten(0, 1))


def _chunks(lengths: Sequence[int], limit: int) -> list[tuple[int, ...]]:
    """Group consecutive rows into chunks of at most `limit` own tokens (or one row); the last are full."""
    groups: list[list[int]] = [[]]
    tokens = 0
    for length in reversed(lengths):
        if groups[-1] and tokens + length > limit:
            groups.append([])
            tokens = 0
        groups[-1].append(length)
        tokens += length
    return [tuple(reversed(group)) for group in reversed(groups)]


# Encodes texts and class names to raw text features with the frozen tower.


def text_rows(clip: Clip, texts: Sequence[str]) -> TokenRows:
    """Return texts as packed token rows; the tokenizer truncates long texts."""
    ids = clip.tokenizer(texts)
    ends = ids.argmax(dim=-1).tolist()  # EOT has the highest id
    return pack(
        [[(token, -1) for token in row[: end + 1]] for row, end in zip(ids.tolist(), ends, strict=True)]
    )


@torch.no_grad()
def encode_texts(clip: Clip, texts: Sequence[str], chunk: int = CHUNK) -> TextFeatures:
    """Encode texts with the frozen tower.

    Args:
        clip: The model; its tokenizer truncates long texts.
        texts: At least one.
        chunk: Number of tokens in one pass; it bounds the memory and does not change the result.

    Returns:
        Features `[C, D]` before normalisation, in float32 (float64 from a float64 tower), on the tower's
        device.

    Raises:
        InputError: There is no text, or the model has no tokenizer.
    """
    if not texts:
        raise InputError("no texts to encode: give at least one class name")
    return encode_rows(clip.text, text_rows(clip, texts), chunk=chunk)


def check_texts(clip: Clip, names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> None:
    """Refuse names that `encode_names` would truncate: two truncated names may be equal.

    Raises:
        InputError: A name is too long for the text tower, or the template has not exactly one `{}`.
    """
    for name in names:
        clip.tokenizer.sentence(template, name)


def encode_names(clip: Clip, names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> TextFeatures:
    """Encode class names, each inserted into `template`.

    Raises:
        InputError: There is no name, or the template has not exactly one `{}`.
    """
    return encode_texts(clip, [fill(template, name) for name in names])
