"""CLIP's byte-pair tokenizer, built on the `tokenizers` library.

The package contains OpenAI's vocabulary (MIT), so weights without a tokenizer need no hub.

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4
"""

import gzip
import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from foveate.clip.templates import fill
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import parse_table, read_bytes, read_text

if TYPE_CHECKING:
    import torch

OPENAI_VOCAB = 49408
SOT, EOT = "<|startoftext|>", "<|endoftext|>"
# SOT and EOT written in a text are treated as plain text, so a class name cannot end its prompt.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

# Single characters that the reference's text cleaning (ftfy) replaces. Ligatures, full and half widths:
_FORMS = (0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4), *range(0xFB00, 0xFB07), 0x3000)
_PLAIN = {code: unicodedata.normalize("NFKC", chr(code)) for code in (*_FORMS, *range(0xFF01, 0xFFF0))}
_PLAIN[0xFB05] = "ſt"  # the long s stays
# curly quotes become straight quotes;
_QUOTES = str.maketrans(
    {**dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("“”„‟", '"')}
)
# terminal colours, control characters and byte order marks are removed.
_UNSEEN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")


class ClipTokenizer:
    """Converts text to token ids.

    Args:
        bpe: A byte-pair tokenizer with SOT and EOT.
        context: Maximum length of a text in tokens, including SOT and EOT.

    Raises:
        InputError: The vocabulary has no SOT, or its last token is not EOT (EOT is found as the highest
            id).
    """

    def __init__(self, bpe: Tokenizer, context: int = 77):
        sot, eot = bpe.token_to_id(SOT), bpe.token_to_id(EOT)
        if sot is None or eot is None:
            raise InputError(f"the tokenizer has no {SOT} or {EOT}: it is not a CLIP tokenizer")
        if eot != bpe.get_vocab_size() - 1:
            raise InputError(f"{EOT} is token {eot} of {bpe.get_vocab_size()}, where a CLIP has it last")
        self.bpe, self.context, self.sot, self.eot = bpe, context, int(sot), int(eot)

    @classmethod
    def from_merges(
        cls, merges: Sequence[tuple[str, str]], context: int = 77, vocab: Mapping[str, int] | None = None
    ) -> "ClipTokenizer":
        """Build from merge rules. Default order of ids: bytes, bytes that end a word, merges, SOT, EOT."""
        return cls(_byte_pairs(merges, vocab), context)

    @classmethod
    def from_file(cls, path: Path, context: int = 77) -> "ClipTokenizer":
        """Read a `tokenizer.json` of a hub model folder.

        Raises:
            InputError: The file cannot be read, or is not a CLIP tokenizer.
        """
        try:
            bpe = Tokenizer.from_file(str(path))
            bpe.no_padding()
            bpe.no_truncation()
            return cls(bpe, context)
        except BaseException as error:  # `tokenizers` raises no narrower class; its panic is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise InputError(f"{path}: {' '.join(str(error).split())}: no CLIP tokenizer") from error

    @classmethod
    def from_vocabulary(cls, vocab: Path, merges: Path, context: int = 77) -> "ClipTokenizer":
        """Read the older pair of files, `vocab.json` and `merges.txt`.

        Raises:
            InputError: A file cannot be read, or the two do not belong together.
        """
        try:
            ids = parse_table(read_bytes(vocab), str(vocab))
            lines = read_text(merges).split("\n")
            return cls.from_merges(
                _pairs(line for line in lines if not line.startswith("#version")), context, ids
            )
        except InputError:
            raise
        except Exception as error:  # see from_file
            raise InputError(f"{vocab}: {' '.join(str(error).split())}: does it fit merges.txt?") from error

    @classmethod
    def openai(cls, context: int = 77) -> "ClipTokenizer":
        """Return CLIP's tokenizer with 49,408 tokens, from the packaged merge list; cached."""
        return cls(_openai_byte_pairs(), context)

    def save(self, path: Path) -> None:
        """Write a `tokenizer.json` that `from_file` and other libraries can read."""
        write_atomically(path, self.bpe.to_str())

    @property
    def vocab(self) -> int:
        """Number of tokens."""
        return self.bpe.get_vocab_size()

    def words(self, text: str) -> list[int]:
        """Return the token ids of a text, without SOT and EOT, and without a length limit."""
        return self.bpe.encode(clean(text), add_special_tokens=False).ids

    def sentence(self, template: str, name: str) -> list[int]:
        """Return the token ids of a class name in a template, with SOT and EOT.

        Raises:
            InputError: The sentence is too long for the text tower, or the template has not exactly one `{}`.
        """
        ids = [self.sot, *self.words(fill(template, name)), self.eot]
        if len(ids) > self.context:
            raise InputError(
                f"class name {name[:40]!r}… makes a sentence of {len(ids)} tokens, more than the"
                f" {self.context} that this CLIP reads: shorten the name"
            )
        return ids

    def demand_distinct(self, names: Sequence[str]) -> None:
        """Refuse class names that have the same tokens, because CLIP cannot distinguish them.

        Raises:
            InputError: Two names have the same tokens, or one has none; the message gives the names.
        """
        seen: dict[tuple[int, ...], str] = {}
        for name in names:
            ids = tuple(self.words(name.replace("_", " ")))
            if not ids:
                raise InputError(f"class name {name!r} has no word that CLIP reads: rename it")
            if ids in seen:
                raise InputError(
                    f"class names {seen[ids]!r} and {name!r} are the same to CLIP, token by token: rename one"
                )
            seen[ids] = name

    def __call__(self, texts: Sequence[str]) -> "torch.Tensor":
        """Return ids `[texts, context]`, one padded row per text; a long text is cut and keeps its EOT."""
        import torch  # exported models read texts without it

        rows = torch.zeros(len(texts), self.context, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [self.sot, *self.words(text)[: self.context - 2], self.eot]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def _byte_pairs(merges: Sequence[tuple[str, str]], vocab: Mapping[str, int] | None = None) -> Tokenizer:
    letters = list(_byte_letters().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges), SOT, EOT]
    ids = dict(vocab) if vocab else {token: i for i, token in enumerate(tokens)}
    bpe = Tokenizer(models.BPE(vocab=ids, merges=list(merges), end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    # Only one space separates the two; a split at any white space takes ten times as long.
    parts = (line.partition(" ") for line in lines)
    return [(left, right) for left, space, right in parts if space]


@cache
def _openai_byte_pairs() -> Tokenizer:
    resource = resources.files("foveate.clip").joinpath("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(resource.read_bytes()).decode().split("\n")
    return _byte_pairs(_pairs(lines[1 : OPENAI_VOCAB - 2 * 256 - 2 + 1]))


def clean(text: str) -> str:
    """Replace HTML entities, ligatures, widths and curly quotes, as in CLIP's training texts.

    The result equals the reference's cleaning, except for texts in a wrong encoding, which ftfy guesses.
    (Lower case follows later, letter by letter: a capital sigma never becomes a final sigma.)
    """
    text = html.unescape(html.unescape(text))
    return _UNSEEN.sub("", text.translate(_PLAIN).translate(_QUOTES)).strip()


def _byte_letters() -> dict[int, str]:
    """Return one printable letter for each byte, printable bytes first (the order defines the ids)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(unprintable)}
