"""Forgetting events: pictures that were learned and forgotten again, from the log of a training.

- Forgetting events: Toneva et al. 2019, https://arxiv.org/abs/1812.05159, section 3
"""

from torch import Tensor

from foveate.errors import InputError
from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions


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
