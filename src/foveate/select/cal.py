"""CAL: pictures with other predictions than their neighbours.

- CAL: Margatina et al. 2021, https://arxiv.org/abs/2109.03764, algorithm 1
"""

import torch
from torch import Tensor

from foveate.select.configs import CalConfig
from foveate.select.order import in_steps, ranked
from foveate.select.pool import ClassFeatures, positions

PIECE = 1 << 23
"""Number of neighbours' probabilities that are compared together (64 MiB)."""


def cal(block: ClassFeatures, count: int, config: CalConfig) -> list[int]:
    """Rank by the mean symmetric divergence ½ (KL(p‖q) + KL(q‖p)) from the nearest neighbours' predictions.

    The neighbours are the nearest pictures of the same class by Z; all of them if there are fewer than
    `neighbours`.
    """
    if len(block) == 1:
        return [0]
    scores = divergences(block, min(config.neighbours, len(block) - 1))
    return positions(ranked(scores if config.keep == "highest" else -scores)[:count])


def divergences(block: ClassFeatures, neighbours: int) -> Tensor:
    """Return `[n]` mean divergence of each picture from its neighbours."""
    size = max(1, PIECE // max(len(block), neighbours * block.logits.shape[1]))
    return torch.cat([_of(block, some, neighbours) for some in torch.arange(len(block)).split(size)])


def _of(block: ClassFeatures, some: Tensor, neighbours: int) -> Tensor:
    z, log_p = block.features, block.log_probabilities
    own = z.square().sum(dim=1)
    distance = own[some, None] + own - 2 * z[some] @ z.T
    distance[torch.arange(len(some)), some] = torch.inf
    # Rounded distances and a stable sort: among equally near pictures the first ones are the neighbours.
    distance = torch.where(distance.isinf(), distance, in_steps(distance.nan_to_num(posinf=0.0)))
    nearest = distance.argsort(dim=1, stable=True)[:, :neighbours]
    here, there = log_p[some, None], log_p[nearest]
    # ½ Σ p (log p - log q) + ½ Σ q (log q - log p)
    return 0.5 * ((here.exp() - there.exp()) * (here - there)).sum(dim=-1).mean(dim=1)
