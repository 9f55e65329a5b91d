"""Words for what is no object: whatever a patch may show besides the class that is looked for."""

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
"""Things without a shape of their own, and what objects commonly stand on or before."""

ALIKE = 0.9
"""Cosine from which on a background word means the class."""


def background_for(tokenizer: ClipTokenizer) -> tuple[str, ...]:
    """Return the words of `SCENERY` that a CLIP can be expected to know.

    A word that its tokenizer puts together from pieces was rare in what it was trained on, or not there. With
    OpenAI's vocabulary all are known; with the embedded CLIP's, its eight places are. A tokenizer that knows
    none is made for something else than words, and is given all.
    """
    known = tuple(word for word in SCENERY if len(tokenizer.words(word)) == 1)
    return known or SCENERY


def same_words(word: str, names: Sequence[str]) -> bool:
    """Return whether a background word is one of a class' own, or the other way about.

    "water" is one of "water lily"; "sea" is none of "seal".
    """
    mine = _words(word)
    return any(mine <= (theirs := _words(name)) or (bool(theirs) and theirs <= mine) for name in names)


def apart(text: Float[Tensor, " dim"], words: Float[Tensor, "words dim"], alike: float = ALIKE) -> list[int]:
    """Return which background words do not mean the class; the least alike stays in any case.

    Args:
        text: The class' feature, of length 1.
        words: Those of background words.
        alike: Cosine above which one is dropped.
    """
    cosines = words @ text
    kept: list[int] = torch.nonzero(cosines <= alike)[:, 0].tolist()
    return kept or ([int(cosines.argmin())] if len(words) else [])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))
