"""Novelty: how far a picture is from everything a classifier knows, its shots and the texts of its names.

A classifier can be sure of its answer for a picture of something new, so novelty is separate from doubt.
Distances are measured between features of the unchanged CLIP, whatever was learned on top. Novelty is 1 minus
a conformal p-value: the share of shots that are less unusual, each measured as if it were not among them.

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
"""Number of pictures that are compared with all shots at once."""

PictureFeatures = Float[Tensor, "pictures dim"]
Texts = Float[Tensor, "classes dim"]
Novelty = Float[Tensor, " pictures"]


@dataclass(frozen=True)
class Support:
    """Features of the shots, from the unchanged CLIP.

    Attributes:
        features: `[N, D]` unit features.
        labels: `[N]` labels of the shots (rows of the trained names).
        distances: `[N]` distance of each shot to the nearest other one, 1 − cosine; in ascending order.
        texts: `[N]` cosine of each shot and the text of its name; in ascending order.
    """

    features: PictureFeatures
    labels: Labels
    distances: PerImage
    texts: PerImage

    @classmethod
    def of(cls, features: PictureFeatures, labels: Labels, texts: Texts) -> "Support":
        """Build it from raw features of the shots, and raw texts of all trained names in label order."""
        unit, class_texts = F.normalize(features.float(), dim=-1), F.normalize(texts.float(), dim=-1)
        distances = torch.cat([_nearest(chunk, unit, 2)[:, 1] for chunk in unit.split(_CHUNK)])
        similarities = (unit * class_texts[labels]).sum(dim=1)
        return cls(unit, labels, distances.sort().values, similarities.sort().values)

    def __len__(self) -> int:
        return len(self.labels)

    def novelty(self, features: PictureFeatures, known: Int[Tensor, " known"]) -> Novelty:
        """Return the novelty `[B]` of pictures in [0, 1): the share of shots that are less unusual.

        Args:
            features: `[B, D]` raw features of the unchanged CLIP.
            known: Rows of the trained names to choose from, at least one.
        """
        unit, shots = F.normalize(features.float(), dim=-1), self.features[torch.isin(self.labels, known)]
        distances = torch.cat([_nearest(chunk, shots, 1)[:, 0] for chunk in unit.split(_CHUNK)])
        as_far = len(self) - torch.searchsorted(self.distances, distances)
        return 1 - (as_far + 1) / (len(self) + 1)

    def novelty_of_names(self, features: PictureFeatures, texts: PictureFeatures) -> Novelty:
        """Return the novelty of pictures whose answer is a name without shots, compared with its text.

        Args:
            features: `[B, D]` raw features of the unchanged CLIP.
            texts: `[B, D]` raw text of each picture's name.
        """
        similarities = F.cosine_similarity(features.float(), texts.float(), dim=-1)
        as_far = torch.searchsorted(self.texts, similarities, right=True)
        return 1 - (as_far + 1) / (len(self) + 1)


def _nearest(
    features: PictureFeatures, shots: Float[Tensor, "shots dim"], count: int
) -> Float[Tensor, "pictures n"]:
    """Return the distances to the nearest shots; the nearest to a shot is itself."""
    return 1 - (features @ shots.T).topk(min(count, len(shots)), dim=1).values
