"""`Method`: the base class of all methods, with its five hooks; `Wrapper` for methods over another one.

A method classifies pictures with a frozen CLIP and a few learned tensors. Optional abilities of methods
are in `capabilities.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.memory import digest_of
from foveate.methods.config import MethodConfig, Tried
from foveate.methods.texts import Cache, PlainTexts, tensors_of
from foveate.types import Batch, Branch, Features, ImageFeatures, Images, Logits, Scalar, TextFeatures


class Method(nn.Module, ABC):
    """A way to classify pictures with a frozen CLIP and a few learned tensors.

    A subclass implements up to five hooks: `set_classes`, `encode_text`, `encode_images`, `logits` and
    `losses`. Only `encode_text` has no default. Class names are not part of a checkpoint: the tensors in
    `learned` work with any list of classes.

    Attributes:
        name: Name on the command line, such as "coop".
        title: Name in tables and on pages, such as "CoOp".
        config_type: Dataclass of the settings.
        data_template: Which of a data set's sentences the method uses, if the catalogue has several.
        auto: How `--method auto` tries it; None if it does not. A plug-in is tried over the best backbone
            that it accepts.
        heads: Number of features per picture.
        tunes_vision: Whether learned tensors change the output of the image tower.
        tunes_text: Whether learned tensors change the class texts.
        takes_new_names: Whether the learned tensors can help with classes that were not trained.
        clip: The frozen towers.
        config: The settings.
        head_weights: Weights that fuse the heads in base logits; new-class logits use the first head.
        names: The current class names.
        trained: For each name, whether it was trained; only the branch "mixed" uses this.
        template: The data set's sentence, if one was given.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    config_type: ClassVar[type[MethodConfig]] = MethodConfig
    data_template: ClassVar[str] = "template"
    auto: ClassVar[Tried | None] = None
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
        """Set the class names.

        An override must first check all it needs, then call this method, and only then change its own
        state. So refused names leave the method unchanged.

        Args:
            names: Class names; an underscore counts as a space.
            template: The data set's sentence with one `{}`, for methods that use one.
            trained: The trained names; None means all of `names`.

        Raises:
            InputError: There is no name, or a name is empty, repeated, or too long for the text tower;
                the previous classes then stay.
        """
        check_names(names)
        self.clip.tokenizer.demand_distinct(names)
        trained_names = set(names if trained is None else trained)
        self.names, self.template = tuple(names), template
        self.trained = tuple(name in trained_names for name in names)

    @abstractmethod
    def encode_text(self) -> TextFeatures:
        """Return `[C, D]` raw features of the current classes, with gradient to the learned tensors."""

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return `[H, B, D]` raw features of normalised pictures, with gradient to the learned tensors.

        The default is CLIP's own image tower. A method that changes the tower sets `tunes_vision`. A
        method that adapts the features after the tower is an `ImageAdapter`.
        """
        return encode_pictures(self.clip, images)

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return `[B, C]` logits with CLIP's temperature; by default scaled cosines.

        Args:
            features: Raw features of both sides.
            branch: Label space of the class names; some methods treat trained and new classes
                differently.
        """
        return align(features, self.clip.scale, self.head_weights if branch == "base" else (1.0,))

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the named, weighted terms of the loss; by default the cross-entropy, "ce".

        Args:
            features: Both sides of the batch, as `forward` returns them.
            batch: The batch with all its frozen features; see `FrozenFeatures`.

        Returns:
            Terms of the loss; their sum is minimised, unless the method has a `GradientRule`.
        """
        return {"ce": F.cross_entropy(self.logits(features), batch.labels)}

    # --- built from the hooks ---

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        """Return picture and text features of normalised pictures; the features are not normalised.

        Args:
            images: Normalised pictures.
            branch: The only label space of the following logits; features that its logits do not need
                are left out. None computes features for all label spaces.
        """
        return self.pair(self.encode_images(images))

    def pair(self, image: ImageFeatures) -> Features:
        """Combine raw picture features with the class texts."""
        return Features(image, self.text_features())

    def forward(self, batch: Batch) -> Features:
        """Return features of a training batch; it uses frozen picture features if the tower is not tuned."""
        frozen = None if self.tunes_vision else batch.frozen.get("image")
        return self.pair(self.encode_images(batch.images) if frozen is None else frozen)

    @property
    def sees_as_clip(self) -> bool:
        """Whether `encode_images` returns the features of the unchanged CLIP."""
        return not self.tunes_vision

    def text_features(self) -> TextFeatures:
        """Return `[C, D]` raw class features.

        With gradients enabled, each call encodes the texts. Otherwise the features are cached until the
        names, the learned tensors or the text tower change.
        """
        if torch.is_grad_enabled() and not self._text_is_constant:
            return self.encode_text()
        key = self.names, self.template, self.trained
        return self._texts.get(key, tensors_of(self, but=self.clip.vision), self.encode_text)

    @contextmanager
    def constant_text(self) -> Generator[None]:
        """Inside, treat class texts as constants, even if gradients are enabled."""
        self._text_is_constant = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._text_is_constant = False

    def trained_names(self) -> list[str]:
        """Return the trained names among the current class names."""
        return [name for name, is_trained in zip(self.names, self.trained, strict=True) if is_trained]

    # --- learned tensors ---

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the tensors of a checkpoint: all parameters except CLIP's."""
        frozen = {id(p) for p in self.clip.parameters()}
        return {name: p for name, p in self.named_parameters() if id(p) not in frozen}

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the tensors that the next `fit` may change by gradient steps."""
        return {name: p for name, p in self.learned().items() if p.requires_grad}

    @torch.no_grad()
    def load_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the tensors of a checkpoint.

        Raises:
            InputError: A tensor is missing, unknown, or has another shape.
        """
        learned = self.learned()
        missing, extra = sorted(learned.keys() - tensors.keys()), sorted(tensors.keys() - learned.keys())
        if missing or extra:
            raise InputError(f"the checkpoint does not fit the method: lacks {missing}, has besides {extra}")
        for name, parameter in learned.items():
            tensor = tensors[name]
            if parameter.numel() == 0:  # its shape depends on the training data
                parameter.data = tensor.to(parameter.device, parameter.dtype).clone()
            elif parameter.shape != tensor.shape:
                shapes = f"{list(tensor.shape)}, not {list(parameter.shape)}"
                raise InputError(f"{name} in the checkpoint is {shapes}: another CLIP or other settings?")
            else:
                parameter.copy_(tensor)
        for module in self.modules():
            if isinstance(module, Method):
                module._texts.forget()
        if self.names:  # anything computed from the old tensors is stale
            self.set_classes(self.names, self.template, self.trained_names())

    def digest(self) -> str:
        """Return the method's class and 16 hex digits: a hash of its settings and learned tensors."""
        kind, settings = type(self), repr(getattr(self, "config", None))
        return f"{kind.__module__}.{kind.__qualname__} {digest_of(self.learned(), settings)}"


class SentenceMethod(Method):
    """A method that puts each class name into a sentence.

    By default CLIP's features of these sentences are its class texts.

    Attributes:
        plain: Encoder of the sentences with CLIP's text tower; set in `__init__`.
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

    def text_drift(self, features: Features) -> Scalar:
        """Return 1 − the mean cosine of the class texts and CLIP's own."""
        return 1 - F.cosine_similarity(features.text, self.plain.features(), dim=-1).mean()


class Wrapper(Method):
    """A method over another method, its host. Hooks that it does not override are the host's.

    Args:
        host: The wrapped method.

    Attributes:
        joint: Whether host and wrapper are trained together, in one stage; otherwise the host is tuned
            before and frozen here.
        outermost: Whether no other method can wrap it.
        host: The wrapped method.

    Raises:
        InputError: The wrapper does not work with this host.
    """

    joint: ClassVar[bool] = True
    outermost: ClassVar[bool] = False

    def __init__(self, host: Method):
        self.check_host(type(host).__name__, host)
        super().__init__(host.clip, host.head_weights)
        self.tunes_vision = self.joint and host.tunes_vision
        self.tunes_text, self.takes_new_names = host.tunes_text, host.takes_new_names
        self.names, self.template, self.trained = host.names, host.template, host.trained
        self.host = host if self.joint else host.requires_grad_(False).eval()

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host that this wrapper does not work with.

        Args:
            name: Name of the wrapper in messages.
            host: The host, or its class before it is built.

        Raises:
            InputError: The host is refused; the message gives the reason and an alternative.
        """

    def train(self, mode: bool = True) -> "Wrapper":
        """Set the training mode; a frozen host stays in evaluation mode."""
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
        return self.synced_host().encode_text()

    def text_features(self) -> TextFeatures:
        return self.synced_host().text_features()  # the host caches them

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.host.encode_images(images)

    def pair(self, image: ImageFeatures) -> Features:
        return self.synced_host().pair(image)

    def forward(self, batch: Batch) -> Features:
        """Return features of a training batch; if the host is trained too, by the host's `forward`."""
        return self.synced_host()(batch) if self.joint else super().forward(batch)

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

    def synced_host(self) -> Method:
        """Return the host after setting this method's classes; another caller may have set others."""
        classes = self.names, self.template, self.trained
        if classes != (self.host.names, self.host.template, self.host.trained):
            self.host.set_classes(self.names, self.template, self.trained_names())
        return self.host


def is_kind(host: Method | type[Method], *kinds: type[Method]) -> bool:
    """Return whether a method, or a class of methods, has one of these types."""
    return issubclass(host if isinstance(host, type) else type(host), kinds)


def align(features: Features, scale: Tensor, weights: Sequence[float] = (1.0,)) -> Logits:
    """Return `scale · Σ_h w_h · cos(image_h, text)`.

    Args:
        features: Raw features of pictures and texts; texts may be `[B, C, D]`, one set per picture.
        scale: CLIP's temperature, as a factor of the cosines.
        weights: One weight per head; heads without a weight are left out.
    """
    text = F.normalize(features.text, dim=-1)
    image = features.image[: len(weights)]
    fused = F.normalize(image, dim=-1)[0] if len(weights) == 1 else fuse_heads(image, weights)
    scale = scale.to(fused.dtype)
    if text.ndim == 3:
        return scale * torch.einsum("bd,bcd->bc", fused, text)
    return scale * fused @ text.T


def fuse_heads(image: ImageFeatures, weights: Sequence[float]) -> Float[Tensor, "batch dim"]:
    """Return `Σ_h w_h · image_h / |image_h|` of raw features, as in base logits."""
    return torch.einsum("h,hbd->bd", image.new_tensor(weights), F.normalize(image, dim=-1))


def encode_pictures(clip: Clip, images: Images) -> ImageFeatures:
    """Return CLIP's own raw features `[1, B, D]`, in float32 or better."""
    return precise(clip.vision(images))[None]


def precise(values: Tensor) -> Tensor:
    """Return values in float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_names(names: Sequence[str]) -> None:
    """Refuse an unusable list of class names.

    Raises:
        InputError: There is no name, a name is empty or repeated, or `names` is a string instead of a
            list.
    """
    if isinstance(names, str):
        raise InputError(f"class names are {names!r}: give a list of names, not one string")
    if not names:
        raise InputError("there are no class names: give at least one")
    names_by_key: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"class name {name!r} is of type {type(name).__name__}: give text")
        key = " ".join(name.replace("_", " ").split()).casefold()
        if not key:
            raise InputError(f"class name {name!r} is empty: give it a word that CLIP can read")
        if key in names_by_key:
            raise InputError(
                f"class names {names_by_key[key]!r} and {name!r} are the same: rename or merge them"
            )
        names_by_key[key] = name
