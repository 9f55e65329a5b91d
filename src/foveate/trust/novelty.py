"""Novelty: how far a picture is from all that a classifier knows, its shots and the texts of its names.

A classifier that is sure of its answer may still look at something it has never seen; so this is kept apart
from doubt. Distances are measured on the untouched CLIP's features, whatever was learned over them. The
number that is told is a conformal p-value turned round: which share of the shots is less unusual, each
measured as if it were not among them.

- Neighbours: Out-of-Distribution Detection with Deep Nearest Neighbors, Sun et al. 2022,
  https://arxiv.org/abs/2204.06507
- p-values: Testing for Outliers with Conformal p-values, Bates et al. 2023,
  https://arxiv.org/abs/2104.08279
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.types import Labels, PerImage

_CHUNK = 4096
"""Pictures compared with all shots at a time."""

PictureFeatures = Float[Tensor, "pictures dim"]
Texts = Float[Tensor, "classes dim"]
Novelty = Float[Tensor, " pictures"]


@dataclass(frozen=True)
class Support:
    """The shots, as the untouched CLIP sees them.

    Attributes:
        features: `[N, D]` unit features.
        labels: `[N]` rows of the trained names.
        distances: `[N]` how far each is from the nearest other one, as 1 − cosine; in ascending order.
        texts: `[N]` how close each is to the text of its name, as a cosine; in ascending order.
    """

    features: PictureFeatures
    labels: Labels
    distances: PerImage
    texts: PerImage

    @classmethod
    def of(cls, features: PictureFeatures, labels: Labels, texts: Texts) -> "Support":
        """Make it of raw features of shots, and of the raw texts of all trained names, in label order."""
        unit, names = F.normalize(features.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        apart = torch.cat([_nearest(part, unit, 2)[:, 1] for part in unit.split(_CHUNK)])
        own = (unit * names[labels]).sum(dim=1)
        return cls(unit, labels, apart.sort().values, own.sort().values)

    def __len__(self) -> int:
        return len(self.labels)

    def novelty(self, features: PictureFeatures, known: Int[Tensor, " known"]) -> Novelty:
        """Return `[B]` how unusual pictures are, in [0, 1): the share of shots that are less so.

        Args:
            features: `[B, D]` raw features of the untouched CLIP.
            known: Rows of the trained names that are asked about, at least one.
        """
        unit, near = F.normalize(features.float(), dim=-1), self.features[torch.isin(self.labels, known)]
        apart = torch.cat([_nearest(part, near, 1)[:, 0] for part in unit.split(_CHUNK)])
        as_far = len(self) - torch.searchsorted(self.distances, apart)
        return 1 - (as_far + 1) / (len(self) + 1)

    def novelty_of_names(self, features: PictureFeatures, texts: PictureFeatures) -> Novelty:
        """Return the same of pictures that were given names without shots: how ill the names fit them.

        Args:
            features: `[B, D]` raw features of the untouched CLIP.
            texts: `[B, D]` raw text of the name of each.
        """
        close = F.cosine_similarity(features.float(), texts.float(), dim=-1)
        as_ill = torch.searchsorted(self.texts, close, right=True)
        return 1 - (as_ill + 1) / (len(self) + 1)


def _nearest(
    features: PictureFeatures, shots: Float[Tensor, "shots dim"], number: int
) -> Float[Tensor, "pictures n"]:
    """Return how far the nearest shots are; a shot is the nearest to itself."""
    return 1 - (features @ shots.T).topk(min(number, len(shots)), dim=1).values
