"""The second stage of 2SFS: a linear classifier on the features of a tuned, frozen host.

f is the host's unit feature of a picture, t_c its unit class text, τ CLIP's temperature. W has a row per
trained class, and starts as t:

    (1)  z_c = τ cos(f, w_c) for trained classes,  τ cos(f, t_c) for others

So trained classes need no text tower, and new ones have the host's texts ([0], Sec. 4). Only W learns, by
cross-entropy. 2SFS itself is `two_stage+ln_tuning`.

- [0]: Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages, Farina et al. 2025,
  https://arxiv.org/abs/2503.11609
"""

import torch
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.methods.base import Method, is_kind
from foveate.methods.capabilities import FrozenHost, SupportSet, TextPerImage
from foveate.methods.configs import TwoStageConfig
from foveate.methods.known import KnownClasses, LearnedRows, fixed
from foveate.types import Batch, Features, Scalar, TextFeatures


class TwoStage(LearnedRows, FrozenHost):
    """A linear classifier over a tuned host; its rows replace the class texts of the trained classes.

    Args:
        host: A tuned method; it is frozen here.
        config: Settings; there are none.
        generator: Not used: the initial values are the host's class texts.

    Attributes:
        classifier: W `[C, D]`, a row per trained class; empty before training.
        known: The classes of the rows, in order; empty before training.

    Raises:
        InputError: The host learns rows of its classes, or has other texts for each picture.
    """

    name, title, config_type = "two_stage", "2SFS", TwoStageConfig

    def __init__(
        self, host: Method, config: TwoStageConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config or TwoStageConfig()
        empty = torch.empty(0, self.clip.config.embed, device=self.clip.logit_scale.device)
        self.classifier = fixed(empty, learns=True)

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host without one text per class."""
        if is_kind(host, KnownClasses, TextPerImage):
            raise InputError(
                f"two_stage: {name} does not answer from one text per class, as a classifier needs it:"
                " take a host that does, such as ln_tuning"
            )

    def classes_learned(self) -> int:
        return len(self.classifier)

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the cross-entropy of trained classes, "ce", whatever the host was tuned with."""
        return {"ce": F.cross_entropy(self.logits(features), batch.labels)}

    @torch.no_grad()
    def fit_support(self, support: SupportSet) -> None:
        """Start the classifier as the host's unit class texts; pictures are not used."""
        self.classifier = fixed(F.normalize(super().text_features(), dim=-1), learns=True)
        self.known = self.names

    def text_features(self) -> TextFeatures:
        """Return `[C, D]` of Eq. 1: rows of W for trained classes, the host's texts for others."""
        text = super().text_features()
        pairs = self.row_pairs()
        if not pairs:
            return text
        columns, rows = torch.tensor(pairs, device=text.device).T
        learned = F.normalize(self.classifier, dim=-1)[rows]
        return F.normalize(text, dim=-1).index_copy(0, columns, learned.to(text.dtype))
