"""What a method must do, and the few lines that all of them share.

A method classifies pictures with a frozen CLIP and a few learned tensors. It is asked in this order:
`set_classes` (any names, at any time), then `features`, then `logits`; or, while it learns, `losses`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.bits import digest_of
from foveate.clip.model import Clip
from foveate.clip.rows import Rows, encode_rows
from foveate.clip.templates import fill
from foveate.clip.text import text_rows
from foveate.errors import InputError
from foveate.methods.kept import Kept, tensors_of
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Images,
    Logits,
    Origin,
    PerImage,
    Scalar,
    TextFeatures,
)

CLIP = "clip"
"""Origin of features of the untouched image tower."""


Spread = Callable[[Rows, Callable[[Rows], TextFeatures]], TextFeatures]
"""Encodes texts together with other processes; told of all texts, and how any of them are encoded here."""


@dataclass(frozen=True)
class Support:
    """What a method may look at before its first step.

    Attributes:
        train: Number of a pass to its batches: each training picture once, in the same order in each pass, in
            the views of the epoch of that number.
        val: A few pictures to choose settings on, as predictions see them; never test pictures. Empty where
            the data has none, or none were asked for.
    """

    train: Callable[[int], Iterable[Batch]]
    val: Iterable[Batch] = ()


class Method(nn.Module, ABC):
    """A way to classify pictures with a frozen CLIP and a few learned tensors.

    Class names never reach a checkpoint: `learned` has tensors that any class list can follow.

    Attributes:
        clip: The frozen towers.
        names: The class names asked about at the moment.
        trained: Of each name, whether it was trained on; matters to the branch "mixed" alone.
        head_weights: How base logits fuse the heads of an image feature; new-class logits use the first.
        tunes_vision: Whether learned tensors change what the image tower says.
        tunes_text: Whether they change the class texts.
        text_follows_pictures: Whether class texts depend on the picture they are compared with (CoCoOp).
        takes_new_names: Whether it learns anything that helps with classes it was not trained on.
        looks: Passes over the training pictures that `look` makes.
        first_patch: Place of the first patch among the image tower's output tokens, for pictures of the gaze.
        spread: How class texts are encoded while several processes train together; else None.
    """

    tunes_vision: bool = False
    tunes_text: bool = True
    text_follows_pictures: bool = False
    takes_new_names: bool = True
    looks: int = 0
    first_patch: int = 1
    spread: Spread | None = None

    def __init__(self, clip: Clip, head_weights: Sequence[float] = (1.0,)):
        super().__init__()
        self.clip = clip.requires_grad_(False).eval()
        self.head_weights = tuple(head_weights)
        self.names: tuple[str, ...] = ()
        self.trained: tuple[bool, ...] = ()
        self.template: str | None = None
        self._kept = Kept()
        self._text_is_constant = False

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        """Choose the classes to tell apart.

        Args:
            names: Class names; underscores read as spaces.
            template: The data set's sentence with one `{}`, for methods that use one.
            trained: The names that were trained on; None means all of them.

        Raises:
            InputError: No name, an empty name, a name twice, or one too long for the text tower; the classes
                are then what they were.
        """
        check_names(names)
        self.clip.tokenizer.demand_distinct(names)
        known = set(names if trained is None else trained)
        before = self.names, self.template, self.trained
        self.names, self.template = tuple(names), template
        self.trained = tuple(name in known for name in names)
        try:
            self.prepare()
        except InputError:
            self.names, self.template, self.trained = before
            if self.names:
                self.prepare()  # a part of it may have taken the refused names already
            raise

    @abstractmethod
    def prepare(self) -> None:
        """Make ready for `self.names` (tokenise, encode what is constant)."""

    @abstractmethod
    def encode_text(self) -> TextFeatures:
        """Return `[C, D]` raw class features, with gradient to what is learned."""

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return `[H, B, D]` raw features of normalised pictures, with gradient to what is learned."""
        return encode_pictures(self.clip, images)

    def pair(self, image: ImageFeatures) -> Features:
        """Put raw picture features beside the class texts, which may depend on the pictures (CoCoOp)."""
        return Features(image, self.text_features())

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        """Return both sides for normalised pictures, before normalisation of the features.

        Args:
            images: Normalised pictures.
            branch: Which label space they will be asked about, if no other: what its logits do not need is
                then left out. None serves all.
        """
        return self.pair(self.encode_images(images))

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Align the two sides, CLIP's temperature applied.

        `branch` says which label space is asked about; it matters to methods that treat trained and new
        classes differently (MMRL, FVG-PT).
        """
        return align(features, self.clip.scale, self.head_weights if branch == "base" else (1.0,))

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        """Return what frozen towers say of a batch: training cannot change it, a bank may hold it."""
        return {} if self.tunes_vision else {"image": self.encode_images(batch.images)}

    def seen(self, batch: Batch) -> dict[str, Tensor]:
        """Return the same, from the batch where it is there already."""
        return batch.frozen or self.see(batch)

    def seen_keys(self) -> dict[str, Origin]:
        """Return where each tensor of `see` comes from, so that a bank shares those that are equal.

        Asked once before a training. What it does not name, a bank does not hold.
        """
        return {} if self.tunes_vision else {"image": self.vision_origin()}

    def vision_origin(self) -> Origin:
        """Return where features of `encode_images` come from: from CLIP's own tower, or from a tuned one."""
        own = not self.tunes_vision and type(self).encode_images is Method.encode_images
        return Origin(CLIP if own else self.digest(), len(self.head_weights), self.clip.config.embed)

    def digest(self) -> str:
        """Return the kind of method and 16 hex digits that name its settings and learned tensors."""
        kind, settings = type(self), repr(getattr(self, "config", None))
        return f"{kind.__module__}.{kind.__qualname__} {digest_of(self.learned(), settings)}"

    def answer(self, batch: Batch) -> Features:
        """Return both sides of a batch; its pictures from where they are held, if nothing tunes them."""
        return self.features(batch.images) if self.tunes_vision else self.pair(self.seen(batch)["image"])

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return the named terms of the loss, weights applied; their sum is minimised."""
        return self.losses_of(self.answer(batch), batch)

    def losses_of(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the same of a batch whose `answer` is there already.

        A method writes this one, or `losses`. Only over one that writes this one can DAPT put its terms.
        """
        raise NotImplementedError(f"{type(self).__name__} tells no losses")

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Make ready for an epoch of training.

        Args:
            epoch: Counted from 0. A run that was stopped begins with any, its learned tensors as they were.
            epochs: How many there are in all.
        """

    def lay_out_others(self, names: Sequence[str], template: str) -> Rows:
        """Return names that are no classes (DAPT's backgrounds) as texts for `encode_others`.

        Args:
            names: At least one.
            template: The sentence around a name, for methods that learn no words around it.
        """
        return text_rows(self.clip, [fill(template, name) for name in names])

    def encode_others(self, rows: Rows) -> TextFeatures:
        """Return `[K, D]` raw features of such texts, with gradient to what is learned of any text."""
        with torch.no_grad():
            return encode_rows(self.clip.text, rows)

    def encode_together(self, rows: Rows, encode: Callable[[Rows], TextFeatures]) -> TextFeatures:
        """Return `encode(rows)`; where several processes train together, each encodes a part of the rows."""
        if self.spread is None or not torch.is_grad_enabled():
            return encode(rows)
        return self.spread(rows, encode)

    def averaged_over(self) -> dict[str, int]:
        """Return over how many pictures some terms of the last `losses` are means, by name.

        The others are means over all pictures of the batch, or do not depend on pictures. A term that was
        left out for want of such pictures is named too, with 0.
        """
        return {}

    def backward(self, losses: Mapping[str, Scalar]) -> None:
        """Turn the terms into gradients: those of their sum, unless a method mends them (ProGrad)."""
        torch.stack(list(losses.values())).sum().backward()

    def figures(self) -> dict[str, float]:
        """Return what an epoch of training was like, to be logged; the next epoch counts anew."""
        return {}

    def look(self, support: Support) -> None:
        """Look at all pictures before the first step; a run that goes on after a stop looks again.

        Here a method may solve for what it learns, and give learned tensors their shapes: those that follow
        from the training classes or pictures are empty until then.
        """

    def finish(self) -> None:
        """End a training: called behind its last step, or behind `look` where there are no steps."""

    def notes(self) -> list[str]:
        """Return what a person should know of the training that has just ended."""
        return []

    def caveats(self) -> list[str]:
        """Return what a person should know of answers about the names that are set."""
        return []

    def trust(self, features: Features) -> PerImage | None:
        """Return how far each answer leans on CLIP's prior, in [0, 1]; None where a method has no such."""
        return None

    def trained_names(self) -> list[str]:
        """Return those of the names asked about that were trained on."""
        return [name for name, was in zip(self.names, self.trained, strict=True) if was]

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the tensors a checkpoint holds: every parameter but CLIP's."""
        frozen = {id(p) for p in self.clip.parameters()}
        return {name: p for name, p in self.named_parameters() if id(p) not in frozen}

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the tensors that gradient steps of the next `fit` may change."""
        return {name: p for name, p in self.learned().items() if p.requires_grad}

    @torch.no_grad()
    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the tensors of a checkpoint.

        Raises:
            InputError: A tensor is missing, left over, or of another shape.
        """
        own = self.learned()
        missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        if missing or extra:
            raise InputError(f"the checkpoint does not fit the method: lacks {missing}, has besides {extra}")
        for name, parameter in own.items():
            given = tensors[name]
            if parameter.numel() == 0:  # such as follow from classes or pictures have no size before these
                parameter.data = given.to(parameter.device, parameter.dtype).clone()
            elif parameter.shape != given.shape:
                shapes = f"{list(given.shape)}, not {list(parameter.shape)}"
                raise InputError(f"{name} in the checkpoint is {shapes}: another CLIP or other settings?")
            else:
                parameter.copy_(given)
        for module in self.modules():
            if isinstance(module, Method):
                module._kept.forget()
        if self.names:  # whatever was encoded with the old tensors is stale
            self.set_classes(self.names, self.template, self.trained_names())

    def official_names(self) -> dict[str, str | list[str]]:
        """Return, per learned tensor, its name in checkpoints of the authors' code; several are stacked.

        Raises:
            InputError: Nobody has published such checkpoints.
        """
        raise InputError(f"there are no checkpoints of the authors' code of {type(self).__name__} to load")

    def load_official(self, state: Mapping[str, object]) -> None:
        """Take over a checkpoint of the authors' code; what is frozen in it is left out.

        Args:
            state: Its tensors by name, or the whole checkpoint with them under "state_dict".

        Raises:
            InputError: A tensor is missing or of another shape.
        """
        self.load_learned(official_tensors(state, self.official_names()))

    def text_features(self) -> TextFeatures:
        """Return `[C, D]` raw class features.

        With gradients on they are encoded anew, for what is learned. Else they are kept, and encoded anew
        only when names, learned tensors or the text tower are not what they were.
        """
        if torch.is_grad_enabled() and not self._text_is_constant:
            return self.encode_text()
        key = self.names, self.template, self.trained
        return self._kept.get(key, tensors_of(self, but=self.clip.vision), self.encode_text)

    @contextmanager
    def constant_text(self) -> Generator[None]:
        """Take class texts as constants inside, even where somebody turns gradients on."""
        self._text_is_constant = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._text_is_constant = False


def align(features: Features, scale: Tensor, weights: Sequence[float] = (1.0,)) -> Logits:
    """Return `scale · Σ_h w_h · cos(image_h, text)`.

    Args:
        features: Raw features of both sides; texts may be a set a picture, `[B, C, D]`.
        scale: CLIP's temperature, as the factor of cosines.
        weights: One per head to use; heads beyond them are left out.
    """
    text = F.normalize(features.text, dim=-1)
    image = F.normalize(features.image[: len(weights)], dim=-1)
    fused = image[0] if len(weights) == 1 else torch.einsum("h,hbd->bd", image.new_tensor(weights), image)
    scale = scale.to(fused.dtype)
    if text.ndim == 3:
        return scale * torch.einsum("bd,bcd->bc", fused, text)
    return scale * fused @ text.T


def encode_pictures(clip: Clip, images: Images) -> ImageFeatures:
    """Return CLIP's own raw features `[1, B, D]`, in float32 or better."""
    image = clip.vision(images)
    return image.to(torch.promote_types(image.dtype, torch.float32))[None]


def clip_origin(clip: Clip) -> Origin:
    """Return where features of `encode_pictures` come from."""
    return Origin(CLIP, 1, clip.config.embed)


def check_names(names: Sequence[str]) -> None:
    """Refuse class names that cannot be told apart.

    Raises:
        InputError: No names, an empty one, one that stands twice, or a string in place of a list.
    """
    if isinstance(names, str):
        raise InputError(f"class names are {names!r}: give a list of names, not one string")
    if not names:
        raise InputError("there are no class names: give at least one")
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"class name {name!r} is of type {type(name).__name__}: give text")
        key = " ".join(name.replace("_", " ").split()).casefold()
        if not key:
            raise InputError(f"class name {name!r} is empty: give it a word that CLIP can read")
        if key in seen:
            raise InputError(f"class names {seen[key]!r} and {name!r} are the same: rename or merge them")
        seen[key] = name


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
