"""Encodes texts and class names to raw text features with the frozen tower."""

from collections.abc import Sequence

import torch

from foveate.clip.model import Clip
from foveate.clip.rows import CHUNK, TokenRows, encode_rows, pack
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.errors import InputError
from foveate.types import TextFeatures


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
