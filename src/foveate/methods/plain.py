"""CLIP's own class texts, which several methods compare theirs with."""

from collections.abc import Sequence

from foveate.clip.model import Clip
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.clip.text import check_texts, encode_names
from foveate.methods.kept import Kept, tensors_of
from foveate.types import TextFeatures


class PlainTexts:
    """Class names in one sentence: checked when names are set, encoded if asked for, and then kept.

    Args:
        clip: The frozen towers.
        own: The sentence; None takes the data set's, or "a photo of a {}.".

    Raises:
        InputError: The sentence has not exactly one `{}`.
    """

    def __init__(self, clip: Clip, own: str | None):
        if own is not None:
            fill(own, "name")  # what cannot be a sentence is known before anything is trained
        self.clip, self.own = clip, own
        self.names: tuple[str, ...] = ()
        self.sentence = own or DEFAULT_TEMPLATE
        self._kept = Kept()

    def prepare(self, names: Sequence[str], template: str | None) -> None:
        """Take other names, and the data set's sentence.

        Raises:
            InputError: A name is too long for the text tower, or the sentence has not exactly one `{}`.
        """
        sentence = self.own or template or DEFAULT_TEMPLATE
        check_texts(self.clip, names, sentence)
        self.names, self.sentence = tuple(names), sentence

    def features(self) -> TextFeatures:
        """Return `[C, D]` raw features; encoded anew when names or the text tower are not what they were."""
        return self._kept.get(
            (self.names, self.sentence),
            tensors_of(self.clip.text),
            lambda: encode_names(self.clip, self.names, self.sentence),
        )
