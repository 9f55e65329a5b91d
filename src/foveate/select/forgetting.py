"""Pictures that were learned and forgotten again, by the log of a training.

- Forgetting events: Toneva et al. 2019, https://arxiv.org/abs/1812.05159, section 3
"""

from torch import Tensor

from foveate.errors import InputError
from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions


def forgetting(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures that were forgotten most often; those never answered rightly come before them.

    Raises:
        InputError: There is no log, or one of a single epoch.
    """
    if block.right is None:
        raise InputError("forgetting reads the log of a training: fit with --log-answers, and give its --log")
    if len(block.right) < 2:
        raise InputError("forgetting needs a log of two epochs or more: fit with more --epochs")
    return positions(ranked(events(block.right).double())[:count])


def events(right: Tensor) -> Tensor:
    """Return `[n]` how often a right answer was followed by a wrong one in the next epoch.

    A picture that was never answered rightly has E, more than any other can have.

    Args:
        right: `[E, n]`.
    """
    forgotten = (right[:-1] & ~right[1:]).sum(dim=0)
    return forgotten.where(right.any(dim=0), len(right))
