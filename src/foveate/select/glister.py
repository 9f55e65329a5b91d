"""GLISTER: pictures whose gradients agree with those of held-out pictures.

- GLISTER: Killamsetty et al. 2021, https://arxiv.org/abs/2012.10630, section 3 and algorithm 2
"""

import torch
from torch import Tensor

from foveate.select.configs import GlisterConfig
from foveate.select.gradients import residuals
from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions, untaken


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
