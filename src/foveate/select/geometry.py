"""Representative pictures by the geometry of their features.

- Herding: Welling 2009, "Herding dynamical weights to learn", ICML; Chen, Welling, Smola 2010,
  https://arxiv.org/abs/1203.3472
- k-center: Gonzalez 1985; Sener and Savarese 2018, https://arxiv.org/abs/1708.00489, algorithm 1
"""

import torch

from foveate.select.configs import HerdingConfig
from foveate.select.order import first_greatest
from foveate.select.pool import ClassFeatures, untaken


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
