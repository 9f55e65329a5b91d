"""DAPT's background texts: the words, their filter by class names, and their encoding by a host.

The lists and the sentence are from the authors' released code; the sentence is that of weakly supervised
segmentation with CLIP.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Sequence

from foveate.clip.rows import TokenRows, check_texts
from foveate.errors import InputError
from foveate.methods.capabilities import ExtraTexts
from foveate.methods.configs import words
from foveate.methods.texts import Cache, tensors_of
from foveate.types import TextFeatures

GENERIC: tuple[str, ...] = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea"),
    *("railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road", "rock"),
    *("street", "valley", "bridge", "sign"),
)
FOOD: tuple[str, ...] = ("table", "forks", "tablecloth", "hands", "spoon", "glasses", "dishes")

DISTRACTORS = len(FOOD)
"""Number of background words that the released code treats as classes.

It appends both lists to the class texts, but separates only as many rows as the generic list has.
"""


class Backgrounds:
    """Background words that name no class, and their texts.

    Args:
        host: Method that encodes the texts; its class names filter the words.
        words: Background words; empty takes those of the released code.
        template: The sentence around them.
        keep_all: Whether to keep words that name a class.
        as_released: Whether to use all words of the released code, some of them as classes.
    """

    def __init__(
        self, host: ExtraTexts, words: Sequence[str], template: str, *, keep_all: bool, as_released: bool
    ):
        self._host, self._configured, self._template = host, tuple(words), template
        self._keep_all, self._as_released = keep_all, as_released
        self._words: tuple[object, tuple[list[str], list[str]]] = (None, ([], []))
        self._rows: tuple[list[str], TokenRows] | None = None
        self._cache = Cache()

    def check(self) -> None:
        """Refuse words that are too long, before training; some are first encoded in a late epoch.

        Raises:
            InputError: A sentence is too long for the text tower.
        """
        candidates = self._configured or GENERIC + FOOD
        try:
            check_texts(self._host.clip, candidates, self._template)
            self._host.extra_rows(candidates, self._template)
        except InputError as error:
            raise InputError(f"dapt: background texts: {error}") from error

    def names(self) -> list[str]:
        """Return the words of the background texts."""
        return self._split()[0][self.among_classes :]

    def dropped(self) -> list[str]:
        """Return the words that were left out because they name a class."""
        return self._split()[1]

    def encode(self) -> TextFeatures:
        """Return raw features `[Q + K, D]`, with gradient to the tensors that the host learns of texts.

        The first Q texts are treated as classes, see `among_classes`; K are the backgrounds.
        """
        rows = self._token_rows()
        if self._host.tunes_text:
            return self._host.encode_rows(rows)
        sources, key = tensors_of(self._host.clip.text), tuple(self._split()[0])
        return self._cache.get(key, sources, lambda: self._host.encode_rows(rows))

    @property
    def among_classes(self) -> int:
        """Number of words that the released code treats as classes; 0 without its quirks."""
        return DISTRACTORS if self._as_released else 0

    def _split(self) -> tuple[list[str], list[str]]:
        """Return the words in use, and those left out."""
        host = self._host
        if self._as_released:
            return [*GENERIC, *FOOD], []
        key = host.names, host.template  # called in each step; filtering is slow for a thousand classes
        if self._words[0] != key:
            candidates = self._configured or backgrounds_for(host.template)
            self._words = key, without_collisions(candidates, [] if self._keep_all else host.names)
        return self._words[1]

    def _token_rows(self) -> TokenRows:
        """Return the texts as token rows, cached until the words change."""
        words = self._split()[0]
        if self._rows is None or self._rows[0] != words:
            rows = self._host.extra_rows(words, self._template)
            self._rows = words, rows.to(self._host.clip.text.pos.device)
        return self._rows[1]


def backgrounds_for(template: str | None) -> tuple[str, ...]:
    """Return the generic backgrounds, and dining words if the data set's sentence names food.

    The names of the lists in the released code suggest that the second one is for Food101; the code
    appends it for all data sets.

    Args:
        template: The data set's sentence, if one was given: "a photo of {}, a type of food.".
    """
    return GENERIC + FOOD if template is not None and "food" in words(template) else GENERIC


def without_collisions(backgrounds: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the backgrounds that name no class, and those that do.

    A background names a class if the class name contains its words in a row: "river" in "river",
    "building" in "Residential Buildings"; not "sea" in "seal".

    Args:
        backgrounds: Background words; their order is kept.
        names: The class names.
    """
    class_words = [words(name) for name in names]
    kept: list[str] = []
    dropped: list[str] = []
    for background in backgrounds:
        background_words = words(background)
        (dropped if any(_within(background_words, name) for name in class_words) else kept).append(background)
    return kept, dropped


def _within(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
