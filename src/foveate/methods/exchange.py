"""Exchange: learn from objects on exchanged grounds, and separate what a picture shows from where.

x is a picture, x' its object on the ground of a picture of another class (`foveate.foreground.views`), f
and f' the frozen host's raw features of the two, t_c its class texts, z(f, t) its logits, f̄ and t̄ features of
unit length. The equations are ours; the page of the method, docs/methods/exchange.md, has them too.

Trained classes. Low-rank maps A of both sides are learned on both views:

    (1)  ẑ(f) = z(f̄ + A_f f̄, t̄ + A_t t̄)
    (2)  L = ½ Σ_{f, f'} CE(ẑ, y) + λ ½ Σ_{f, f'} CE(p̄, ẑ),   p̄ = softmax((z(f, t) + z(f', t)) / 2τ)

p̄ is the host's consensus over two grounds, their geometric mean; λ is 0 by default.

New classes. The few directions U in which grounds move features tell *where* a picture was taken:

    (3)  U = top k eigenvectors of Σ d dᵀ,  d = f̄_j − mean_j f̄_j over the grounds j of an object, with its own
    (4)  f_P = f̄ − U Uᵀ (f̄ − μ)                                           what, without where
    (5)  z_new = α z(f, t̃) + (1 − α) z(f_P, t̃),  t̃ = (1 − w) t̄ + w t̄_CLIP

α = 1 gives the host's logits, with texts mixed with CLIP's; α = 0 removes the ground.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.methods.base import Method, is_kind
from foveate.methods.capabilities import ClosedForm, FrozenHost, PriorTexts, SupportSet
from foveate.methods.configs import ExchangeConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, extract, frozen_image
from foveate.methods.guidance import route
from foveate.methods.known import KnownClasses, exact, fixed
from foveate.methods.texts import PlainTexts, unit_mean
from foveate.seeds import stream
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Labels,
    Logits,
    Scalar,
    TextFeatures,
)

Axes = Float[Tensor, "heads dim axes"]
Centre = Float[Tensor, "heads dim"]

MOST_AXES = 16
"""Largest number of directions that is tried when it is chosen."""

_MIN_EIGENVALUE = 1e-6
"""Share of the largest eigenvalue below which a direction counts as not moved by exchanges."""


class LowRankMap(nn.Module):
    """x + A x̄ with A of low rank; it starts as x.

    Args:
        dim: Length of a feature.
        rank: Rank of A.
        generator: Random generator of the initial values.
    """

    def __init__(self, dim: int, rank: int, generator: torch.Generator):
        super().__init__()
        self.down = nn.Parameter(torch.randn(dim, rank, generator=generator) / dim**0.5)
        self.up = nn.Parameter(torch.zeros(rank, dim))

    def forward(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
        """Return the mapped unit features, Eq. 1."""
        unit = F.normalize(x, dim=-1)
        return unit + (unit.to(self.down.dtype) @ self.down @ self.up).to(unit.dtype)


@dataclass(frozen=True)
class Grounds:
    """Directions in which exchanges move features.

    Attributes:
        axes: U `[H, D, k]`, the direction that moves most first.
        centre: μ `[H, D]`, the mean unit feature over pictures and grounds.
    """

    axes: Axes
    centre: Centre

    def without(self, image: ImageFeatures) -> ImageFeatures:
        """Return f_P (Eq. 4) `[H, B, D]` of raw features."""
        unit = F.normalize(image, dim=-1)
        coordinates = torch.einsum("hbd,hdk->hbk", unit - self.centre[:, None], self.axes)
        return unit - torch.einsum("hbk,hdk->hbd", coordinates, self.axes)

    def first(self, axes: int) -> "Grounds":
        """Return the same with only the first directions."""
        return Grounds(self.axes[..., :axes], self.centre)


@dataclass(frozen=True)
class SupportFeatures:
    """The host's features of the support pictures.

    Attributes:
        image: `[H, N, D]` raw features of the pictures.
        exchanged: `[J, H, N, D]` raw features of their objects on J other grounds.
        labels: `[N]`.
    """

    image: ImageFeatures
    exchanged: Float[Tensor, "grounds heads pictures dim"]
    labels: Labels

    def rows(self, rows: Tensor) -> "SupportFeatures":
        """Return some of the pictures."""
        return SupportFeatures(self.image[:, rows], self.exchanged[:, :, rows], self.labels[rows])


class Exchange(PriorTexts, FrozenHost, ClosedForm, FrozenFeatures):
    """Learns from exchanged grounds, over a tuned host; a prediction needs only the host's pass.

    Args:
        host: A tuned method; it is frozen here.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Attributes:
        image_map: A_f of Eq. 1.
        text_map: A_t.
        axes: U `[H, D, k]` of Eq. 3; empty before training.
        centre: μ `[H, D]`, likewise.

    Raises:
        InputError: The host learns rows of its classes, or a setting is out of its range.
    """

    name, title, config_type = "exchange", "Exchange", ExchangeConfig

    def __init__(
        self, host: Method, config: ExchangeConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config or ExchangeConfig()
        generator = generator or stream(0, "init", "exchange")
        device, dim = self.clip.logit_scale.device, self.clip.config.embed
        self.image_map = LowRankMap(dim, self.config.rank, generator).to(device)
        self.text_map = LowRankMap(dim, self.config.rank, generator).to(device)
        self.axes, self.centre = (fixed(torch.empty(0, device=device)) for _ in range(2))
        self.passes = self.config.views
        self.plain = [PlainTexts(self.clip, template) for template in self.config.prior_templates or (None,)]
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host whose logits are not cosines of features that can be mapped."""
        if is_kind(host, KnownClasses):
            raise InputError(
                f"exchange: {name} learns rows of its training classes, and Exchange maps features of"
                " pictures and texts: take a host whose answers are cosines of these, such as coop"
            )

    # --- classes and texts ---

    @property
    def prior_texts(self) -> Sequence[PlainTexts]:
        return self.plain if self.config.prior else []

    @property
    def mixed_weight(self) -> float:
        return self.config.mixed_weight

    def _mixed_texts(self, features: Features) -> TextFeatures:
        """Return t̃ of Eq. 5: the host's texts, mixed with CLIP's own."""
        host_text, w = F.normalize(features.text, dim=-1), self.config.prior
        if not self.prior_texts:
            return host_text
        prior = unit_mean(self.prior_texts) if features.prior is None else features.prior.text
        return (1 - w) * host_text + w * prior.to(host_text.dtype)

    # --- predictions ---

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return ẑ for trained classes, z_new for new ones, and for both together a mixture of the two."""
        if branch == "base":
            return self._base(features)
        new = self._new(features)
        if branch == "new":
            return new
        trained = torch.tensor(self.trained, device=new.device)
        return route(self._base(features), new, trained, self.mixed_weight)

    def _base(self, features: Features) -> Logits:
        """Return ẑ, Eq. 1."""
        mapped = Features(self.image_map(features.image), self.text_map(features.text))
        return self.host.logits(mapped, "base")

    @torch.no_grad()
    def _new(self, features: Features) -> Logits:
        """Return z_new, Eq. 5; before training, the host's logits with the texts t̃."""
        text = self._mixed_texts(features)
        full = self.host.logits(Features(features.image, text), "new")
        if not self.axes.numel():
            return full
        grounds = Grounds(self.axes.to(full.dtype), self.centre.to(full.dtype))
        without_ground = self.host.logits(Features(grounds.without(features.image), text), "new")
        return self.config.where * full + (1 - self.config.where) * without_ground

    # --- training ---

    def frozen(self) -> dict[str, Frozen]:
        """Declare `image` and `exchanged` of the host, raw features `[H, B, D]`."""
        image = frozen_image(self)
        return {"image": image, "exchanged": image.exchanged()}

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the terms of Eq. 2: "ce" and "consensus"."""
        views = features, self.pair(batch.frozen["exchanged"])
        with torch.no_grad():
            host_logits = torch.stack([self.host.logits(view, "base") for view in views])
            consensus = (host_logits.mean(dim=0) / self.config.tau).softmax(dim=-1)
        mapped = [self._base(view) for view in views]
        losses = {"ce": torch.stack([F.cross_entropy(logits, batch.labels) for logits in mapped]).mean()}
        if self.config.consensus:
            soft = torch.stack([F.cross_entropy(logits, consensus) for logits in mapped]).mean()
            losses["consensus"] = self.config.consensus * soft
        return losses

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Solve for U (Eq. 3) and μ.

        Raises:
            InputError: No exchange moves a feature, or they move features along fewer directions than `axes`.
        """
        features = self._collect(support)
        axes = self.config.axes or self._chosen(features)
        grounds = _solve(features, axes)
        self.axes, self.centre = fixed(grounds.axes), fixed(grounds.centre)

    def _collect(self, support: SupportSet) -> SupportFeatures:
        image, labels, exchanged = list[Tensor](), list[Tensor](), list[Tensor]()
        for epoch in range(self.passes):
            views: list[Tensor] = []
            for batch in support.train(epoch):
                frozen = batch.frozen | extract(self, batch)
                views.append(frozen["exchanged"])
                if epoch == 0:
                    image.append(frozen["image"])
                    labels.append(batch.labels)
            exchanged.append(torch.cat(views, dim=1))
        return SupportFeatures(torch.cat(image, dim=1), torch.stack(exchanged), torch.cat(labels))

    def _chosen(self, features: SupportFeatures) -> int:
        """Return the k with the most correct predictions for exchanges of held-out classes.

        U of the odd classes is tested on the even ones, and the reverse. With fewer than four classes, a half
        can have a single class; then U is computed and tested on all pictures.
        """
        odd = features.labels % 2 == 1
        few = len(self.names) < 4
        folds = [(odd | True, odd | True)] if few else [(odd, ~odd), (~odd, odd)]
        fits = [(_solve(features.rows(train)), features.rows(held_out)) for train, held_out in folds]
        most = min(MOST_AXES, *(grounds.axes.shape[-1] for grounds, _ in fits))
        scores = [
            sum(self._correct(fit.first(axes), test) for fit, test in fits) for axes in range(1, most + 1)
        ]
        return 1 + max(range(most), key=scores.__getitem__)

    def _correct(self, grounds: Grounds, features: SupportFeatures) -> int:
        """Count the correct predictions for exchanges, among their classes, without these directions."""
        classes, labels = features.labels.unique(return_inverse=True)
        correct = 0
        for image in features.exchanged:
            text = self._mixed_texts(self.pair(image))[..., classes, :]
            logits = self.host.logits(Features(grounds.without(image), text), "new")
            correct += int((logits.argmax(dim=-1) == labels).sum())
        return correct


def _solve(features: SupportFeatures, axes: int | None = None) -> Grounds:
    """Solve Eq. 3 for these pictures; keep the first `axes` directions, or all that exchanges move."""
    unit = exact(F.normalize(torch.cat([features.image[None], features.exchanged]), dim=-1))
    moved = unit - unit.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.einsum("jhnd,jhne->hde", moved, moved))
    values, vectors = values.flip(-1), vectors.flip(-1)
    moving = values > _MIN_EIGENVALUE * values[:, :1].clamp(min=1e-6)
    rank = int(moving.sum(dim=-1).min())
    if not rank:
        raise InputError(
            "exchange: no exchange moves a feature: masks are empty, or all pictures have one ground;"
            " give masks of the objects, and pictures on more than one ground"
        )
    if axes is not None and axes > rank:
        raise InputError(
            f"exchange: axes is {axes}, but these exchanges move features along {rank} directions:"
            f" give {rank} at most, leave it out to have it chosen, or raise views"
        )
    chosen, centre = vectors[..., : axes or rank], unit.mean(dim=(0, 2))
    return Grounds(*(tensor.to(features.image.device, features.image.dtype) for tensor in (chosen, centre)))
