"""What methods share that learn something of each trained class and nothing that another class could use.

Their learned tensors have rows for trained classes or pictures, so their shapes are known only when the
training pictures have been looked at: until then they are empty, and the method answers as zero-shot CLIP.
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
class Held:
    """Pictures that a method has looked at.

    Attributes:
        image: `[1, N, D]` raw features.
        labels: `[N]`.
    """

    image: ImageFeatures
    labels: Labels


class KnownClasses(SentenceMethod, ClosedForm, Diagnostics):
    """A method whose learned rows belong to the classes it was trained on. Its loss is the cross-entropy.

    About names it was not trained on it says what zero-shot CLIP says. Where trained and other names stand
    together, CLIP's logits decide whether it is a trained one, and the learned ones which of these.

    Args:
        clip: The frozen towers.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".

    Attributes:
        known: The classes of the learned rows, in their order; empty before training.
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
    def classes_learned(self) -> int:
        """Return how many classes the learned tensors have rows of; 0 before training."""

    @abstractmethod
    def known_logits(self, image: Tensor, zero_shot: Logits, rows: Sequence[int]) -> Logits:
        """Return `[B, R]` logits of some known classes.

        Args:
            image: `[B, D]` unit features.
            zero_shot: `[B, R]` what CLIP says of the same classes.
            rows: Of these classes.
        """

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

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return the learned logits of known names and zero-shot CLIP's of others, whatever the branch."""
        zero_shot = super().logits(features, branch)
        rows = {name: row for row, name in enumerate(self.known)}
        there = [(column, rows[name]) for column, name in enumerate(self.names) if name in rows]
        if not there:
            return zero_shot
        columns = torch.tensor([column for column, _ in there], device=zero_shot.device)
        image = F.normalize(features.image[0], dim=-1)
        own = self.known_logits(image, zero_shot[:, columns], [row for _, row in there])
        if len(there) == len(self.names):
            return own
        whole = zero_shot.index_copy(1, columns, own.to(zero_shot.dtype))
        known = torch.tensor([name in rows for name in self.names], device=columns.device)
        return route(whole, zero_shot, known, 1.0)

    def zero_shot(self, image: ImageFeatures) -> Logits:
        """Return zero-shot CLIP's logits of raw features."""
        return super().logits(self.pair(image))

    def warnings(self) -> list[str]:
        """Return what was chosen before or after the training, and on what."""
        return self._warnings

    def disclaimers(self) -> list[str]:
        """Say which of the names it has learned nothing of."""
        other = [name for name in self.names if name not in self.known]
        if not other or not self.known:
            return []
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        return [f"it has learned nothing of {other[0]!r}{more}: of these it says what zero-shot CLIP says"]

    @torch.no_grad()
    def collect(self, batches: Iterable[Batch]) -> Held:
        """Return raw features of all pictures, in their order."""
        found = [((batch.frozen or extract(self, batch))["image"], batch.labels) for batch in batches]
        if not found:
            nothing = torch.empty(1, 0, self.clip.config.embed, device=self.clip.logit_scale.device)
            return Held(nothing, torch.empty(0, dtype=torch.long, device=nothing.device))
        image = torch.cat([image for image, _ in found], dim=1)
        return Held(image, torch.cat([labels for _, labels in found]))


def fixed(tensor: Tensor, *, learns: bool = False) -> nn.Parameter:
    """Return a tensor as a float32 parameter; gradient steps change it where it `learns`."""
    return nn.Parameter(tensor.detach().float().contiguous().clone(), requires_grad=learns)


def exact(tensor: Tensor) -> Tensor:
    """Return a tensor in float64; on the CPU, if it is where there is none (Apple's GPUs)."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()
