"""CLIP's byte-pair tokenizer, through the `tokenizers` library.

The vocabulary OpenAI published (MIT) ships beside this file, so that bare weights need no hub.

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4
"""

import gzip
import html
import unicodedata
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
# Curly quotes become straight ones, as the reference's text cleaning has it.
_QUOTES = str.maketrans(
    {**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("“”„‟", '"')}
)


class ClipTokenizer:
    """Text to token ids.

    Args:
        bpe: A byte-pair tokenizer that knows SOT and EOT.
        context: Longest text in tokens, SOT and EOT included.

    Raises:
        ValueError: The vocabulary has no SOT or EOT.
    """

    def __init__(self, bpe: Tokenizer, context: int = 77):
        sot, eot = bpe.token_to_id(SOT), bpe.token_to_id(EOT)
        if sot is None or eot is None:
            raise ValueError(f"the tokenizer has no {SOT} or {EOT}: it is not a CLIP tokenizer")
        self.bpe, self.context, self.sot, self.eot = bpe, context, int(sot), int(eot)

    @classmethod
    def from_merges(cls, merges: Sequence[tuple[str, str]], context: int = 77) -> "ClipTokenizer":
        """Build from merge rules alone: bytes, bytes that end a word, merges, SOT and EOT."""
        letters = list(_byte_letters().values())
        words = [*letters, *(x + "</w>" for x in letters), *(a + b for a, b in merges), SOT, EOT]
        bpe = Tokenizer(
            models.BPE(
                vocab={word: i for i, word in enumerate(words)},
                merges=list(merges),
                end_of_word_suffix="</w>",
            )
        )
        bpe.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        return cls(bpe, context)

    @classmethod
    def from_file(cls, path: Path, context: int = 77) -> "ClipTokenizer":
        """Read a `tokenizer.json` as the hub's model folders carry it."""
        return cls(Tokenizer.from_file(str(path)), context)

    @classmethod
    def openai(cls, context: int = 77) -> "ClipTokenizer":
        """CLIP's own 49,408 tokens, from the merge list in this package."""
        packed = resources.files("foveate.clip").joinpath("bpe_simple_vocab_16e6.txt.gz")
        lines = gzip.decompress(packed.read_bytes()).decode().split("\n")
        pairs = [line.split() for line in lines[1 : 49152 - 256 - 2 + 1]]
        return cls.from_merges([(a, b) for a, b in pairs], context)

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return self.bpe.get_vocab_size()

    def words(self, text: str) -> list[int]:
        """Return the ids of a text, without SOT, EOT and limits."""
        return self.bpe.encode(clean(text), add_special_tokens=False).ids

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "texts context"]:
        """Return one padded row per text; a text too long is cut and keeps its EOT."""
        rows = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.sot, *self.words(text)[: self.context - 2], self.eot]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def clean(text: str) -> str:
    """Undo HTML entities and curly quotes, widths and ligatures, as CLIP's training texts were."""
    text = html.unescape(html.unescape(text)).translate(_QUOTES)
    return "".join(unicodedata.normalize("NFKC", c) if _is_wide(c) else c for c in text).strip()


def _is_wide(char: str) -> bool:
    """Full- and half-width forms and Latin ligatures, the compatibility forms that are undone."""
    return "\uff01" <= char <= "\uffef" or "\ufb00" <= char <= "\ufb06" or char == "\u3000"


def _byte_letters() -> dict[int, str]:
    """Return one printable letter per byte, printable bytes first (the order defines the ids)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
