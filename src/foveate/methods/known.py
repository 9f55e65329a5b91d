"""`KnownClasses`: base class of methods that learn rows for trained classes only, and `LearnedRows` below it.

Their learned tensors have a row per trained class or picture. So the shapes are unknown before training;
until then the tensors are empty, and the method predicts like zero-shot CLIP.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod, check_names
from foveate.methods.capabilities import ClosedForm, Diagnostics, Tally
from foveate.methods.frozen import extract
from foveate.methods.guidance import route
from foveate.methods.texts import PlainTexts
from foveate.types import Batch, Branch, Features, ImageFeatures, Labels, Logits


@dataclass(frozen=True)
class PictureFeatures:
    """Features of pictures that a method has encoded.

    Attributes:
        image: `[1, N, D]` raw features.
        labels: `[N]`.
    """

    image: ImageFeatures
    labels: Labels


class LearnedRows(ClosedForm):
    """A method with a learned row for each trained class.

    Attributes:
        known: The classes of the learned rows, in order; empty before training.
    """

    known: tuple[str, ...] = ()

    @abstractmethod
    def classes_learned(self) -> int:
        """Return the number of classes with learned rows; 0 before training."""

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        check_names(names)
        learned = self.classes_learned()
        if learned and not self.known and learned != len(names):
            raise InputError(
                f"this model was learned for {learned} classes, not {len(names)}: set the classes it was"
                " trained on first"
            )
        super().set_classes(names, template, trained)
        if learned and not self.known:
            self.known = self.names

    def row_pairs(self) -> list[tuple[int, int]]:
        """Return the column and the row of each current name that has a learned row."""
        row_of = {name: row for row, name in enumerate(self.known)}
        return [(column, row_of[name]) for column, name in enumerate(self.names) if name in row_of]


class KnownClasses(LearnedRows, SentenceMethod, Diagnostics):
    """A method with learned rows for its trained classes. Its loss is the cross-entropy.

    For names that were not trained it predicts like zero-shot CLIP. If trained and other names occur
    together, CLIP's logits decide whether the class is a trained one, and the learned logits decide
    which one.

    Args:
        clip: The frozen towers.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".

    Attributes:
        known: The classes of the learned rows, in order; empty before training.
    """

    tunes_text = False
    takes_new_names = False

    def __init__(self, clip: Clip, template: str | None):
        super().__init__(clip)
        self.plain = PlainTexts(clip, template)
        self.tally = self.last_tally = Tally()
        self.known: tuple[str, ...] = ()
        self._warnings: list[str] = []

    @abstractmethod
    def known_logits(self, image: Tensor, zero_shot: Logits, rows: Sequence[int]) -> Logits:
        """Return `[B, R]` logits of some known classes.

        Args:
            image: `[B, D]` unit features.
            zero_shot: `[B, R]` CLIP's logits of the same classes.
            rows: Rows of these classes.
        """

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return the learned logits of known names and zero-shot CLIP's of others, for any branch."""
        zero_shot = super().logits(features, branch)
        pairs = self.row_pairs()
        if not pairs:
            return zero_shot
        columns = torch.tensor([column for column, _ in pairs], device=zero_shot.device)
        image = F.normalize(features.image[0], dim=-1)
        learned = self.known_logits(image, zero_shot[:, columns], [row for _, row in pairs])
        if len(pairs) == len(self.names):
            return learned
        merged = zero_shot.index_copy(1, columns, learned.to(zero_shot.dtype))
        is_known = torch.zeros(len(self.names), dtype=torch.bool, device=columns.device)
        is_known[columns] = True
        return route(merged, zero_shot, is_known, 1.0)

    def zero_shot(self, image: ImageFeatures) -> Logits:
        """Return zero-shot CLIP's logits of raw features."""
        return super().logits(self.pair(image))

    def warnings(self) -> list[str]:
        """Return notes on how settings were chosen."""
        return self._warnings

    def disclaimers(self) -> list[str]:
        """Return a note on names without learned rows."""
        unknown = [name for name in self.names if name not in self.known]
        if not unknown or not self.known:
            return []
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return [f"it has learned nothing of {unknown[0]!r}{more}: of these it says what zero-shot CLIP says"]

    @torch.no_grad()
    def collect(self, batches: Iterable[Batch]) -> PictureFeatures:
        """Return raw features of all pictures, in order."""
        parts = [((batch.frozen or extract(self, batch))["image"], batch.labels) for batch in batches]
        if not parts:
            empty = torch.empty(1, 0, self.clip.config.embed, device=self.clip.logit_scale.device)
            return PictureFeatures(empty, torch.empty(0, dtype=torch.long, device=empty.device))
        image = torch.cat([image for image, _ in parts], dim=1)
        return PictureFeatures(image, torch.cat([labels for _, labels in parts]))


def fixed(tensor: Tensor, *, learns: bool = False) -> nn.Parameter:
    """Return a tensor as a float32 parameter; gradient steps change it only if `learns`."""
    return nn.Parameter(tensor.detach().float().contiguous().clone(), requires_grad=learns)


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor in float64; on the CPU, if the device has no float64 (Apple's GPUs)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
