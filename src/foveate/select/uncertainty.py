"""The pictures that zero-shot CLIP is least sure of; and, to compare with, any pictures.

- Least confidence, margin, entropy: Settles 2009, "Active Learning Literature Survey", section 3.1;
  Coleman et al. 2020, https://arxiv.org/abs/1906.11829
"""

import torch

from foveate.select.order import ranked
from foveate.select.pool import ClassFeatures, positions


def uniform(block: ClassFeatures, count: int, generator: torch.Generator) -> list[int]:
    """Draw pictures, each as likely as any other, none twice."""
    return positions(torch.randperm(len(block), generator=generator)[:count])


def confidence(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest max_c p_c."""
    return positions(ranked(-block.log_probabilities.max(dim=1).values.exp())[:count])


def entropy(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest Σ_c p_c log p_c, which is the highest entropy."""
    log_p = block.log_probabilities
    return positions(ranked(-torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=1))[:count])


def margin(block: ClassFeatures, count: int) -> list[int]:
    """Take the pictures with the lowest p₁ - p₂, the likeliest class before the next."""
    if block.logits.shape[1] < 2:
        return confidence(block, count)
    top = block.log_probabilities.topk(2, dim=1).values.exp()
    return positions(ranked(top[:, 1] - top[:, 0])[:count])
