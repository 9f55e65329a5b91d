"""Where learned vectors and names stand, token by token."""

import pytest

from foveate.clip.rows import TokenRows
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.prompts import Position, lay_out


@pytest.fixture(scope="module")
def openai() -> ClipTokenizer:
    return ClipTokenizer.openai()


def read(rows: TokenRows, tokenizer: ClipTokenizer) -> list[list[str]]:
    """Each row as words, "v0", "v1", ... where vectors stand."""
    word = tokenizer.bpe.id_to_token
    return [
        [word(token).removesuffix("</w>") if slot < 0 else f"v{slot}" for token, slot in rows.row(number)]
        for number in range(len(rows.lengths))
    ]


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


def test_what_all_rows_begin_with_stands_once(openai: ClipTokenizer):
    rows = lay_out(openai, ["cat", "great white shark", "barn owl"], 4, "end")
    assert rows.shared == 5
    assert rows.lengths == (3, 5, 4)
    assert rows.positions.tolist() == [*range(5), *range(5, 8), *range(5, 10), *range(5, 9)]
    assert [rows.row(i)[-1] for i in range(3)] == [(openai.eot, -1)] * 3
    assert lay_out(openai, ["sea horse", "sea lion"], 4, "end").shared == 6
    assert lay_out(openai, ["cat", "dog"], 4, "front").shared == 1
    assert lay_out(openai, ["cat"], 4, "end").lengths == (1,)


def test_vectors_of_their_own_are_not_shared(openai: ClipTokenizer):
    rows = lay_out(openai, ["cat", "dog"], 2, "end", per_class=True)
    assert rows.shared == 1
    assert read(rows, openai) == [[SOT, "v0", "v1", "cat", ".", EOT], [SOT, "v2", "v3", "dog", ".", EOT]]


def test_words_may_stay_behind_the_vectors(openai: ClipTokenizer):
    words = openai.words("of a")
    assert read(lay_out(openai, ["cat"], 2, words=words), openai) == [
        [SOT, "v0", "v1", "of", "a", "cat", ".", EOT]
    ]


def test_the_words_are_the_plain_sentences(openai: ClipTokenizer):
    """With X for each vector, as the authors feed it: only the four X differ from the plain token row."""
    names = ["barn owl", "7-eleven's café", "st.", "Boeing 737-800"]
    rows = lay_out(openai, names, 4, "end")
    plain = openai([f"X X X X {name}." for name in names])
    for number in range(len(names)):
        ids, slots = zip(*rows.row(number), strict=True)
        assert slots[1:5] == (0, 1, 2, 3)
        assert list(ids[5:]) == plain[number, 5 : len(ids)].tolist()
        assert plain[number].argmax() == len(ids) - 1


def test_a_name_may_fill_the_context_and_no_more(openai: ClipTokenizer):
    room = 77 - 2 - 1 - 4  # SOT and EOT, the full stop, four vectors
    assert len(lay_out(openai, [" ".join(["cat"] * room)], 4, "end").row(0)) == 77
    with pytest.raises(InputError, match=r"takes 72 tokens .* 4 learned .* longer than the 77 .* shorten"):
        lay_out(openai, ["dog", " ".join(["cat"] * (room + 1))], 4, "end")
