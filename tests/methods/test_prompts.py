"""Where learned vectors and names stand, token by token."""

import pytest
import torch

from foveate.clip.model import Clip
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.prompts import Position, PromptLayout, embed, lay_out


@pytest.fixture(scope="module")
def openai() -> ClipTokenizer:
    return ClipTokenizer.openai()


def read(layout: PromptLayout, tokenizer: ClipTokenizer) -> list[list[str]]:
    """Each row as words, "v0", "v1", ... where vectors stand."""
    rows = []
    for ids, slots, eot in zip(layout.ids.tolist(), layout.slots.tolist(), layout.eot.tolist(), strict=True):
        pairs = list(zip(ids, slots, strict=True))
        word = tokenizer.bpe.id_to_token
        rows.append([word(i).removesuffix("</w>") if s < 0 else f"v{s}" for i, s in pairs[: eot + 1]])
        assert all(slot == -1 for _, slot in pairs[eot + 1 :])
    return rows


SOT, EOT = "<|startoftext|>", "<|endoftext|>"
ROWS = {
    "end": [SOT, "v0", "v1", "v2", "v3", "barn", "owl", ".", EOT],
    "middle": [SOT, "v0", "v1", "barn", "owl", "v2", "v3", ".", EOT],
    "front": [SOT, "barn", "owl", "v0", "v1", "v2", "v3", ".", EOT],
}


@pytest.mark.parametrize("position", ROWS)
def test_four_vectors(openai: ClipTokenizer, position: Position):
    assert read(lay_out(openai, ["barn owl"], 4, position), openai) == [ROWS[position]]


def test_sixteen_vectors(openai: ClipTokenizer):
    vectors = [f"v{i}" for i in range(16)]
    for position, row in (
        ("end", [SOT, *vectors, "cat", ".", EOT]),
        ("middle", [SOT, *vectors[:8], "cat", *vectors[8:], ".", EOT]),
        ("front", [SOT, "cat", *vectors, ".", EOT]),
    ):
        assert read(lay_out(openai, ["cat"], 16, position), openai) == [row]


def test_an_odd_vector_more_stands_behind_the_name(openai: ClipTokenizer):
    assert read(lay_out(openai, ["cat"], 3, "middle"), openai) == [[SOT, "v0", "cat", "v1", "v2", ".", EOT]]


def test_underscores_are_spaces(openai: ClipTokenizer):
    assert read(lay_out(openai, ["barn_owl"], 4, "end"), openai) == [ROWS["end"]]


def test_rows_end_behind_the_longest_name(openai: ClipTokenizer):
    layout = lay_out(openai, ["cat", "great white shark", "barn owl"], 4, "end")
    assert layout.ids.shape == layout.slots.shape == (3, 1 + 4 + 3 + 1 + 1)
    assert layout.eot.tolist() == [7, 9, 8]
    assert layout.ids[torch.arange(3), layout.eot].tolist() == [openai.eot] * 3


def test_the_words_are_the_plain_sentences(openai: ClipTokenizer):
    """With X for each vector, as the authors feed it: only the four X differ from the plain token row."""
    names = ["barn owl", "7-eleven's café", "st.", "Boeing 737-800"]
    layout = lay_out(openai, names, 4, "end")
    plain = openai([f"X X X X {name}." for name in names])
    for row in range(len(names)):
        upto = int(layout.eot[row]) + 1
        assert layout.slots[row, 1:5].tolist() == [0, 1, 2, 3]
        assert layout.ids[row, 5:upto].tolist() == plain[row, 5:upto].tolist()
        assert plain[row].argmax() == layout.eot[row]


def test_a_name_may_fill_the_context_and_no_more(openai: ClipTokenizer):
    room = 77 - 2 - 1 - 4  # SOT and EOT, the full stop, four vectors
    assert lay_out(openai, [" ".join(["cat"] * room)], 4, "end").ids.shape == (1, 77)
    with pytest.raises(InputError, match=r"takes 72 tokens, and with 4 learned ones .* the 77 .* shorten"):
        lay_out(openai, ["dog", " ".join(["cat"] * (room + 1))], 4, "end")


def test_embedding_puts_each_vector_into_its_slot(tiny_clip: Clip):
    tower = tiny_clip.text
    layout = lay_out(tiny_clip.tokenizer, ["cat", "phone"], 3, "middle")
    shared = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    own = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    for vectors in (shared, own):
        rows = embed(tower, layout, vectors)
        for c in range(2):
            mine = vectors if vectors.ndim == 2 else vectors[c]
            for place, (token, slot) in enumerate(zip(layout.ids[c], layout.slots[c], strict=True)):
                expected = mine[slot] if slot >= 0 else tower.token.weight[token]
                assert torch.equal(rows[c, place], expected)
