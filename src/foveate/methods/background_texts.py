"""The words that DAPT calls backgrounds, and which of them a list of class names leaves.

The lists and the sentence are those of the authors' released code; it is the sentence of weakly supervised
segmentation with CLIP.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Sequence

TEMPLATE = "a clean origami {}."

GENERIC: tuple[str, ...] = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea"),
    *("railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock"),
    *("street", "valley", "bridge", "sign"),
)
FOOD: tuple[str, ...] = ("table", "forks", "tablecloth", "hands", "spoon", "glasses", "dishes")

DISTRACTORS = len(FOOD)
"""How many of the first backgrounds the released code leaves among the classes: it appends both lists, and
cuts off as many rows as the generic one has."""


def backgrounds_for(template: str | None) -> tuple[str, ...]:
    """Return the generic backgrounds, and those of a table where the data set's sentence tells of food.

    The lists' names in the released code say that the second is meant for Food101; it is appended for all.

    Args:
        template: The data set's sentence, if one was given: "a photo of {}, a type of food.".
    """
    return GENERIC + FOOD if template is not None and "food" in words(template) else GENERIC


def without_collisions(backgrounds: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the backgrounds that name no class, and those that do.

    A background names a class if its words stand in the class name one behind the other: "river" in "river",
    "building" in "Residential Buildings"; not "sea" in "seal".

    Args:
        backgrounds: In any order, which is kept.
        names: The class names.
    """
    known = [words(name) for name in names]
    kept: list[str] = []
    dropped: list[str] = []
    for background in backgrounds:
        own = words(background)
        (dropped if any(_within(own, name) for name in known) else kept).append(background)
    return kept, dropped


def words(text: str) -> list[str]:
    """Return the words of a text in lower case and without the s of a plural."""
    spaced = "".join(letter if letter.isalnum() else " " for letter in text.casefold())
    return [_singular(word) for word in spaced.split()]


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _within(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
