"""The fast way through the text tower against the plain one: 77 tokens a row, nothing shared, nothing cut."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import foveate.clip.rows as rows_module
from foveate.clip.config import TowerConfig
from foveate.clip.model import Block, Clip, Edit, Text
from foveate.clip.rows import TokenRows, _chunks, encode_rows, pack
from foveate.methods.mmrl import growing
from foveate.methods.prompts import replacing

SOT, EOT, CONTEXT = 90, 91, 24
Row = list[tuple[int, int]]


def tower(layers: int, seed: int = 0) -> Text:
    """A tower of 32 channels whose words matter."""
    from foveate.clip.config import ClipConfig

    config = ClipConfig(TowerConfig(32, 1, 2), TowerConfig(32, layers, 2), 16, 8, CONTEXT, 92, 16)
    g = torch.Generator().manual_seed(seed)
    clip = Clip(config).initialise(g)
    for parameter in clip.text.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    return clip.text.requires_grad_(False)


def plain(text: Text, rows: list[Row], vectors: Tensor | None, edit: Edit | None, grown: int = 0) -> Tensor:
    """Every row alone in the whole context, padded, read at its EOT."""
    found = []
    for row in rows:
        filled = row + [(0, -1)] * (CONTEXT - len(row))
        tokens = torch.stack([text.token.weight[i] if s < 0 else vectors[s] for i, s in filled])[None]
        found.append(text.pool(text.encode(tokens, edit), torch.tensor([len(row) - 1 + grown])))
    return torch.cat(found)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, list[Row], int]:
    """Layers, learned vectors, rows with a common beginning, tokens a chunk."""
    layers, vectors = draw(st.integers(1, 4)), draw(st.integers(0, 4))
    common = draw(st.lists(st.integers(0, 9), max_size=3))
    names = draw(st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=6))
    begin = [(SOT, -1), *((0, slot) for slot in range(vectors)), *((token, -1) for token in common)]
    rows = [[*begin, *((token, -1) for token in name), (EOT, -1)] for name in names]
    return layers, vectors, rows, draw(st.sampled_from([1, 7, 2048]))


def assert_equal_with_gradients(fast: Tensor, slow: Tensor, learned: list[Tensor]) -> None:
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)
    weight = torch.randn(fast.shape, generator=torch.Generator().manual_seed(7))
    pairs = zip(*(torch.autograd.grad((w * weight).sum(), learned) for w in (fast, slow)), strict=True)
    for quick, by_hand in pairs:
        scale = by_hand.abs().max().clamp_min(1e-6)
        torch.testing.assert_close(quick / scale, by_hand / scale, rtol=1e-4, atol=1e-4)


thorough = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(cases())
def test_learned_words_in_any_rows(case: tuple[int, int, list[Row], int]):
    layers, number, rows, chunk = case
    text = tower(layers)
    vectors = torch.randn(max(number, 1), 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fast, slow = encode_rows(text, pack(rows), vectors, chunk=chunk), plain(text, rows, vectors, None)
    if number:
        assert_equal_with_gradients(fast, slow, [vectors])
    else:
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@thorough
@given(cases())
def test_deep_words_in_any_rows(case: tuple[int, int, list[Row], int]):
    layers, number, rows, chunk = case
    if not number or layers < 2:
        return
    text, g = tower(layers), torch.Generator().manual_seed(2)
    vectors = torch.randn(number, 32, generator=g).requires_grad_()
    deep = torch.randn(layers - 1, number, 32, generator=g).requires_grad_()
    edit = replacing(deep, 1)
    fast = encode_rows(text, pack(rows), vectors, edit, chunk=chunk)
    # What the last block gets is read by every row, so that all of `deep` has a gradient.
    assert_equal_with_gradients(fast, plain(text, rows, vectors, edit), [vectors, deep])


@thorough
@given(cases(), st.integers(1, 3))
def test_inserted_tokens_in_any_rows(case: tuple[int, int, list[Row], int], number: int):
    layers, _, rows, chunk = case
    rows = [[pair for pair in row if pair[1] < 0] for row in rows]
    text = tower(layers)
    first = layers // 2 + 1
    tokens = torch.randn(layers - first + 1, number, 32, generator=torch.Generator().manual_seed(3))
    tokens.requires_grad_()
    edit = growing(list(tokens), first)
    fast = encode_rows(text, pack(rows), edit=edit, chunk=chunk)
    assert_equal_with_gradients(fast, plain(text, rows, None, edit, grown=number), [tokens])


def test_vectors_of_their_own_fall_back_to_rows_that_share_sot_alone():
    text, g = tower(3), torch.Generator().manual_seed(4)
    vectors = torch.randn(6, 32, generator=g).requires_grad_()
    rows = [[(SOT, -1), (0, 3 * i), (0, 3 * i + 1), (0, 3 * i + 2), (5, -1), (EOT, -1)] for i in range(2)]
    packed = pack(rows)
    assert packed.shared == 1
    assert_equal_with_gradients(
        encode_rows(text, packed, vectors), plain(text, rows, vectors, None), [vectors]
    )


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many tokens each block's perceptron has read, in the order of calls."""
    counts: list[int] = []
    feed = Block.feed

    def counted(self: Block, x: Tensor) -> Tensor:
        counts.append(x.shape[:-1].numel())
        return feed(self, x)

    monkeypatch.setattr(Block, "feed", counted)
    return counts


def test_no_token_is_read_twice_and_none_too_many(read: list[int]):
    rows = [[(SOT, -1), (0, 0), (0, 1), *[(7, -1)] * n, (EOT, -1)] for n in (1, 4, 2)]
    packed = pack(rows)
    assert (packed.shared, packed.lengths) == (4, (1, 4, 2))  # one 7 is common to all
    encode_rows(tower(3), packed, torch.zeros(2, 32))
    # The beginning once, but not in the last block; own tokens without padding; at the last, one a row.
    assert read == [4, 4, 7, 7, 3]


def test_chunks_are_read_again_only_for_a_gradient(read: list[int]):
    rows = [[(SOT, -1), (0, 0), (n, -1), (EOT, -1)] for n in range(4)]
    vectors = torch.zeros(1, 32, requires_grad=True)
    with torch.no_grad():
        encode_rows(tower(2), pack(rows), vectors, chunk=4)
    assert read == [2, 4, 2, 4, 2]
    read.clear()
    encode_rows(tower(2), pack(rows), vectors, chunk=4).sum().backward()
    assert sorted(read) == sorted([2, *[4, 2] * 3])  # two chunks, the first of them twice
    read.clear()
    encode_rows(tower(2), pack(rows), vectors, chunk=100).sum().backward()
    assert read == [2, 8, 4]


def test_a_chunk_embeds_its_tokens_when_it_is_read(monkeypatch: pytest.MonkeyPatch):
    """Of thousands of classes no more than a chunk is embedded, and no gradient is kept of plain words."""
    rows = pack([[(SOT, -1), (0, 0), (n, -1), (EOT, -1)] for n in range(20)])
    vectors = torch.zeros(1, 32, requires_grad=True)
    embed, sizes = rows_module._embed, list[tuple[int, bool]]()

    def counted(*given: Any) -> Tensor:
        made = embed(*given)
        sizes.append((len(made), made.requires_grad))
        return made

    monkeypatch.setattr(rows_module, "_embed", counted)
    encode_rows(tower(2), rows, vectors, chunk=8).sum().backward()
    assert sizes == [(2, True), *[(8, False)] * 9]  # five chunks, four of them again for the gradient
    assert vectors.grad is not None
    assert vectors.grad.abs().sum() > 0
    sizes.clear()
    mixed = pack([[(SOT, -1), (n, -1), (0, 0), (EOT, -1)] for n in range(4)])  # a name before the vector
    encode_rows(tower(2), mixed, vectors, chunk=100)
    assert sizes == [(1, True), (12, True)]


def test_the_chunk_that_is_read_once_is_a_full_one():
    assert _chunks([2, 2, 2, 2, 2], 4) == [(2,), (2, 2), (2, 2)]
    assert _chunks([9, 1, 3, 9], 4) == [(9,), (1, 3), (9,)]
    assert _chunks([1, 2], 100) == [(1, 2)]


def test_half_precision_gives_float32():
    half = tower(2).to(torch.bfloat16)
    rows = pack([[(SOT, -1), (0, 0), (3, -1), (EOT, -1)], [(SOT, -1), (0, 0), (EOT, -1)]])
    vectors = torch.randn(1, 32, generator=torch.Generator().manual_seed(5)).requires_grad_()
    features = encode_rows(half, rows, vectors)
    assert features.dtype == torch.float32
    features.sum().backward()
    assert vectors.grad.dtype == torch.float32
    close = torch.cosine_similarity(features, encode_rows(tower(2), rows, vectors))
    assert close.min() > 0.995


def test_rows_are_packed_once():
    rows = pack([[(SOT, -1), (EOT, -1)]])
    assert rows == TokenRows(rows.ids, rows.slots, rows.positions, 1, (1,))
    assert rows.to(torch.device("cpu")) is rows
    assert rows.to(torch.device("meta")).ids.device.type == "meta"
