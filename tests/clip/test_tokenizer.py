"""Token ids equal to open_clip's, on texts chosen to be hard."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from foveate.clip.tokenizer import EOT, OPENAI_VOCAB, SOT, ClipTokenizer, clean
from foveate.errors import InputError

HARD = [
    "a photo of a cat.",
    "Café crème brûlée, cafe\u0301",
    "naïve façade Ærøskøbing İstanbul ẞ ſ Σίγμα",
    "123 4567 3.14 x²½ ①Ⅳ",
    "don't can't we'll I'M they've it's",
    "‘curly’ “quotes” ‚low‚ „x‟ `tick` ´acute´ don’t rock ’n’ roll",
    "北京的猫 日本語テスト ﾊﾝｶｸ 한국어",
    "🐱🐶👨‍👩‍👧 flag 🇩🇪",
    "&amp; &lt;b&gt; &quot;x&quot; &amp;lt; &#39;s &eacute; <b>&amp;</b>",
    "ＦＵＬＬｗｉｄｔｈ　ｔｅｘｔ ﬁne ﬂow ﬀ ŉ Ǆ ĳ ﬅ",
    "tabs\tand\nnewlines\r\n  many   spaces\u00a0nbsp\u2003em\u200bzw ",
    "",
    "   ",
    "a_b-c/d\\e ...!!!??? ™ … – — №",
    "hello\x00world \ufeffbom \x1b[31mred\x1b[0m a\x07b",
    f"{SOT} hi {EOT}",
]


@pytest.fixture(scope="module")
def openai() -> ClipTokenizer:
    return ClipTokenizer.openai()


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("open_clip").get_tokenizer("ViT-B-32")


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_equal_to_open_clip(openai, theirs, text):
    assert torch.equal(openai([text]), theirs([text]).long())


@given(st.text(st.characters(max_codepoint=0x17F, exclude_categories=["Cc", "Cn"]), max_size=12))
def test_equal_to_open_clip_on_any_latin_text(text):
    open_clip = pytest.importorskip("open_clip")
    ftfy = pytest.importorskip("ftfy")
    if ftfy.fix_encoding(text) == text:  # ftfy guesses at wrong encodings; we do not
        ids = ClipTokenizer.openai()([text])
        assert torch.equal(ids, open_clip.tokenizer._tokenizer([text], 77).long())


def test_long_texts_are_cut_and_keep_their_end(openai, theirs):
    for text in ("word " * 76, "word " * 75, "A" * 2000, "猫" * 100):
        ids = openai([text])
        assert ids.shape == (1, 77)
        assert torch.equal(ids, theirs([text]).long())
        assert int(ids[0].max()) == openai.eot
    short = ClipTokenizer.openai(context=8)(["one two three four five six seven eight"])
    assert short.shape == (1, 8)
    assert (int(short[0, 0]), int(short[0, -1])) == (openai.sot, openai.eot)


def test_known_ids(openai):
    assert (openai.vocab, openai.sot, openai.eot) == (OPENAI_VOCAB, 49406, 49407)
    assert openai.words("a photo of a cat") == [320, 1125, 539, 320, 2368]
    assert openai(["a", "a cat"])[:, :4].tolist() == [[49406, 320, 49407, 0], [49406, 320, 2368, 49407]]
    assert openai([]).shape == (0, 77)


def test_a_name_cannot_end_its_prompt(openai):
    ids = openai([f"a {EOT} b"])
    assert (ids == openai.eot).sum() == 1


def test_clean_is_done_once():
    for text in HARD[:8]:
        assert clean(clean(text)) == clean(text)


def test_saved_and_read_again(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path / "tokenizer.json")
    again = ClipTokenizer.from_file(tmp_path / "tokenizer.json", small_tokenizer.context)
    assert torch.equal(again(HARD), small_tokenizer(HARD))


def test_padding_and_truncation_of_the_file_do_not_count(small_tokenizer, tmp_path):
    bpe = Tokenizer.from_str(small_tokenizer.bpe.to_str())
    bpe.enable_padding(length=20)
    bpe.enable_truncation(3)
    bpe.save(str(tmp_path / "tokenizer.json"))
    again = ClipTokenizer.from_file(tmp_path / "tokenizer.json")
    assert torch.equal(again(HARD), small_tokenizer(HARD))


def test_other_tokenizers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no <\|startoftext\|> or <\|endoftext\|>"):
        ClipTokenizer(Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(InputError, match="is token 1 of 3, where a CLIP has it last"):
        ClipTokenizer(Tokenizer(models.BPE(vocab={SOT: 0, EOT: 1, "a": 2}, merges=[])))
    with pytest.raises(InputError, match=r"none\.json"):
        ClipTokenizer.from_file(tmp_path / "none.json")
    (tmp_path / "vocab.json").write_text("[]")
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(InputError, match=r"vocab\.json"):
        ClipTokenizer.from_vocabulary(tmp_path / "vocab.json", tmp_path / "merges.txt")
