"""What a plug-in that changes nothing but the training has of its host: every answer."""

from collections.abc import Generator
from contextlib import contextmanager

from foveate.methods.base import Method, Support
from foveate.types import Branch, Features, ImageFeatures, Images, Logits, Origin, PerImage, TextFeatures


class Hosted(Method):
    """A method that is trained together with another, its host, and answers as that one does.

    Args:
        host: A method as it starts; it is trained here.
    """

    def __init__(self, host: Method):
        super().__init__(host.clip, host.head_weights)
        self.host, self.first_patch, self.looks = host, host.first_patch, host.looks
        self.tunes_vision, self.tunes_text = host.tunes_vision, host.tunes_text
        self.text_follows_pictures = host.text_follows_pictures
        self.takes_new_names = host.takes_new_names

    def prepare(self) -> None:
        own = self.names, self.template, self.trained
        if own != (self.host.names, self.host.template, self.host.trained):
            self.host.set_classes(self.names, self.template, self.trained_names())

    def encode_text(self) -> TextFeatures:
        return self.host.encode_text()

    def text_features(self) -> TextFeatures:
        return self.host.text_features()  # kept there

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.host.encode_images(images)

    def pair(self, image: ImageFeatures) -> Features:
        return self.host.pair(image)

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        return self.host.features(images, branch)

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        return self.host.logits(features, branch)

    def trust(self, features: Features) -> PerImage | None:
        return self.host.trust(features)

    def vision_origin(self) -> Origin:
        return self.host.vision_origin()

    @contextmanager
    def constant_text(self) -> Generator[None]:
        with super().constant_text(), self.host.constant_text():
            yield

    def look(self, support: Support) -> None:
        self.host.look(support)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.host.begin_epoch(epoch, epochs)

    def finish(self) -> None:
        self.host.finish()

    def figures(self) -> dict[str, float]:
        return self.host.figures()

    def notes(self) -> list[str]:
        return self.host.notes()

    def caveats(self) -> list[str]:
        return self.host.caveats()

    def official_names(self) -> dict[str, str | list[str]]:
        """Return the host's, which are all that such a checkpoint has."""
        return {f"host.{name}": theirs for name, theirs in self.host.official_names().items()}
