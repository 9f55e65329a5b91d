"""Tip-Adapter: a cache of the training pictures' features; each picture is compared with all of them.

f is a unit feature of a picture, K `[N, D]` the keys (unit features of the training pictures), V their
labels, one-hot: logits = τ f Wᵀ + α exp(−β (1 − f Kᵀ)) V, where τ is CLIP's temperature.

- [0]: Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, Zhang et al. 2022,
  https://arxiv.org/abs/2207.09519
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.methods.capabilities import SupportSet
from foveate.methods.config import Tried
from foveate.methods.configs import TipAdapterConfig
from foveate.methods.known import KnownClasses, PictureFeatures, fixed
from foveate.types import Labels, Logits

BETAS = torch.logspace(-1, 1.7, 200).tolist()
ALPHAS = torch.logspace(-1, 1.7, 20).tolist()
"""Values tried on validation pictures, 0.1 to 50: they cover all configurations of the authors."""


class TipAdapter(KnownClasses):
    """A cache of training pictures, training-free or with learned keys.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Not used: there are no random initial values.

    Attributes:
        keys: `[N, D]`, one key per training picture; empty before training.
        owners: `[N]` class of each key, as an index of `known`.
        alpha: The weight α in use.
        beta: The sharpness β in use.
    """

    name, title, config_type = "tip_adapter", "Tip-Adapter", TipAdapterConfig
    auto = Tried(rank=1, settings=({}, {"alpha": 5.0}, {"beta": 5.5}, {"alpha": 5.0, "beta": 5.5}))

    def __init__(
        self, clip: Clip, config: TipAdapterConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config = config or TipAdapterConfig()
        super().__init__(clip, self.config.template)
        self.passes = self.config.views
        device = clip.logit_scale.device
        self.keys = fixed(torch.empty(0, clip.config.embed, device=device), learns=self.config.tuned)
        self.owners = fixed(torch.empty(0, device=device))
        self.alpha = fixed(torch.tensor(self.config.alpha, device=device))
        self.beta = fixed(torch.tensor(self.config.beta, device=device))
        self._val: PictureFeatures | None = None

    def classes_learned(self) -> int:
        return int(self.owners.max()) + 1 if len(self.owners) else 0

    def known_logits(self, image: Tensor, zero_shot: Logits, rows: Sequence[int]) -> Logits:
        """Return the sum of CLIP's logits and those of the cached pictures ([0], Eq. 6)."""
        shares = self._shares(self._closeness(image), self.beta.to(image.dtype))
        return zero_shot + self.alpha.to(image.dtype) * shares[:, list(rows)]

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Compute the keys: means of raw features over the views, normalised to unit length ([0], Eq. 2)."""
        first = self.collect(support.train(0))
        total, labels = first.image[0].clone(), first.labels
        for epoch in range(1, self.config.views):
            view = self.collect(support.train(epoch))
            if not torch.equal(view.labels, labels):
                raise ValueError("passes over the training pictures must all have the same order")
            total += view.image[0]
        self.keys, self.owners = fixed(F.normalize(total, dim=-1), learns=self.config.tuned), fixed(labels)
        self.alpha.fill_(self.config.alpha)
        self.beta.fill_(self.config.beta)
        self.known = self.names
        self._val = self.collect(support.val) if self.config.validate else None

    def finish(self) -> None:
        """Choose α and β on the validation pictures, if any: best accuracy, then lowest cross-entropy."""
        val, self._val, self._warnings = self._val, None, []
        if val is None:
            return
        if not len(val.labels):
            self._warnings = [
                "the data has no validation pictures to choose on: alpha and beta are the settings' own"
            ]
            return
        self._choose(val.image[0], val.labels)

    @torch.no_grad()
    def _choose(self, image: Tensor, labels: Labels) -> None:
        unit = F.normalize(image, dim=-1)
        zero_shot = self.zero_shot(image[None])
        closeness, best = self._closeness(unit), (-1.0, 0.0)
        for beta in BETAS:
            shares = self._shares(closeness, closeness.new_tensor(beta))
            for alpha in ALPHAS:
                logits = zero_shot + alpha * shares
                accuracy = (logits.argmax(dim=-1) == labels).float().mean().item()
                score = accuracy, -F.cross_entropy(logits, labels).item()
                if score > best:
                    best = score
                    self.alpha.fill_(alpha)
                    self.beta.fill_(beta)

    def _closeness(self, image: Tensor) -> Tensor:
        """Return `[B, N]` cosines of pictures and keys."""
        return image @ self.keys.to(image.dtype).T

    def _shares(self, closeness: Tensor, beta: Tensor) -> Tensor:
        """Return `[B, K]` contributions of the cached pictures of each class."""
        owners = F.one_hot(self.owners.long(), self.classes_learned())
        # A matrix product instead of index_add: on a GPU the order of additions in index_add, and so the
        # bits, may vary.
        return (beta * (closeness - 1)).exp() @ owners.to(closeness.dtype)
