"""Background words: content of patches other than the class."""

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
"""Cosine from which a background word has the meaning of the class."""


def background_for(tokenizer: ClipTokenizer) -> tuple[str, ...]:
    """Return the words of `SCENERY` that a CLIP probably knows.

    A word that the tokenizer splits into several tokens was rare in the training texts, or missing.
    OpenAI's vocabulary knows all words; the embedded CLIP's knows its eight places. A tokenizer that
    knows none is made for something other than words; it gets all words.
    """
    known = tuple(word for word in SCENERY if len(tokenizer.words(word)) == 1)
    return known or SCENERY


def same_words(word: str, names: Sequence[str]) -> bool:
    """Return whether a background word is part of a class name, or the reverse.

    "water" is part of "water lily"; "sea" is not part of "seal".
    """
    mine = _words(word)
    return any(mine <= (theirs := _words(name)) or (bool(theirs) and theirs <= mine) for name in names)


def apart(text: Float[Tensor, " dim"], words: Float[Tensor, "words dim"], alike: float = ALIKE) -> list[int]:
    """Return the indices of background words that do not mean the class; the least similar one always stays.

    Args:
        text: Feature of the class, of norm 1.
        words: Features of the background words.
        alike: Cosine above which a word is dropped.
    """
    cosines = words @ text
    kept: list[int] = torch.nonzero(cosines <= alike)[:, 0].tolist()
    return kept or ([int(cosines.argmin())] if len(words) else [])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))
