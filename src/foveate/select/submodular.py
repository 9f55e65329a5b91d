"""Pictures whose gradients cover their class: greedy maximisation of set functions.

- Graph cut and facility location: Iyer et al. 2021, https://arxiv.org/abs/2006.15412; on cosines of
  last-layer gradients: DeepCore, Guo et al. 2022, https://arxiv.org/abs/2204.08499
- CRAIG: Mirzasoleiman et al. 2020, https://arxiv.org/abs/1906.01827
- Lazy greedy: Minoux 1978
"""

from heapq import heapify, heappop, heappush

import torch

from foveate.select.configs import GraphCutConfig
from foveate.select.gradients import Similarity, cosines, nearness, residuals
from foveate.select.order import FINE, first_greatest
from foveate.select.pool import ClassFeatures, untaken

_TOGETHER = 64
"""Most candidates whose gains are computed together."""


def graph_cut(block: ClassFeatures, count: int, config: GraphCutConfig) -> list[int]:
    """Maximise λ Σ_{i in class, j in S} K_ij - Σ_{i, j in S} K_ij greedily, K the cosines of gradients.

    The gain of j is λ Σ_i K_ij - 2 Σ_{s in S} K_sj - K_jj. It is updated for all j in each step. Lazy
    evaluation would be wrong, because gains grow if cosines are negative.
    """
    kernel = Similarity(len(block), cosines(block))
    gains = config.weight * torch.cat([piece.sum(dim=1) for piece in kernel.pieces()])
    gains -= (residuals(block.logits, block.label) != 0).any(dim=1).double()  # K_jj
    taken, chosen = untaken(len(block)), list[int]()
    while len(chosen) < count:
        chosen.append(first_greatest(gains, taken))
        taken[chosen[-1]] = True
        gains -= 2 * kernel.row(chosen[-1])
    return chosen


def facility(block: ClassFeatures, count: int) -> list[int]:
    """Maximise Σ_i max(0, max_{j in S} K_ij) greedily, K the cosines of gradients."""
    return lazy_greedy(Similarity(len(block), cosines(block)), count)


def craig(block: ClassFeatures, count: int) -> list[int]:
    """Maximise Σ_i max_{j in S} (c - ‖G_i - G_j‖) greedily: each gradient has a similar one among the chosen.

    All sufficiently large c give the same choice. CRAIG's weights, the number of pictures that each
    chosen one represents, are not returned: training uses each picture once.
    """
    return lazy_greedy(Similarity(len(block), nearness(block)), count)


def lazy_greedy(kernel: Similarity, count: int) -> list[int]:
    """Maximise Σ_i max(0, max_{j in S} K_ij) greedily, without computing all gains in each step.

    Gains only decrease as S grows, so an old gain is an upper bound. If the first candidate in the queue
    has a gain of the current step, it is the largest. Otherwise the gains of the first candidates are
    computed again: one, then two, then four, because rows of the matrix are cheaper together.
    """
    gains = torch.cat([piece.clamp(min=0).sum(dim=1) for piece in kernel.pieces()])
    step = float(gains.max()) * FINE or 1.0
    queue = [(-round(gain / step), index) for index, gain in enumerate(gains.tolist())]
    heapify(queue)
    covered, updated_at, chosen = torch.zeros_like(gains), [0] * kernel.number, list[int]()
    while len(chosen) < count:
        limit = 1
        while updated_at[queue[0][1]] < len(chosen):
            stale: list[int] = []
            while queue and len(stale) < limit and updated_at[queue[0][1]] < len(chosen):
                stale.append(heappop(queue)[1])
            new_gains = (kernel.rows(stale) - covered).clamp(min=0).sum(dim=1)
            for index, gain in zip(stale, new_gains.tolist(), strict=True):
                updated_at[index] = len(chosen)
                heappush(queue, (-round(gain / step), index))
            limit = min(2 * limit, _TOGETHER)
        _, index = heappop(queue)
        chosen.append(index)
        covered = torch.maximum(covered, kernel.row(index))
    return chosen
