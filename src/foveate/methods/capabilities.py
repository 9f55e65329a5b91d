"""Optional abilities of methods: small interfaces that the other code finds by type.

`capability(method, GradientRule)` returns the part of a method that has the ability: the method itself
or, for a wrapper, one of its hosts. A method declares an ability by inheriting from its class.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor

from foveate.clip.model import Edit, Text
from foveate.clip.rows import TokenRows, encode_rows, text_rows
from foveate.clip.templates import fill
from foveate.errors import InputError
from foveate.methods.base import Method, SentenceMethod, Wrapper, encode_pictures
from foveate.methods.configs import Position, TextKind
from foveate.methods.texts import PlainTexts
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Images,
    Masks,
    PerImage,
    Scalar,
    TextFeatures,
)

Kind = TypeVar("Kind", bound=Method)


def walk(method: Method, *, trained: bool = False) -> Iterator[Method]:
    """Yield a method and, for a wrapper, its hosts, down to the backbone.

    Args:
        method: The outermost method.
        trained: Whether to stop before a frozen host, so that only parts of one training stage are
            yielded.
    """
    yield method
    if isinstance(method, Wrapper) and (method.joint or not trained):
        yield from walk(method.host, trained=trained)


def capability(method: Method, kind: type[Kind], *, trained: bool = False) -> Kind | None:
    """Return the outermost part of a method that has a capability; None if no part has it.

    Args:
        method: The method, with its hosts.
        kind: The capability's class.
        trained: Whether to consider only the parts of one training stage; see `walk`.
    """
    return next((part for part in walk(method, trained=trained) if isinstance(part, kind)), None)


def watchers(method: Method) -> "list[Diagnostics]":
    """Return the parts of one training stage that have `Diagnostics`, outermost first."""
    return [part for part in walk(method, trained=True) if isinstance(part, Diagnostics)]


# --- before, during and after training ---


@dataclass(frozen=True)
class SupportSet:
    """The labelled training pictures for methods that compute tensors in closed form.

    Attributes:
        train: Function from the number of an epoch to its batches: each training picture once, always in
            the same order, in the views of that epoch.
        val: A few validation pictures to choose settings on, in test views; never test pictures. Empty
            if the data has none, or if none were requested.
    """

    train: Callable[[int], Iterable[Batch]]
    val: Iterable[Batch] = ()


class ClosedForm(Method):
    """Computes learned tensors from the support set before the first step.

    Shapes of such tensors may depend on the training classes or pictures; they are empty before.

    Attributes:
        passes: Number of passes of `fit_support` over the training pictures.
    """

    passes: int = 1

    @abstractmethod
    def fit_support(self, support: SupportSet) -> None:
        """Compute the tensors. A resumed run computes them again."""

    def chosen_settings(self) -> dict[str, object]:
        """Return the settings that `fit_support` chose, by name; a training with them chooses nothing."""
        return {}

    def finish(self) -> None:
        """Finish a training; called after the last step, or after `fit_support` if there are no steps."""


class GradientRule(Method):
    """Defines its own gradient (ProGrad); otherwise the gradient of the sum of the terms is used."""

    @abstractmethod
    def backward(self, losses: Mapping[str, Scalar]) -> None:
        """Add the gradient of each trainable tensor to its `grad`."""


class LabelTerm(Method):
    """Trains prompts with labels in the term "ce" only; its other terms use no labels.

    So a teacher's predictions can replace "ce" (KDPL). The class has no methods.
    """


class Tally:
    """Sums over the views of an epoch, on the towers' device, so that counting needs no synchronisation.

    Attributes:
        sums: Sums by name; `views` is the number of views.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def add(self, **counts: Tensor) -> None:
        """Add the values of a batch: by name, a `[B]` tensor with one value per view."""
        for name, values in counts.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=values.device)) + values.sum()

    def total(self, name: str) -> float:
        """Return one of the sums; 0 if nothing was counted."""
        return float(self.sums.get(name, 0.0))

    def shares(self) -> dict[str, float]:
        """Return the means over the views, for the log."""
        views = self.total("views")
        return {name: self.total(name) / views for name in self.sums if name != "views"} if views else {}


class Diagnostics(Method):
    """Monitors its training and reports facts about the training or its predictions.

    Attributes:
        tally: Counts of the current epoch; set in `__init__`, like `last_tally`.
        last_tally: Counts of the previous epoch.
    """

    tally: Tally
    last_tally: Tally

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Prepare for an epoch of training.

        Args:
            epoch: Epoch, counted from 0. A resumed run starts at any epoch, with its learned tensors
                restored.
            epochs: Number of epochs.
        """

    def metrics(self) -> dict[str, float]:
        """Return metrics of the epoch for the log; the next epoch starts new counts."""
        self.last_tally, self.tally = self.tally, Tally()
        return self.last_tally.shares()

    def warnings(self) -> list[str]:
        """Return warnings about the finished training, for the user."""
        return []

    def disclaimers(self) -> list[str]:
        """Return warnings about predictions for the current class names, for the user."""
        return []


# --- several processes that share a batch ---

Spread = Callable[[TokenRows, Callable[[TokenRows], TextFeatures]], TextFeatures]
"""Encodes texts together with other processes; takes all rows and the function that encodes some of them."""


class ShardedText(Method):
    """Lets each process of a process group encode a part of the class texts during training.

    Attributes:
        spread: Function that shares the encoding; None in a single process.
    """

    spread: Spread | None = None

    def encode_sharded(self, rows: TokenRows, encode: Callable[[TokenRows], TextFeatures]) -> TextFeatures:
        """Return `encode(rows)`; each process encodes a part of the rows."""
        if self.spread is None or not torch.is_grad_enabled():
            return encode(rows)
        return self.spread(rows, encode)


class BatchSplit(Method):
    """Has loss terms for which a part of a batch is not just a smaller batch."""

    def whole_batch_reason(self) -> str | None:
        """Return why the method needs whole batches, and an alternative; None if parts work."""
        return None

    def averaged_over(self) -> dict[str, int]:
        """Return, by name, the number of pictures that each term of the last `losses` is a mean over.

        Terms not listed are means over all pictures of the batch, or do not depend on pictures. A term
        that was left out because it had no pictures is listed with 0.
        """
        return {}


# --- other texts and pictures ---


class ExtraTexts(Method):
    """Encodes texts that are no classes, such as DAPT's backgrounds, in the same way as its classes."""

    def extra_rows(self, names: Sequence[str], template: str) -> TokenRows:
        """Return token rows of names that are no classes.

        Args:
            names: At least one name.
            template: The sentence around a name; methods with learned words use those instead.

        Raises:
            InputError: A text is too long for the text tower.
        """
        return text_rows(self.clip, [fill(template, name) for name in names])

    @abstractmethod
    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        """Return `[K, D]` raw features of such rows, with gradient to tensors shared by all texts."""


@dataclass(frozen=True)
class TextRecipe:
    """How a method makes class texts from token ids; an export encodes new names with it.

    Attributes:
        kind: See `TextKind`.
        tower: The text tower.
        vectors: `[P, M, W]` learned vectors of each prompt; None for sentences.
        positions: Place of the name among the vectors of each prompt.
        words: Token ids between the vectors and the name.
        edit: Returns the edit between blocks. Its argument is `[R, D]`, CLIP's features of the sentences,
            for the kind "known", else None.
        grown: Number of tokens that the edit adds to each row.
        shifted: For the kind "shifted": returns `[B, M, W]`, the vectors of each picture.
        joined: For the kind "known": returns the class texts from the tower's output and CLIP's features,
            both `[R, D]`; None if the tower's output is the class text.
    """

    kind: TextKind
    tower: Text
    vectors: Tensor | None = None
    positions: tuple[Position, ...] = ()
    words: tuple[int, ...] = ()
    edit: Callable[[Tensor | None], Edit | None] | None = None
    grown: int = 0
    shifted: Callable[[ImageFeatures], Tensor] | None = None
    joined: Callable[[TextFeatures, TextFeatures], TextFeatures] | None = None


class PortableTexts(Method):
    """Makes class texts in its own way, which an export can repeat."""

    @abstractmethod
    def text_recipe(self) -> TextRecipe:
        """Return how class texts are made."""


class TunedTextTower(SentenceMethod, ExtraTexts, PortableTexts):
    """Encodes its sentences with a changed text tower: adapters, low-rank updates, tuned norms."""

    @abstractmethod
    def text_tower(self) -> Text:
        """Return the changed text tower."""

    def encode_text(self) -> TextFeatures:
        """Return class features of the changed text tower."""
        return self.encode_rows(self.plain.rows())

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.text_tower(), rows)

    def text_recipe(self) -> TextRecipe:
        return TextRecipe("sentence", self.text_tower())


class TextPerImage(Method):
    """Has class texts that depend on the picture (CoCoOp)."""

    @abstractmethod
    def encode_text_for(self, image: ImageFeatures) -> TextFeatures:
        """Return `[B, C, D]` raw class features, one set per picture."""

    def pair(self, image: ImageFeatures) -> Features:
        return Features(image, self.encode_text_for(image))


class ImageAdapter(Method):
    """Learns a map of CLIP's own picture features; a bank can hold the input of this map."""

    @abstractmethod
    def adapt(self, image: ImageFeatures) -> ImageFeatures:
        """Map CLIP's raw features `[1, B, D]`."""

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.adapt(encode_pictures(self.clip, images))

    def forward(self, batch: Batch) -> Features:
        frozen = batch.frozen.get("image")
        return self.pair(self.encode_images(batch.images) if frozen is None else self.adapt(frozen))

    @property
    def sees_as_clip(self) -> bool:
        return False


class ImageTokens(Method):
    """Inserts learned tokens before the patches in the image tower; heat maps need the patches' position.

    Attributes:
        first_patch: Index of the first patch among the output tokens.
    """

    first_patch: int = 1


def first_patch(method: Method) -> int:
    """Return the index of the first patch among the output tokens of a method's image tower."""
    part = capability(method, ImageTokens)
    return 1 if part is None else part.first_patch


# --- checkpoints of the authors' code ---


class OfficialCheckpoint(Method):
    """Can load checkpoints of the authors' code."""

    @abstractmethod
    def official_names(self) -> dict[str, str | list[str]]:
        """Return the name of each learned tensor in such a checkpoint; several names are stacked."""

    def load_official(self, state: Mapping[str, object]) -> None:
        """Load a checkpoint of the authors' code, without its frozen tensors.

        Args:
            state: Tensors by name, or the whole checkpoint with them under "state_dict".

        Raises:
            InputError: A tensor is missing or has another shape.
        """
        self.load_learned(official_tensors(state, self.official_names()))


# --- predictions that use more than one source ---


class FrozenHost(Wrapper):
    """A wrapper over a tuned, frozen host; class texts are the host's, which caches them."""

    joint = False

    def encode_text(self) -> TextFeatures:
        return self.text_features()

    @torch.no_grad()
    def text_features(self) -> TextFeatures:
        return super().text_features()

    def pair(self, image: ImageFeatures) -> Features:
        if capability(self.host, TextPerImage):
            return super().pair(image)
        return Features(image, self.text_features())


class RegionEncoder(FrozenHost):
    """Encodes a test picture together with a masked region of it, with a frozen host; learns nothing.

    Attributes:
        region_views: Number of features that `encode_region` returns for each head of the host.
    """

    outermost = True
    region_views: ClassVar[int] = 1

    @abstractmethod
    def encode_region(self, images: Images, masks: Masks) -> ImageFeatures:
        """Return `[H, B, D]` raw features of normalised pictures with a region each.

        `pair` and `logits` accept them like those of `encode_images`. An empty mask gives the same logits as
        `encode_images`.

        Args:
            images: Normalised pictures.
            masks: 1 in the region.
        """

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return no terms: nothing is learned."""
        return {}

    def region_key(self) -> str:
        """Return a key of all that decides these features, besides the host."""
        return f"{self.name} {getattr(self, 'config', None)}"


class PriorTexts(Method):
    """Uses CLIP's own class texts too, as a prior for new classes.

    A wrapper names it before its other bases: names are then refused before the host gets them.

    Attributes:
        plain: CLIP's own class texts, of one sentence or several; set in `__init__`.
    """

    plain: Sequence[PlainTexts] = ()

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        for texts in self.plain:
            texts.check(names, template)
        super().set_classes(names, template, trained)
        for texts in self.plain:
            texts.set_classes(names, template)

    @property
    @abstractmethod
    def prior_texts(self) -> Sequence[PlainTexts]:
        """CLIP's own class texts, of one sentence or several; none if the settings disable them.

        If features have a `prior`, its texts `[C, D]` are used instead: the mean of these at unit length.
        """

    @property
    @abstractmethod
    def mixed_weight(self) -> float:
        """Weight of the trained classes' logits if trained and new names are mixed; see `route`."""


class PriorBranch(PriorTexts):
    """Uses the unchanged CLIP too, as a prior for new classes."""

    @property
    def prior_texts(self) -> Sequence[PlainTexts]:
        return self.plain if self.asks_prior("new") else []

    @abstractmethod
    def asks_prior(self, branch: Branch | None) -> bool:
        """Return whether logits of a label space need CLIP's own features; None means any label space."""

    @abstractmethod
    def with_prior(self, features: Features, image: ImageFeatures) -> Features:
        """Add CLIP's own features as prior; `image` has CLIP's raw picture features `[1, B, D]`."""

    @abstractmethod
    def trust(self, features: Features) -> PerImage | None:
        """Return the weight of CLIP's prior for each picture, in [0, 1]; None if the settings disable it."""

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        features = super().features(images, branch)
        if not self.asks_prior(branch):
            return features
        image = features.image[:1] if self.sees_as_clip else encode_pictures(self.clip, images)
        return self.with_prior(features, image)


class ForegroundTrust(Method):
    """Learns a trust in the foreground of each picture; it measures the quality of masks."""

    @abstractmethod
    def has_gate(self) -> bool:
        """Return whether the settings keep the gate that learns this trust."""

    @abstractmethod
    def foreground_trust(self, batch: Batch) -> PerImage:
        """Return the learned trust in each picture's foreground, in [0, 1]; the batch needs masks."""

    @abstractmethod
    def foreground_target(self, batch: Batch) -> PerImage:
        """Return the training target of the trust: 1 if the foreground alone has the better prediction."""


def official_tensors(state: Mapping[str, object], names: Mapping[str, str | list[str]]) -> dict[str, Tensor]:
    """Select the learned tensors in a checkpoint of the authors' code.

    Args:
        state: Tensors under the authors' names, or a checkpoint with them under "state_dict". A module
            prefix of all names ("prompt_learner.", "module.") is optional.
        names: For each of our tensors, the authors' name; several are stacked along a new first axis.

    Raises:
        InputError: Tensors are missing, or a numbered series has extra ones; the message names them.
    """
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise InputError("the checkpoint's state_dict holds no tensors by name")
    available = {
        str(name).removeprefix("module."): tensor
        for name, tensor in cast("Mapping[object, object]", inner).items()
        if isinstance(tensor, Tensor)
    }
    required = [key for theirs in names.values() for key in ([theirs] if isinstance(theirs, str) else theirs)]
    matches = {name: available.get(name, available.get(name.partition(".")[2])) for name in required}
    missing = [name for name, tensor in matches.items() if tensor is None]
    if missing:
        raise InputError(
            f"the checkpoint lacks {', '.join(missing)}: is it of another method, or of other settings?"
        )
    extra = _extra_names(required, available)
    if extra:
        raise InputError(f"the checkpoint has {', '.join(extra)} besides: it was tuned in more blocks")
    selected = {name: tensor.float() for name, tensor in matches.items() if tensor is not None}
    return {
        ours: selected[theirs] if isinstance(theirs, str) else torch.stack([selected[key] for key in theirs])
        for ours, theirs in names.items()
    }


def _extra_names(required: Sequence[str], available: Collection[str]) -> list[str]:
    """Return the names that differ from a required one only in a number, e.g. those of further blocks."""
    patterns = {re.sub(r"\d+", "#", name) for name in required} - set(required)
    extra = [name for name in available if name not in required and re.sub(r"\d+", "#", name) in patterns]
    return sorted(extra)
