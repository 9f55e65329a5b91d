"""Labels that look wrong, and groups that leak: what the other pictures say of each picture.

A ridge classifier on frozen features says of each picture what it would say, had it never seen the picture,
or its whole group: least squares has these answers in closed form, without one training a picture.

- Held-out answers: The Elements of Statistical Learning, Hastie et al. 2009, Eq. 7.64, block by block
- Which labels are wrong: Confident Learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.trust.doubt import fit_temperature
from foveate.types import Labels, Logits

RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Penalties that are tried, in multiples of the features' mean variance."""

FEW = 3
"""Pictures a class needs, or its labels are not judged."""

Groups = Int[Tensor, " pictures"]


@dataclass(frozen=True)
class Suspect:
    """A picture whose label looks wrong.

    Attributes:
        picture: Its place.
        other: Row of the name that it looks like.
        margin: How much likelier that is than its label, in (0, 1].
    """

    picture: int
    other: int
    margin: float


def held_out(features: Float[Tensor, "pictures dim"], labels: Labels, groups: Groups | None = None) -> Logits:
    """Return `[N, C]` logits of each picture, from all pictures but its group; C is the greatest label + 1.

    The penalty is the one under which these answers are right most often.

    Args:
        features: Raw features of frozen towers.
        labels: `[N]`.
        groups: `[N]` number of each picture's group; None puts each in its own.
    """
    x = F.normalize(features.double(), dim=-1)
    x = x - x.mean(dim=0)
    x = torch.cat([x, x.square().sum(dim=1).mean().sqrt().expand(len(x), 1)], dim=1)  # for the bias
    wanted = F.one_hot(labels).double()
    spread, directions = torch.linalg.eigh(x.T @ x / len(x))
    turned, towards = x @ directions, directions.T @ (x.T @ wanted) / len(x)
    blocks = [torch.tensor([row]) for row in range(len(x))] if groups is None else _blocks(groups)
    tried = [
        _without_own(turned, towards, spread + ridge * spread.mean(), wanted, blocks) for ridge in RIDGES
    ]
    best = max(tried, key=lambda scores: int((scores.argmax(dim=1) == labels).sum()))
    return best / fit_temperature(best, labels)


def _blocks(groups: Groups) -> list[Int[Tensor, " own"]]:
    return [(groups == number).nonzero()[:, 0] for number in groups.unique()]


def _without_own(
    x: Tensor, towards: Tensor, penalised: Tensor, wanted: Tensor, blocks: list[Int[Tensor, " own"]]
) -> Tensor:
    """Return answers without a block's own pictures: (I − H)⁻¹ (fit − H y), H the block of the hat matrix."""
    fitted = x @ (towards / penalised[:, None])
    if len(blocks) == len(x):
        own = (x.square() / penalised).sum(dim=1, keepdim=True) / len(x)
        return (fitted - own * wanted) / (1 - own).clamp(min=1e-9)
    answers = torch.empty_like(fitted)
    for rows in blocks:
        hat = (x[rows] / penalised) @ x[rows].T / len(x)
        alone = torch.eye(len(rows), dtype=x.dtype) - hat
        answers[rows] = torch.linalg.solve(alone, fitted[rows] - hat @ wanted[rows])
    return answers


def suspects(logits: Logits, labels: Labels) -> list[Suspect]:
    """Return pictures whose label looks wrong, the worst first.

    How many: a picture is sure to be of a class if it is at least as likely of it as the pictures of that
    class are on average (Northcutt et al., arXiv 1911.00068, Sec. 3: confident joint). Sure pictures of
    another class than their label's are too few, because not all wrong ones are sure. Scaled to each label's
    number of pictures they are too many, because unsure pictures are hard more often than wrong. The
    geometric mean of both is taken. Which: those whose label is least likely beside the likeliest other name.

    Args:
        logits: `[N, C]` from `held_out`.
        labels: `[N]`.
    """
    p, number = logits.softmax(dim=1), logits.shape[1]
    counts = torch.bincount(labels, minlength=number)
    own = p.gather(1, labels[:, None])[:, 0]
    usual = torch.zeros(number, dtype=p.dtype).index_add_(0, labels, own) / counts.clamp(min=1)
    many = counts >= FEW
    p = p.masked_fill(~many, -1)
    sure, seen_as = p.masked_fill(p < usual, -1).max(dim=1)
    taken = (sure > 0) & many[labels]
    wrong = taken & (seen_as != labels)
    of_label = [torch.bincount(labels[rows], minlength=number).double() for rows in (wrong, taken)]
    scaled = float((of_label[0] / of_label[1].clamp(min=1) * counts).sum())
    likeliest, name = p.scatter(1, labels[:, None], -1).max(dim=1)
    beaten = (many[labels] & (likeliest > own)).nonzero()[:, 0]
    worst = (own / likeliest)[beaten].argsort(stable=True)[: round((int(wrong.sum()) * scaled) ** 0.5)]
    named = [Suspect(row, int(name[row]), float(likeliest[row] - own[row])) for row in beaten[worst].tolist()]
    return sorted(named, key=lambda one: (-one.margin, one.picture))
