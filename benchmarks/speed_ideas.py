"""Measures each optimisation on and off. Those for texts are added one by one."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Block, Text
from foveate.clip.rows import TokenRows, encode_rows
from foveate.foreground.views import foreground_view
from foveate.methods.prompts import PromptMethod
from foveate.methods.registry import build
from speed_rows import Part, Row
from speed_setup import Bench, tune

TEXT_IDEAS = ("cut", "share", "pack", "last")
"""End at the last EOT; common prefix once; no padding in products; only EOT after the last attention."""


def read_texts(text: Text, rows: TokenRows, vectors: Tensor, ideas: int) -> Tensor:
    """Return class features `[C, D]` with the first `ideas` optimisations; the values are always the same.

    Args:
        text: The tower.
        rows: Class texts.
        vectors: Learned vectors for the slots.
        ideas: 0 encodes the whole context of each text; 4 is the same as `encode_rows`.
    """
    on = set(TEXT_IDEAS[:ideas])
    begin = rows.shared if "share" in on else 0
    length = rows.shared + max(rows.lengths) if "cut" in on else len(text.pos)
    x, ends = _grid(text, rows, vectors, begin, length)
    read = torch.arange(x.shape[1], device=x.device) <= ends[:, None] if "pack" in on else None
    first = x[:1, :begin]
    x = x[:, begin:]
    if read is not None:
        filled = read[:, begin:].flatten().nonzero()[:, 0]
    else:
        filled = torch.arange(x.shape[0] * x.shape[1], device=x.device)
    grid, x = x.shape[:2], x.flatten(0, 1)[filled]
    ends = torch.arange(grid[0], device=x.device) * grid[1] + ends - begin
    for layer, block in enumerate(text.blocks):
        assert isinstance(block, Block)
        first, memory = _beginning(block, first)
        gathered = _attend(block, block.qkv(block.ln_1(x)), filled, grid, memory)
        if layer + 1 == len(text.blocks) and "last" in on:
            x, filled = x[torch.searchsorted(filled, ends)], ends
        x = block.feed(x + block.proj(gathered[filled]))
    x = x if "last" in on else x[torch.searchsorted(filled, ends)]
    return text.ln_final(x) @ text.proj


def _grid(text: Text, rows: TokenRows, vectors: Tensor, begin: int, length: int) -> tuple[Tensor, Tensor]:
    """Return embedded rows `[C, L, W]`, padded after EOT, and the EOT positions."""
    ids = torch.zeros(len(rows.lengths), length, dtype=torch.long)
    slots = torch.full_like(ids, -1)
    ends: list[int] = []
    at = rows.shared
    for row, own in enumerate(rows.lengths):
        ids[row, : rows.shared], slots[row, : rows.shared] = (
            rows.ids[: rows.shared],
            rows.slots[: rows.shared],
        )
        ids[row, rows.shared : rows.shared + own] = rows.ids[at : at + own]
        slots[row, rows.shared : rows.shared + own] = rows.slots[at : at + own]
        at, ends = at + own, [*ends, rows.shared + own - 1]
    x = torch.where((slots >= 0)[..., None], vectors[slots.clamp_min(0)], text.token(ids))
    return x + text.pos[:length], torch.tensor(ends)


def _beginning(block: Block, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the block's output for the common prefix `[1, P, W]`, and its keys and values."""
    if not x.shape[1]:
        nothing = x.new_zeros(1, block.heads, 0, x.shape[-1] // block.heads)
        return x, (nothing, nothing)
    q, k, v = block.split(block.qkv(block.ln_1(x)))
    gathered = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return block.feed(x + block.proj(gathered.transpose(1, 2).flatten(2))), (k, v)


def _attend(
    block: Block, qkv: Tensor, filled: Tensor, grid: torch.Size, memory: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the attention output of tokens over the prefix and their own row, on the padded grid."""
    if len(filled) < grid.numel():
        qkv = qkv.new_zeros(grid.numel(), qkv.shape[-1]).index_copy(0, filled, qkv)
    q, k, v = block.split(qkv.view(*grid, -1))
    begun = memory[0].shape[2]
    if begun:
        k, v = (
            torch.cat([m.expand(grid[0], -1, -1, -1), own], dim=2)
            for m, own in zip(memory, (k, v), strict=True)
        )
    seen = torch.ones(grid[1], begun + grid[1], dtype=torch.bool, device=q.device).tril(begun)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(grid.numel(), -1)


# --- rows ---


def text_idea(bench: Bench, number: int) -> Row:
    """Class texts forward and backward, with one more optimisation than before."""
    ours = _coop(bench, bench.sizes.classes)
    said = ("cut at the last EOT", "common beginning once", "no padding", "EOT alone in the last block")
    return Row(
        f"texts, {bench.sizes.classes} classes: {said[number]}",
        (Part(lambda: _backward(ours, read_texts(ours.clip.text, ours.rows, ours.ctx, number))),),
        (Part(lambda: _backward(ours, read_texts(ours.clip.text, ours.rows, ours.ctx, number + 1))),),
        note="with the ideas above it, without and with this one",
    )


def chunks(bench: Bench) -> Row:
    """Cost of the memory bound: each chunk is computed once more."""
    ours = _coop(bench, bench.sizes.test_classes)
    tokens = sum(ours.rows.lengths)

    def step(chunk: int) -> None:
        _backward(ours, encode_rows(ours.clip.text, ours.rows, ours.ctx, chunk=chunk))

    return Row(
        f"texts, {bench.sizes.test_classes} classes: chunks computed again",
        (Part(lambda: step(tokens)),),
        (Part(lambda: step(min(2048, tokens // 2))),),
        note="it saves memory and takes time: see the rows of memory",
    )


def constant_texts(bench: Bench) -> Row:
    """A test batch with text features computed for it, or cached."""
    sizes = bench.sizes
    ours, images = _coop(bench, sizes.test_classes), bench.batch(sizes.batch).images
    with torch.no_grad():
        texts = ours.encode_text()

    @torch.no_grad()
    def off() -> None:
        ours.encode_text()
        ours.encode_images(images)

    @torch.no_grad()
    def on() -> None:
        ours.encode_images(images)

    assert len(texts) == sizes.test_classes
    return Row(
        f"{sizes.batch} pictures, {sizes.test_classes} classes: constant texts", (Part(off),), (Part(on),)
    )


def one_pass(bench: Bench) -> Row:
    """The pass of x and x ⊙ m in a step of FVG-PT."""
    clip, batch = bench.clip, bench.batch(bench.sizes.batch)
    assert batch.masks is not None
    cut = foreground_view(batch.images, batch.masks)

    @torch.no_grad()
    def off() -> None:
        clip.vision(batch.images)
        clip.vision(cut)

    @torch.no_grad()
    def on() -> None:
        clip.vision(torch.cat([batch.images, cut]))

    return Row(f"batch {bench.sizes.batch}: x and x ⊙ m in one pass", (Part(off),), (Part(on),))


def shared_tower(bench: Bench) -> Row:
    """The same with a separate CLIP pass, or without it, sharing the backbone's."""
    clip, batch = bench.clip, bench.batch(bench.sizes.batch)
    assert batch.masks is not None
    both = torch.cat([batch.images, foreground_view(batch.images, batch.masks)])

    @torch.no_grad()
    def on() -> None:
        clip.vision(both)

    @torch.no_grad()
    def off() -> None:
        clip.vision(both)
        clip.vision(batch.images)

    return Row(f"batch {bench.sizes.batch}: CLIP's pass shared", (Part(off),), (Part(on),), 1.5)


def few_at_once(bench: Bench) -> Row:
    """Pictures through the tower all together, or in groups that fit into the caches."""
    vision, images = bench.clip.vision, bench.batch(bench.sizes.drawn).images

    @torch.no_grad()
    def together() -> None:
        vision.pool(vision.encode(vision.tokens(images))[:, 0])

    @torch.no_grad()
    def apart() -> None:
        vision(images)

    return Row(
        f"{len(images)} pictures: {vision.at_once} at a time instead of all together",
        (Part(together),),
        (Part(apart),),
        1.0,
    )


def compiled(bench: Bench) -> Row:
    """The frozen image tower as it is, or with `torch.compile`; compile time is left out."""
    vision = bench.clip.vision
    images = bench.batch(bench.sizes.batch).images[: vision.at_once]

    def encode(pictures: Tensor) -> Tensor:
        return vision.pool(vision.encode(vision.tokens(pictures))[:, 0])

    fused = cast("Callable[[Tensor], Tensor]", torch.compile(encode))

    @torch.no_grad()
    def off() -> None:
        encode(images)

    @torch.no_grad()
    def on() -> None:
        fused(images)

    on()
    return Row(f"{len(images)} pictures: torch.compile", (Part(off),), (Part(on),), 1.0)


def bank(bench: Bench) -> Row:
    """A step of CoOp with pictures encoded, or taken from a bank."""
    size, ours = bench.sizes.batch, _coop(bench, bench.sizes.classes)
    held = bench.banked(ours, size)
    return Row(
        f"coop step, {bench.sizes.classes} classes, batch {size}: bank",
        (Part(lambda: tune(ours, bench.batch(size))),),
        (Part(lambda: tune(ours, next(held))),),
    )


def _coop(bench: Bench, classes: int) -> PromptMethod:
    ours = build("coop", bench.clip)
    ours.set_classes(bench.names(classes))
    assert isinstance(ours, PromptMethod)
    return ours


def _backward(ours: PromptMethod, features: Tensor) -> None:
    ours.ctx.grad = None
    features.sum().backward()


IDEAS: dict[str, Callable[[Bench], Row]] = {
    "idea-cut": lambda bench: text_idea(bench, 0),
    "idea-share": lambda bench: text_idea(bench, 1),
    "idea-pack": lambda bench: text_idea(bench, 2),
    "idea-last": lambda bench: text_idea(bench, 3),
    "idea-chunks": chunks,
    "idea-constant-texts": constant_texts,
    "idea-one-pass": one_pass,
    "idea-shared-tower": shared_tower,
    "idea-few-at-once": few_at_once,
    "idea-bank": bank,
}

COMPILED: dict[str, Callable[[Bench], Row]] = {"idea-compile": compiled}
"""Optimisations that were tried and rejected; this one needs a C++ compiler."""
