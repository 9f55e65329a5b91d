"""Class names that CLIP reads badly, and pairs of classes that it cannot distinguish."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from foveate.clip.tokenizer import ClipTokenizer
from foveate.data.naming import unusual
from foveate.types import Labels, Logits

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
