"""Counterfactual calibration: what a picture's object says on other grounds, less what a ground says alone.

f, o and c are raw features of a test picture, of its region alone and of the rest alone; z(·) are the host's
logits; ō has unit length; c_k are unit features of the rest of K training pictures.

    (1)  f_k = ō + c_k                                the object, recombined with another context
    (2)  TDE = z(f) − λ z(c)                          the total direct effect: without what the context says
    (3)  TDE' = (1/K) Σ_k (z(f_k) − λ z(c_k))         the same, of the recombined features
    (4)  (1 − w) TDE + w TDE'

The paper has the idea: features of object and context recombined, the effect of the context alone subtracted,
both effects blended. The equations are our reading of its abstract; its own were not at hand, nor code.

- [0]: Representation-Level Counterfactual Calibration for Debiased Zero-Shot Recognition, Peng et al. 2025,
  https://arxiv.org/abs/2510.26466
"""

import torch
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.foreground.views import background_view, foreground_view
from foveate.methods.base import Method, is_kind
from foveate.methods.capabilities import (
    ClosedForm,
    ImageAdapter,
    PriorBranch,
    RegionEncoder,
    SupportSet,
    capability,
)
from foveate.methods.configs import CounterfactualConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, extract, frozen_area, frozen_image
from foveate.methods.known import fixed
from foveate.types import Branch, Features, ImageFeatures, Images, Logits, Masks


class Counterfactual(RegionEncoder, ClosedForm, FrozenFeatures):
    """Calibration of a tuned host's answers, or of CLIP's, by a mask of each test picture.

    Args:
        host: A tuned method; its texts and its towers stay.
        config: Settings.
        generator: Not used: nothing is random.

    Attributes:
        contexts: c_k `[H, K, D]`; empty before training.

    Raises:
        InputError: The host asks CLIP about the whole picture too, or a setting is out of range.
    """

    name, title, config_type = "counterfactual", "Counterfactual", CounterfactualConfig
    region_views = 3

    def __init__(
        self,
        host: Method,
        config: CounterfactualConfig | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__(host)
        self.config = config or CounterfactualConfig()
        self.contexts = fixed(torch.empty(0, device=self.clip.logit_scale.device))
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host that asks CLIP about the whole picture besides."""
        if is_kind(host, PriorBranch):
            raise InputError(
                f"counterfactual: {name} also asks CLIP about the whole picture, with its background: take"
                " the method under it as the host, such as coop"
            )

    def encode_region(self, images: Images, masks: Masks) -> ImageFeatures:
        """Return `[3H, B, D]` raw features: f, o, and c; o and c are 0 where a mask is empty."""
        size, fill = self.clip.config, self.config.fill
        there = masks.flatten(1).any(1)
        views = [cut(images, masks, fill, size.mean, size.std) for cut in (foreground_view, background_view)]
        parts = [self.encode_images(view) * there[:, None] for view in views]
        return torch.cat([self.encode_images(images), *parts])

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return Eq. 4 of features with a region, and the host's logits of others."""
        f, *parts = features.image.split(len(self.head_weights))

        def z(image: ImageFeatures) -> Logits:
            return self.host.logits(Features(image, features.text), branch)

        full = z(f)
        if not parts:
            return full
        o, c = parts
        share, w = self.config.subtract, self.config.mix
        effect = full - share * z(c)
        other = z(o)
        if self.contexts.numel():
            unit, contexts = F.normalize(o, dim=-1), self.contexts.to(o.dtype)
            each = [
                z(unit + ground) - share * z(ground.expand_as(unit))
                for ground in contexts[:, :, None].unbind(1)
            ]
            other = torch.stack(each).mean(dim=0)
        there = o.any(-1).any(0)[:, None]  # the mask is not empty
        return torch.where(there, (1 - w) * effect + w * other, full)

    # --- contexts ---

    def frozen(self) -> dict[str, Frozen]:
        """Declare `background` of the host `[H, B, D]`, and `area` `[1, B, 1]`, if contexts are wanted."""
        if not self.config.contexts:
            return {}
        background = frozen_image(self.host).of("background", self.config.fill)
        return {"background": background, "area": frozen_area()}

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Keep c_k: of as many pictures as are wanted, evenly spread over those with object and ground.

        Raises:
            InputError: No picture has both.
        """
        if not self.config.contexts:
            return
        seen = [batch.frozen | extract(self, batch) for batch in support.train(0)]
        grounds, areas = (torch.cat([one[name] for one in seen], dim=1) for name in ("background", "area"))
        usable = ((areas[0, :, 0] > 0) & (areas[0, :, 0] < 1)).nonzero()[:, 0]
        if not len(usable):
            raise InputError(
                "counterfactual: every mask is empty or full, so that no picture lends its ground: give masks"
                " of the objects, or contexts=0"
            )
        wanted = min(self.config.contexts, len(usable))
        chosen = grounds[:, usable[torch.arange(wanted) * len(usable) // wanted]]
        adapter = capability(self.host, ImageAdapter)
        self.contexts = fixed(F.normalize(adapter.adapt(chosen) if adapter else chosen, dim=-1))
