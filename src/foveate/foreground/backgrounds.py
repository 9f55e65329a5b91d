"""Background words: what patches can show instead of the class."""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveate.clip.tokenizer import ClipTokenizer

SCENERY = (
    *("sky", "cloud", "ground", "soil", "grass", "leaf", "tree", "forest", "field", "mountain", "rock"),
    *("stone", "sand", "snow", "water", "sea", "river", "road", "street", "wall", "floor", "ceiling"),
    *("building", "brick", "wood", "fence", "window", "curtain", "table", "crowd", "shadow", "night", "sign"),
)
"""Amorphous materials, and common surfaces and surroundings of objects."""

ALIKE = 0.9
"""Cosine above which a background word is taken to mean the class."""


def background_for(tokenizer: ClipTokenizer) -> tuple[str, ...]:
    """Return the words of `SCENERY` that a CLIP probably knows.

    A word that the tokenizer splits into several tokens was rare in the training texts, or missing.
    In OpenAI's vocabulary each word is one token; in the embedded CLIP's, those that name its eight places
    are. If no word is a single token, all words are returned.
    """
    known = tuple(word for word in SCENERY if len(tokenizer.words(word)) == 1)
    return known or SCENERY


def same_words(word: str, names: Sequence[str]) -> bool:
    """Return whether a background word is part of a class name, or the reverse.

    "water" is part of "water lily"; "sea" is not part of "seal".
    """
    background_words = _words(word)
    return any(
        background_words <= (class_words := _words(name))
        or (bool(class_words) and class_words <= background_words)
        for name in names
    )


def apart(text: Float[Tensor, " dim"], words: Float[Tensor, "words dim"], alike: float = ALIKE) -> list[int]:
    """Return the indices of background words that do not mean the class; the least similar one always stays.

    Args:
        text: Feature of the class, of norm 1.
        words: Features of the background words.
        alike: Cosine above which a word is dropped.
    """
    cosines = words @ text
    indices: list[int] = torch.nonzero(cosines <= alike)[:, 0].tolist()
    return indices or ([int(cosines.argmin())] if len(words) else [])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))
