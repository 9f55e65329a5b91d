"""What only some methods can do: small interfaces, which the code around methods asks for by type.

`capability(method, GradientRule)` returns the part of a method that has one: the method itself or, of a
wrapper, what it stands on. A method takes a capability by naming its class among its bases.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor

from foveate.clip.rows import TokenRows
from foveate.clip.templates import fill
from foveate.clip.text import text_rows
from foveate.errors import InputError
from foveate.methods.base import Method, Wrapper, encode_pictures
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Images,
    PerImage,
    Scalar,
    TextFeatures,
)

Kind = TypeVar("Kind", bound=Method)


def walk(method: Method, *, trained: bool = False) -> Iterator[Method]:
    """Yield a method, and, of a wrapper, what it stands on, down to the backbone.

    Args:
        method: The outermost part.
        trained: Whether to end before a host that is frozen: what is trained in one stage.
    """
    yield method
    if isinstance(method, Wrapper) and (method.joint or not trained):
        yield from walk(method.host, trained=trained)


def capability(method: Method, kind: type[Kind], *, trained: bool = False) -> Kind | None:
    """Return the outermost part of a method that has a capability; None where no part has it.

    Args:
        method: With its hosts.
        kind: The capability's class.
        trained: Whether only parts count that are trained in one stage; see `walk`.
    """
    return next((part for part in walk(method, trained=trained) if isinstance(part, kind)), None)


def watchers(method: Method) -> "list[Diagnostics]":
    """Return the parts trained in one stage that watch it, outermost first."""
    return [part for part in walk(method, trained=True) if isinstance(part, Diagnostics)]


# --- before, during and after training ---


@dataclass(frozen=True)
class SupportSet:
    """The few labelled pictures that a method may solve for its tensors on.

    Attributes:
        train: Number of a pass to its batches: each training picture once, in the same order in each pass, in
            the views of the epoch of that number.
        val: A few pictures to choose settings on, as predictions see them; never test pictures. Empty where
            the data has none, or none were asked for.
    """

    train: Callable[[int], Iterable[Batch]]
    val: Iterable[Batch] = ()


class ClosedForm(Method):
    """Solves for learned tensors on the support set, before any step.

    Such tensors may take their shapes from the training classes or pictures: they are empty until then.

    Attributes:
        passes: How many passes over the training pictures `fit_support` makes.
    """

    passes: int = 1

    @abstractmethod
    def fit_support(self, support: SupportSet) -> None:
        """Solve. A run that goes on after a stop solves again."""

    def finish(self) -> None:
        """End a training: called behind its last step, or behind `fit_support` where there are no steps."""


class GradientRule(Method):
    """Has a rule of its own for the gradient (ProGrad), in place of that of the terms' sum."""

    @abstractmethod
    def backward(self, losses: Mapping[str, Scalar]) -> None:
        """Add the gradient of each trainable tensor to its `grad`."""


class LabelTerm(Method):
    """Learns prompts from labels by the term "ce" alone: its other terms need none.

    So a teacher's answers can take the place of "ce" (KDPL). There is nothing to write.
    """


class Tally:
    """Sums over the views of an epoch, on the towers' device, so that counting waits for nothing.

    Attributes:
        sums: By name; `views` is how many there were.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, **found: Tensor) -> None:
        """Add the views of a batch: `[B]` numbers of each view, by name."""
        for name, each in found.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=each.device)) + each.sum()

    def total(self, name: str) -> float:
        """Return one of the sums; 0 where nothing was counted."""
        return float(self.sums.get(name, 0.0))

    def shares(self) -> dict[str, float]:
        """Return means over the views, for the log."""
        views = self.total("views")
        return {name: self.total(name) / views for name in self.sums if name != "views"} if views else {}


class Diagnostics(Method):
    """Watches its own training, and says what a person should know of it or of its answers.

    Attributes:
        tally: Counts of the epoch at work; set in `__init__`, as is the other.
        last_tally: Those of the epoch before.
    """

    tally: Tally
    last_tally: Tally

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Make ready for an epoch of training.

        Args:
            epoch: Counted from 0. A run that was stopped begins with any, its learned tensors as they were.
            epochs: How many there are in all.
        """

    def metrics(self) -> dict[str, float]:
        """Return what an epoch of training was like, to be logged; the next epoch counts anew."""
        self.last_tally, self.tally = self.tally, Tally()
        return self.last_tally.shares()

    def warnings(self) -> list[str]:
        """Return what a person should know of the training that has just ended."""
        return []

    def disclaimers(self) -> list[str]:
        """Return what a person should know of answers about the names that are set."""
        return []


# --- several processes that share a batch ---

Spread = Callable[[TokenRows, Callable[[TokenRows], TextFeatures]], TextFeatures]
"""Encodes texts together with other processes; told of all texts, and how any of them are encoded here."""


class ShardedText(Method):
    """Lets each of several processes encode a part of the class texts while they train together.

    Attributes:
        spread: How they do it; None in a process that is alone.
    """

    spread: Spread | None = None

    def encode_sharded(self, rows: TokenRows, encode: Callable[[TokenRows], TextFeatures]) -> TextFeatures:
        """Return `encode(rows)`, of which each process encodes a part."""
        if self.spread is None or not torch.is_grad_enabled():
            return encode(rows)
        return self.spread(rows, encode)


class BatchSplit(Method):
    """Has terms of the loss to which a part of a batch is not simply a smaller batch."""

    def whole_batch_reason(self) -> str | None:
        """Return why no part of a batch will do, and what to give instead; None where it will."""
        return None

    def averaged_over(self) -> dict[str, int]:
        """Return over how many pictures some terms of the last `losses` are means, by name.

        The others are means over all pictures of the batch, or do not depend on pictures. A term that was
        left out for want of such pictures is named too, with 0.
        """
        return {}


# --- other texts, other pictures ---


class ExtraTexts(Method):
    """Can read texts that are no classes, such as DAPT's backgrounds, as it reads its classes."""

    def extra_rows(self, names: Sequence[str], template: str) -> TokenRows:
        """Return names that are no classes as token rows.

        Args:
            names: At least one.
            template: The sentence around a name; methods that learn words put these in its place.

        Raises:
            InputError: A text is longer than the text tower reads.
        """
        return text_rows(self.clip, [fill(template, name) for name in names])

    @abstractmethod
    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        """Return `[K, D]` raw features of such rows, with gradient to what is learned of any text."""


class TextPerImage(Method):
    """Has class texts that depend on the picture they are compared with (CoCoOp)."""

    @abstractmethod
    def encode_text_for(self, image: ImageFeatures) -> TextFeatures:
        """Return `[B, C, D]` raw class features, a set a picture."""

    def pair(self, image: ImageFeatures) -> Features:
        return Features(image, self.encode_text_for(image))


class ImageAdapter(Method):
    """Learns a map of CLIP's own picture features, so that a bank can hold what goes into it."""

    @abstractmethod
    def adapt(self, image: ImageFeatures) -> ImageFeatures:
        """Return the mapped features of CLIP's raw ones `[1, B, D]`."""

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.adapt(encode_pictures(self.clip, images))

    def forward(self, batch: Batch) -> Features:
        held = batch.frozen.get("image")
        return self.pair(self.encode_images(batch.images) if held is None else self.adapt(held))

    @property
    def sees_as_clip(self) -> bool:
        return False


class ImageTokens(Method):
    """Puts learned tokens before the patches in the image tower; maps of the gaze have to know where.

    Attributes:
        first_patch: Place of the first patch among the output tokens.
    """

    first_patch: int = 1


def first_patch(method: Method) -> int:
    """Return the place of the first patch among the output tokens of a method's image tower."""
    part = capability(method, ImageTokens)
    return 1 if part is None else part.first_patch


# --- checkpoints of others ---


class OfficialCheckpoint(Method):
    """Can take over checkpoints of the authors' code."""

    @abstractmethod
    def official_names(self) -> dict[str, str | list[str]]:
        """Return, per learned tensor, its name in such a checkpoint; several are stacked."""

    def load_official(self, state: Mapping[str, object]) -> None:
        """Take over a checkpoint of the authors' code; what is frozen in it is left out.

        Args:
            state: Its tensors by name, or the whole checkpoint with them under "state_dict".

        Raises:
            InputError: A tensor is missing or of another shape.
        """
        self.load_learned(official_tensors(state, self.official_names()))


# --- answers that look at more than one thing ---


class PriorBranch(Method):
    """Asks the untouched CLIP too, and leans on it for new classes."""

    @abstractmethod
    def asks_prior(self, branch: Branch | None) -> bool:
        """Return whether answers in a label space need CLIP's own features; None is any label space."""

    @abstractmethod
    def with_prior(self, features: Features, image: ImageFeatures) -> Features:
        """Return the features with CLIP's own beside them, whose pictures are given as raw `[1, B, D]`."""

    @abstractmethod
    def trust(self, features: Features) -> PerImage | None:
        """Return how far each answer leans on CLIP's prior, in [0, 1]; None where settings leave it out."""

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        both = super().features(images, branch)
        if not self.asks_prior(branch):
            return both
        image = both.image[:1] if self.sees_as_clip else encode_pictures(self.clip, images)
        return self.with_prior(both, image)


class ForegroundTrust(Method):
    """Learns how far the foreground of a picture is to be trusted, and so what masks are worth."""

    @abstractmethod
    def has_gate(self) -> bool:
        """Return whether settings leave it the gate that learns this."""

    @abstractmethod
    def foreground_trust(self, batch: Batch) -> PerImage:
        """Return the learned trust in each picture's foreground, in [0, 1]; the batch has masks."""

    @abstractmethod
    def foreground_target(self, batch: Batch) -> PerImage:
        """Return what the trust is trained to be: 1 where the foreground alone is answered better."""


def official_tensors(state: Mapping[str, object], names: Mapping[str, str | list[str]]) -> dict[str, Tensor]:
    """Pick learned tensors out of a checkpoint of the authors' code.

    Args:
        state: Tensors under the authors' names, or a checkpoint that has them under "state_dict". A module's
            name before them all ("prompt_learner.", "module.") may be there or not.
        names: Per tensor of ours, theirs; several are stacked along a new first axis.

    Raises:
        InputError: Tensors are missing, or there are more of a numbered kind; the message names them.
    """
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise InputError("the checkpoint's state_dict holds no tensors by name")
    given = {
        str(name).removeprefix("module."): tensor
        for name, tensor in cast("Mapping[object, object]", inner).items()
        if isinstance(tensor, Tensor)
    }
    wanted = [one for theirs in names.values() for one in ([theirs] if isinstance(theirs, str) else theirs)]
    found = {name: given.get(name, given.get(name.partition(".")[2])) for name in wanted}
    missing = [name for name, tensor in found.items() if tensor is None]
    if missing:
        raise InputError(
            f"the checkpoint lacks {', '.join(missing)}: is it of another method, or of other settings?"
        )
    more = _beyond(wanted, given)
    if more:
        raise InputError(f"the checkpoint has {', '.join(more)} besides: it was tuned in more blocks")
    whole = {name: tensor.float() for name, tensor in found.items() if tensor is not None}
    return {
        ours: whole[theirs] if isinstance(theirs, str) else torch.stack([whole[one] for one in theirs])
        for ours, theirs in names.items()
    }


def _beyond(wanted: Sequence[str], given: Collection[str]) -> list[str]:
    """Return tensors that differ from wanted ones in nothing but a number, as those of further blocks do."""
    kinds = {re.sub(r"\d+", "#", name) for name in wanted} - set(wanted)
    left = [name for name in given if name not in wanted and re.sub(r"\d+", "#", name) in kinds]
    return sorted(left)
