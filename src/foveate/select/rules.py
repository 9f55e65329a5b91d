"""Rules that rank pictures for labelling: uncertainty, CAL, forgetting, geometry, GLISTER, gradients."""

from heapq import heapify, heappop, heappush

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.select.configs import CalConfig, GlisterConfig, GraphCutConfig, HerdingConfig
from foveate.select.pool import (
    FINE,
    ClassFeatures,
    Similarity,
    cosines,
    first_greatest,
    in_steps,
    nearness,
    positions,
    ranked,
    residuals,
    untaken,
)

# CAL: pictures with other predictions than their neighbours.
#
# - CAL: Margatina et al. 2021, https://arxiv.org/abs/2109.03764, algorithm 1


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


# Forgetting events: pictures that were learned and forgotten again, from the log of a training.
#
# - Forgetting events: Toneva et al. 2019, https://arxiv.org/abs/1812.05159, section 3


def forgetting(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures that were forgotten most often; pictures that were never right come first.

    Raises:
        InputError: There is no log, or a log of a single epoch.
    """
    if block.right is None:
        raise InputError("forgetting reads the log of a training: fit with --log-answers, and give its --log")
    if len(block.right) < 2:
        raise InputError("forgetting needs a log of two epochs or more: fit with more --epochs")
    return positions(ranked(events(block.right).double())[:count])


def events(right: Tensor) -> Tensor:
    """Return `[n]` how often a right prediction was followed by a wrong one in the next epoch.

    A picture that was never classified correctly gets E, more than any other picture can have.

    Args:
        right: `[E, n]` whether the prediction was right.
    """
    forgotten = (right[:-1] & ~right[1:]).sum(dim=0)
    return forgotten.where(right.any(dim=0), len(right))


# Representative pictures by the geometry of their features.
#
# - Herding: Welling 2009, "Herding dynamical weights to learn", ICML; Chen, Welling, Smola 2010,
#   https://arxiv.org/abs/1203.3472
# - k-center: Gonzalez 1985; Sener and Savarese 2018, https://arxiv.org/abs/1708.00489, algorithm 1


def herding(block: ClassFeatures, count: int, config: HerdingConfig) -> list[int]:
    """Take at each step the picture that brings the mean of the chosen ones nearest to the class's mean μ.

    Step i chooses argmin_j ‖(i + 1) μ - Σ_chosen Z - Z_j‖. DAPT's code mixes the class text into each Z.
    Within a class this is a constant, which does not change these differences. So no text is used here.
    """
    z = block.features
    to_mean, squares, to_chosen = z @ z.mean(dim=0), z.square().sum(dim=1), z.new_zeros(len(z))
    taken, chosen = untaken(len(z)), list[int]()
    for step in range(count):
        # The squared distance without ‖(i + 1) μ - Σ Z‖², which is equal for all candidates.
        distance = squares - 2 * ((step + 1) * to_mean - to_chosen)
        chosen.append(first_greatest(distance if config.deepcore else -distance, taken))
        taken[chosen[-1]] = True
        to_chosen += z @ z[chosen[-1]]
    return chosen


def k_center(block: ClassFeatures, count: int) -> list[int]:
    """Take the picture nearest to the class's mean, then always the one farthest from all chosen pictures.

    The largest distance from a picture to the chosen ones is at most twice the minimum (Gonzalez 1985),
    for any first picture.
    """
    z = block.features
    squares = z.square().sum(dim=1)
    taken = untaken(len(z))
    chosen = [first_greatest(2 * (z @ z.mean(dim=0)) - squares, taken)]
    nearest = z.new_full((len(z),), torch.inf)
    while len(chosen) < count:
        last = chosen[-1]
        taken[last] = True
        nearest = torch.minimum(nearest, (squares + squares[last] - 2 * (z @ z[last])).clamp(min=0))
        chosen.append(first_greatest(nearest, taken))
    return chosen


# GLISTER: pictures whose gradients agree with those of held-out pictures.
#
# - GLISTER: Killamsetty et al. 2021, https://arxiv.org/abs/2012.10630, section 3 and algorithm 2


def glister(block: ClassFeatures, count: int, config: GlisterConfig, generator: torch.Generator) -> list[int]:
    """Take the pictures whose step reduces the loss of held-out pictures most, to first order.

    A step of size η along -G_i reduces the summed loss of the held-out pictures V by η <G_i, Σ_v G_v>.
    Each round chooses the best pictures. Then V's logits are updated exactly, by the steps of all chosen
    pictures: logits_v - η Σ_i (1 + <Z_v, Z_i>) g_i.

    V is drawn from the pool, class by class. Pictures of V are chosen only if the budget is larger than
    the rest; then the best of V come last.
    """
    order = torch.randperm(len(block), generator=generator)
    held_count = min(len(block) - 1, max(1, round(config.validation * len(block))))
    held_out = order[:held_count].sort().values
    z, g = block.features, residuals(block.logits, block.label)
    z_held, logits = z[held_out], block.logits[held_out]
    taken, chosen = untaken(len(block)), list[int]()
    taken[held_out] = True
    for size in _sizes(min(count, len(block) - held_count), config.rounds):
        remaining = (~taken).nonzero()[:, 0]
        gains = _gains(g[remaining], z[remaining], residuals(logits, block.label), z_held)
        best = remaining[ranked(gains)[:size]]
        taken[best] = True
        chosen += positions(best)
        logits = logits - config.rate * (1 + z_held @ z[best].T) @ g[best]
    rest = ranked(_gains(g[held_out], z_held, residuals(logits, block.label), z_held))
    return chosen + positions(held_out[rest][: count - len(chosen)])


def _gains(g: Tensor, z: Tensor, g_held: Tensor, z_held: Tensor) -> Tensor:
    """Return <G_i, Σ_v G_v> = <g_i, Σ_v g_v + (Σ_v g_v ⊗ Z_v) Z_i>."""
    return (g * (g_held.sum(dim=0) + z @ (z_held.T @ g_held))).sum(dim=1)


def _sizes(count: int, rounds: int) -> list[int]:
    """Split a number into non-empty rounds whose sizes differ by at most one."""
    rounds = min(rounds, count)
    return [count // rounds + (index < count % rounds) for index in range(rounds)]


# Pictures with the least certain predictions of zero-shot CLIP; and random pictures for comparison.
#
# - Least confidence, margin, entropy: Settles 2009, "Active Learning Literature Survey", section 3.1;
#   Coleman et al. 2020, https://arxiv.org/abs/1906.11829


def uniform(block: ClassFeatures, count: int, generator: torch.Generator) -> list[int]:
    """Draw pictures uniformly, without replacement."""
    return positions(torch.randperm(len(block), generator=generator)[:count])


def confidence(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest max_c p_c."""
    return positions(ranked(-block.log_probabilities.max(dim=1).values.exp())[:count])


def entropy(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest Σ_c p_c log p_c, i.e. the highest entropy."""
    log_p = block.log_probabilities
    return positions(ranked(-torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=1))[:count])


def margin(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest p₁ - p₂, the difference of the two largest probabilities."""
    if block.logits.shape[1] < 2:
        return confidence(block, count)
    top = block.log_probabilities.topk(2, dim=1).values.exp()
    return positions(ranked(top[:, 1] - top[:, 0])[:count])


# Pictures whose gradients cover their class: greedy maximisation of set functions.
#
# - Graph cut and facility location: Iyer et al. 2021, https://arxiv.org/abs/2006.15412; on cosines of
#   last-layer gradients: DeepCore, Guo et al. 2022, https://arxiv.org/abs/2204.08499
# - CRAIG: Mirzasoleiman et al. 2020, https://arxiv.org/abs/1906.01827
# - Lazy greedy: Minoux 1978


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
