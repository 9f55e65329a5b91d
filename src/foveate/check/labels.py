"""Labels that look wrong, and class names that CLIP reads badly or cannot distinguish.

A ridge classifier on frozen features predicts each picture as if it had not learned from it, or from its
whole group. Least squares has these held-out answers in closed form, without a training for each picture.

- Held-out answers: The Elements of Statistical Learning, Hastie et al. 2009, Eq. 7.64, block by block
- Which labels are wrong: Confident Learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.tokenizer import ClipTokenizer
from foveate.data.naming import unusual
from foveate.trust.trust import fit_temperature
from foveate.types import Labels, Logits

RIDGES = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Penalties that are tried, in multiples of the features' mean variance."""

FEW = 3
"""Minimum number of pictures of a class; labels of smaller classes are not judged."""

Groups = Int[Tensor, " pictures"]


@dataclass(frozen=True)
class Suspect:
    """A picture whose label looks wrong.

    Attributes:
        picture: Index of the picture.
        other: Row of the name that it looks like.
        margin: Probability of that name minus that of its label, in (0, 1].
    """

    picture: int
    other: int
    margin: float


def held_out(features: Float[Tensor, "pictures dim"], labels: Labels, groups: Groups | None = None) -> Logits:
    """Return logits `[N, C]` of each picture, from all pictures except its group; C is the largest label + 1.

    The ridge penalty is chosen for the highest accuracy of these logits.

    Args:
        features: Raw features of frozen towers.
        labels: `[N]` labels.
        groups: `[N]` number of each picture's group; None: each picture is a group of its own.
    """
    x = F.normalize(features.double(), dim=-1)
    x = x - x.mean(dim=0)
    x = torch.cat([x, x.square().sum(dim=1).mean().sqrt().expand(len(x), 1)], dim=1)  # for the bias
    targets = F.one_hot(labels).double()
    eigenvalues, eigenvectors = torch.linalg.eigh(x.T @ x / len(x))
    rotated, projected = x @ eigenvectors, eigenvectors.T @ (x.T @ targets) / len(x)
    blocks = [torch.tensor([row]) for row in range(len(x))] if groups is None else _blocks(groups)
    candidates = [
        _without_own(rotated, projected, eigenvalues + ridge * eigenvalues.mean(), targets, blocks)
        for ridge in RIDGES
    ]
    best = max(candidates, key=lambda scores: int((scores.argmax(dim=1) == labels).sum()))
    return best / fit_temperature(best, labels)


def _blocks(groups: Groups) -> list[Int[Tensor, " own"]]:
    return [(groups == group).nonzero()[:, 0] for group in groups.unique()]


def _without_own(
    x: Tensor, projected: Tensor, penalised: Tensor, targets: Tensor, blocks: list[Int[Tensor, " own"]]
) -> Tensor:
    """Return held-out answers of each block: (I − H)⁻¹ (fit − H y), with H its block of the hat matrix."""
    fitted = x @ (projected / penalised[:, None])
    if len(blocks) == len(x):
        leverage = (x.square() / penalised).sum(dim=1, keepdim=True) / len(x)
        return (fitted - leverage * targets) / (1 - leverage).clamp(min=1e-9)
    answers = torch.empty_like(fitted)
    for rows in blocks:
        hat = (x[rows] / penalised) @ x[rows].T / len(x)
        residual = torch.eye(len(rows), dtype=x.dtype) - hat
        answers[rows] = torch.linalg.solve(residual, fitted[rows] - hat @ targets[rows])
    return answers


def suspects(logits: Logits, labels: Labels) -> list[Suspect]:
    """Return pictures whose label looks wrong, the worst first.

    Their number: a picture is confidently of a class if its probability is at least the mean probability of
    that class among the class's own pictures (Northcutt et al., arXiv 1911.00068, Sec. 3: confident joint).
    Counting the pictures that are confidently of another class than their label finds too few, because not
    all wrong ones are confident. That count scaled to each label's number of pictures is too large, because
    unsure pictures are hard more often than wrong. The geometric mean of both counts is used. Their choice:
    the pictures with the smallest ratio of the label's probability to that of the likeliest other name.

    Args:
        logits: `[N, C]` logits from `held_out`.
        labels: `[N]` labels.
    """
    p, classes = logits.softmax(dim=1), logits.shape[1]
    counts = torch.bincount(labels, minlength=classes)
    own_p = p.gather(1, labels[:, None])[:, 0]
    threshold = torch.zeros(classes, dtype=p.dtype).index_add_(0, labels, own_p) / counts.clamp(min=1)
    judged = counts >= FEW
    p = p.masked_fill(~judged, -1)
    sure, looks_like = p.masked_fill(p < threshold, -1).max(dim=1)
    confident = (sure > 0) & judged[labels]
    wrong = confident & (looks_like != labels)
    per_label = [torch.bincount(labels[rows], minlength=classes).double() for rows in (wrong, confident)]
    scaled = float((per_label[0] / per_label[1].clamp(min=1) * counts).sum())
    likeliest, other = p.scatter(1, labels[:, None], -1).max(dim=1)
    less_likely = (judged[labels] & (likeliest > own_p)).nonzero()[:, 0]
    worst = (own_p / likeliest)[less_likely].argsort(stable=True)[: round((int(wrong.sum()) * scaled) ** 0.5)]
    results = [
        Suspect(row, int(other[row]), float(likeliest[row] - own_p[row]))
        for row in less_likely[worst].tolist()
    ]
    return sorted(results, key=lambda suspect: (-suspect.margin, suspect.picture))


# Class names that CLIP reads badly, and pairs of classes that it cannot distinguish.


ENOUGH = 5
"""Minimum number of pictures of each class in a pair."""

APART = 0.65
"""Minimum accuracy of CLIP between two classes that it distinguishes; 0.5 is chance."""

_NUMBERED = re.compile(r"^\d+\W+(.*\D.*)$")
_CAMEL = re.compile(r"[a-z]{2,}[A-Z][a-z]")  # and no iPhone
_WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class BadName:
    """A name, and its problem.

    Attributes:
        name: The name as it was given.
        reason: The problem, and what to write instead.
    """

    name: str
    reason: str


def bad_names(names: Sequence[str], tokenizer: ClipTokenizer) -> Iterator[BadName]:
    """Yield names that CLIP reads badly, and names that are the same as another for it."""
    seen: dict[tuple[int, ...], str] = {}
    for name in names:
        reason = _reason(name)
        if reason:
            yield BadName(name, reason)
        ids = tuple(tokenizer.words(html.unescape(name).replace(" ", "")))
        if ids in seen:
            yield BadName(name, f"is the same as {seen[ids]!r} but for spaces or signs: make them one class")
        seen.setdefault(ids, name)


def _reason(name: str) -> str:
    numbered = _NUMBERED.match(name)
    if _WNID.fullmatch(name):
        return "is a WordNet id: write its words into classnames.txt"
    if not any(letter.isalpha() for letter in name):
        return "has no letters: write what it shows into classnames.txt"
    if html.unescape(name) != name:
        return f"has an escape of HTML: write {html.unescape(name)!r}"
    if numbered:
        return f"begins with a number: write {numbered[1]!r}"
    if _CAMEL.search(name):
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        return f"is in camel case: write {words!r}"
    return "is in another script than CLIP has mostly read" if unusual([name]) else ""


@dataclass(frozen=True)
class AlikeClasses:
    """Two classes that CLIP cannot distinguish.

    Attributes:
        first: Row of one name.
        second: Row of the other name.
        right: Accuracy between the two names; the mean over both classes.
    """

    first: int
    second: int
    right: float


def alike(zero_shot: Logits, labels: Labels) -> list[AlikeClasses]:
    """Return pairs of classes that zero-shot CLIP cannot distinguish, the worst first.

    Args:
        zero_shot: `[N, C]` logits of zero-shot CLIP.
        labels: `[N]` labels.
    """
    count = zero_shot.shape[1]
    counts = torch.bincount(labels, minlength=count)
    won = zero_shot.gather(1, labels[:, None]) > zero_shot
    share = torch.zeros(count, count, dtype=torch.float64).index_add_(0, labels, won.double())
    share = share / counts.clamp(min=1)[:, None]
    right = (share + share.T) / 2
    enough = (counts >= ENOUGH)[:, None] & (counts >= ENOUGH)[None]
    pairs = ((right < APART) & enough).triu(diagonal=1).nonzero().tolist()
    classes = [AlikeClasses(first, second, float(right[first, second])) for first, second in pairs]
    return sorted(classes, key=lambda pair: pair.right)
