"""CLIP's own class texts, which several methods compare theirs with."""

from collections.abc import Sequence

from foveate.clip.model import Clip
from foveate.clip.templates import DEFAULT_TEMPLATE
from foveate.clip.text import check_texts, encode_names
from foveate.types import TextFeatures


class PlainTexts:
    """Class names in one sentence: checked when names are set, encoded once, and only if asked for.

    Args:
        clip: The frozen towers.
        own: The sentence; None takes the data set's, or "a photo of a {}.".
    """

    def __init__(self, clip: Clip, own: str | None):
        self.clip, self.own = clip, own
        self.names: tuple[str, ...] = ()
        self.sentence = own or DEFAULT_TEMPLATE
        self._features: TextFeatures | None = None

    def prepare(self, names: Sequence[str], template: str | None) -> None:
        """Take other names, and the data set's sentence.

        Raises:
            InputError: A name is too long for the text tower, or the sentence has not exactly one `{}`.
        """
        sentence = self.own or template or DEFAULT_TEMPLATE
        check_texts(self.clip, names, sentence)
        self.names, self.sentence, self._features = tuple(names), sentence, None

    def features(self) -> TextFeatures:
        """Return `[C, D]` raw features, where the towers are by now."""
        if self._features is None or self._features.device != self.clip.text.proj.device:
            self._features = encode_names(self.clip, self.names, self.sentence)
        return self._features
