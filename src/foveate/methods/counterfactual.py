"""Counterfactual calibration: logits of the object in other contexts, minus those of the context alone.

f, o and c are raw features of a test picture, of its region alone and of the rest alone; z(·) are the host's
logits; ō has unit length; c_k are unit features of the backgrounds of K training pictures.

    (1)  f_k = ō + c_k                                the object, recombined with another context
    (2)  TDE = z(f) − λ z(c)                          the total direct effect: without the context's share
    (3)  TDE' = (1/K) Σ_k (z(f_k) − λ z(c_k))         the same, of the recombined features
    (4)  (1 − w) TDE + w TDE'

The idea is the paper's: recombine features of object and context, subtract the effect of the context alone,
and blend both effects. The equations are our reading of its abstract; neither its own nor code was available.

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
    """Calibration of the logits of a tuned host, or of CLIP, with a mask of each test picture.

    Args:
        host: A tuned method; its texts and towers do not change.
        config: Settings.
        generator: Not used: nothing is random.

    Attributes:
        contexts: c_k `[H, K, D]`; empty before training.

    Raises:
        InputError: The host also uses CLIP's prior for the whole picture, or a setting is out of range.
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

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host that also uses CLIP's prior for the whole picture."""
        if is_kind(host, PriorBranch):
            raise InputError(
                f"counterfactual: {name} also asks CLIP about the whole picture, with its background: take"
                " the method under it as the host, such as coop"
            )

    def encode_region(self, images: Images, masks: Masks) -> ImageFeatures:
        """Return `[3H, B, D]` raw features: f, o, and c; o and c are 0 where a mask is empty."""
        clip_config, fill = self.clip.config, self.config.fill
        has_region = masks.flatten(1).any(1)
        views = [
            cut(images, masks, fill, clip_config.mean, clip_config.std)
            for cut in (foreground_view, background_view)
        ]
        parts = [self.encode_images(view) * has_region[:, None] for view in views]
        return torch.cat([self.encode_images(images), *parts])

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        """Return Eq. 4 for features with a region, and the host's logits for others."""
        f, *parts = features.image.split(len(self.head_weights))

        def z(image: ImageFeatures) -> Logits:
            return self.host.logits(Features(image, features.text), branch)

        full = z(f)
        if not parts:
            return full
        o, c = parts
        subtract, w = self.config.subtract, self.config.mix
        effect = full - subtract * z(c)
        recombined = z(o)
        if self.contexts.numel():
            unit, contexts = F.normalize(o, dim=-1), self.contexts.to(o.dtype)
            effects = [
                z(unit + context) - subtract * z(context.expand_as(unit))
                for context in contexts[:, :, None].unbind(1)
            ]
            recombined = torch.stack(effects).mean(dim=0)
        has_region = o.any(-1).any(0)[:, None]  # the mask is not empty
        return torch.where(has_region, (1 - w) * effect + w * recombined, full)

    # --- contexts ---

    def frozen(self) -> dict[str, Frozen]:
        """Declare the host's `background` `[H, B, D]`, and `area` `[1, B, 1]`, if there are contexts."""
        if not self.config.contexts:
            return {}
        background = frozen_image(self.host).of("background", self.config.fill)
        return {"background": background, "area": frozen_area()}

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Compute c_k of `contexts` pictures, evenly spread over those with an object and a background.

        Raises:
            InputError: No picture has both.
        """
        if not self.config.contexts:
            return
        batches = [batch.frozen | extract(self, batch) for batch in support.train(0)]
        backgrounds, areas = (
            torch.cat([features[name] for features in batches], dim=1) for name in ("background", "area")
        )
        usable = ((areas[0, :, 0] > 0) & (areas[0, :, 0] < 1)).nonzero()[:, 0]
        if not len(usable):
            raise InputError(
                "counterfactual: every mask is empty or full, so that no picture lends its ground: give masks"
                " of the objects, or contexts=0"
            )
        count = min(self.config.contexts, len(usable))
        contexts = backgrounds[:, usable[torch.arange(count) * len(usable) // count]]
        adapter = capability(self.host, ImageAdapter)
        self.contexts = fixed(F.normalize(adapter.adapt(contexts) if adapter else contexts, dim=-1))
