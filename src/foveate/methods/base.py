"""What a method is: five hooks, and the few lines that all methods share.

A method classifies pictures with a frozen CLIP and a few learned tensors. What only a few methods need is in
`capabilities.py`; a method over another one is a `Wrapper`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.config import MethodConfig
from foveate.methods.texts import Cache, PlainTexts, tensors_of
from foveate.tensor_bytes import digest_of
from foveate.types import Batch, Branch, Features, ImageFeatures, Images, Logits, Scalar, TextFeatures


class Method(nn.Module, ABC):
    """A way to classify pictures with a frozen CLIP and a few learned tensors.

    A method writes up to five hooks: `set_classes`, `encode_text`, `encode_images`, `logits` and `losses`.
    Only `encode_text` has no default. Class names never reach a checkpoint: `learned` has tensors that any
    class list can follow.

    Attributes:
        name: What the command line calls the method, such as "coop".
        title: What tables and pages call it, such as "CoOp".
        config_type: Its settings' dataclass.
        data_template: Which of a catalogue's sentences for a data set it takes, where that has several.
        heads: How many features it has of a picture.
        tunes_vision: Whether learned tensors change what the image tower says.
        tunes_text: Whether they change the class texts.
        takes_new_names: Whether it learns anything that helps with classes it was not trained on.
        clip: The frozen towers.
        config: The settings.
        head_weights: How base logits fuse the heads of an image feature; new-class logits use the first.
        names: The class names asked about at the moment.
        trained: Of each name, whether it was trained on; matters to the branch "mixed" alone.
        template: The data set's sentence, if one was given.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    config_type: ClassVar[type[MethodConfig]] = MethodConfig
    data_template: ClassVar[str] = "template"
    heads: ClassVar[int] = 1
    tunes_vision: bool = False
    tunes_text: bool = True
    takes_new_names: bool = True

    def __init__(self, clip: Clip, head_weights: Sequence[float] = (1.0,)):
        super().__init__()
        self.clip = clip.requires_grad_(False).eval()
        self.head_weights = tuple(head_weights)
        self.names: tuple[str, ...] = ()
        self.trained: tuple[bool, ...] = ()
        self.template: str | None = None
        self._texts = Cache()
        self._text_is_constant = False

    # --- the five hooks ---

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        """Choose the classes to tell apart.

        Who overrides this first checks all that it needs, then calls it, and only then changes anything of
        its own: names that are refused leave a method as it was.

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
        self.names, self.template = tuple(names), template
        self.trained = tuple(name in known for name in names)

    @abstractmethod
    def encode_text(self) -> TextFeatures:
        """Return `[C, D]` raw features of the classes that are set, with gradient to what is learned."""

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return `[H, B, D]` raw features of normalised pictures, with gradient to what is learned.

        By default CLIP's own. A method with another image tower sets `tunes_vision`; one whose learned part
        stands behind CLIP's tower is an `ImageAdapter`.
        """
        return encode_pictures(self.clip, images)

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return `[B, C]` logits, CLIP's temperature applied; by default of cosines.

        Args:
            features: Raw features of both sides.
            branch: Which label space is asked about; it matters to methods that treat trained and new classes
                differently.
        """
        return align(features, self.clip.scale, self.head_weights if branch == "base" else (1.0,))

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the named terms of the loss, weights applied; by default the cross-entropy, "ce".

        Args:
            features: Both sides of the batch, as `forward` returns them.
            batch: With all of its frozen features; see `FrozenFeatures`.

        Returns:
            Terms whose sum is minimised, but for a `GradientRule`.
        """
        return {"ce": F.cross_entropy(self.logits(features), batch.labels)}

    # --- what they are made into ---

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        """Return both sides for normalised pictures, before normalisation of the features.

        Args:
            images: Normalised pictures.
            branch: Which label space they will be asked about, if no other: what its logits do not need is
                then left out. None serves all.
        """
        return self.pair(self.encode_images(images))

    def pair(self, image: ImageFeatures) -> Features:
        """Put raw picture features beside the class texts."""
        return Features(image, self.text_features())

    def forward(self, batch: Batch) -> Features:
        """Return both sides of a training batch; pictures from its frozen features, if nothing tunes them."""
        held = None if self.tunes_vision else batch.frozen.get("image")
        return self.pair(self.encode_images(batch.images) if held is None else held)

    @property
    def sees_as_clip(self) -> bool:
        """Whether `encode_images` says what the untouched CLIP says."""
        return not self.tunes_vision

    def text_features(self) -> TextFeatures:
        """Return `[C, D]` raw class features.

        With gradients on they are encoded anew, for what is learned. Else they are cached, and encoded anew
        only when names, learned tensors or the text tower are not what they were.
        """
        if torch.is_grad_enabled() and not self._text_is_constant:
            return self.encode_text()
        key = self.names, self.template, self.trained
        return self._texts.get(key, tensors_of(self, but=self.clip.vision), self.encode_text)

    @contextmanager
    def constant_text(self) -> Generator[None]:
        """Take class texts as constants inside, even where somebody turns gradients on."""
        self._text_is_constant = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._text_is_constant = False

    def trained_names(self) -> list[str]:
        """Return those of the names asked about that were trained on."""
        return [name for name, was in zip(self.names, self.trained, strict=True) if was]

    # --- learned tensors ---

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
                module._texts.forget()
        if self.names:  # whatever was made of the old tensors is stale
            self.set_classes(self.names, self.template, self.trained_names())

    def digest(self) -> str:
        """Return the kind of method and 16 hex digits that name its settings and learned tensors."""
        kind, settings = type(self), repr(getattr(self, "config", None))
        return f"{kind.__module__}.{kind.__qualname__} {digest_of(self.learned(), settings)}"


class SentenceMethod(Method):
    """A method that needs each class name in a sentence.

    By default the sentences, read by CLIP, are its class texts.

    Attributes:
        plain: CLIP's own texts of the classes; set in `__init__`.
    """

    plain: PlainTexts

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        check_names(names)
        self.plain.check(names, template)
        super().set_classes(names, template, trained)
        self.plain.set_classes(names, template)

    def encode_text(self) -> TextFeatures:
        return self.plain.features()


class Wrapper(Method):
    """A method over another one, its host; all hooks that it does not write are the host's.

    Args:
        host: The method below.

    Attributes:
        joint: Whether the host is trained together with it, in one stage; else it was tuned before, and is
            frozen here.
        host: See above.

    Raises:
        InputError: It cannot stand on this host.
    """

    joint: ClassVar[bool] = True

    def __init__(self, host: Method):
        self.check_host(type(host).__name__, host)
        super().__init__(host.clip, host.head_weights)
        self.tunes_vision = self.joint and host.tunes_vision
        self.tunes_text, self.takes_new_names = host.tunes_text, host.takes_new_names
        self.host = host if self.joint else host.requires_grad_(False).eval()

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host that this wrapper cannot stand on.

        Args:
            name: What messages call it.
            host: It, or its class, before anything is built.

        Raises:
            InputError: It is such a one; the message says why, and what to take.
        """

    def train(self, mode: bool = True) -> "Wrapper":
        """Set the training mode; a host that is frozen stays as it was tuned."""
        super().train(mode)
        if not self.joint:
            self.host.eval()
        return self

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        self.host.set_classes(names, template, trained)
        super().set_classes(names, template, trained)

    def encode_text(self) -> TextFeatures:
        return self.asked_host().encode_text()

    def text_features(self) -> TextFeatures:
        return self.asked_host().text_features()  # which caches them

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.host.encode_images(images)

    def pair(self, image: ImageFeatures) -> Features:
        return self.asked_host().pair(image)

    def forward(self, batch: Batch) -> Features:
        """Return both sides of a training batch; as the host does where it is trained too."""
        return self.asked_host()(batch) if self.joint else super().forward(batch)

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        return self.host.logits(features, branch)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        return self.host.losses(features, batch)

    @property
    def sees_as_clip(self) -> bool:
        return self.host.sees_as_clip

    @contextmanager
    def constant_text(self) -> Generator[None]:
        with super().constant_text(), self.host.constant_text():
            yield

    def asked_host(self) -> Method:
        """Return the host with this method's classes: somebody else may have asked it about others."""
        own = self.names, self.template, self.trained
        if own != (self.host.names, self.host.template, self.host.trained):
            self.host.set_classes(self.names, self.template, self.trained_names())
        return self.host


def is_kind(host: Method | type[Method], *kinds: type[Method]) -> bool:
    """Return whether a method, or a class of methods, is of one of these kinds."""
    return issubclass(host if isinstance(host, type) else type(host), kinds)


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
    return precise(clip.vision(images))[None]


def precise(values: Tensor) -> Tensor:
    """Return values in float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
