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
    return torch.cat([_of(block, rows, neighbours) for rows in torch.arange(len(block)).split(size)])


def _of(block: ClassFeatures, rows: Tensor, neighbours: int) -> Tensor:
    z, log_p = block.features, block.log_probabilities
    squares = z.square().sum(dim=1)
    distance = squares[rows, None] + squares - 2 * z[rows] @ z.T
    distance[torch.arange(len(rows)), rows] = torch.inf
    # Rounded distances and a stable sort: among equally near pictures the first ones are the neighbours.
    distance = torch.where(distance.isinf(), distance, in_steps(distance.nan_to_num(posinf=0.0)))
    nearest = distance.argsort(dim=1, stable=True)[:, :neighbours]
    own_log_p, near_log_p = log_p[rows, None], log_p[nearest]
    # ½ Σ p (log p - log q) + ½ Σ q (log q - log p)
    return 0.5 * ((own_log_p.exp() - near_log_p.exp()) * (own_log_p - near_log_p)).sum(dim=-1).mean(dim=1)
