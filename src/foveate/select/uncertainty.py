"""Pictures with the least certain predictions of zero-shot CLIP; and random pictures for comparison.

- Least confidence, margin, entropy: Settles 2009, "Active Learning Literature Survey", section 3.1;
  Coleman et al. 2020, https://arxiv.org/abs/1906.11829
"""

import torch

from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions


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
