"""Reported metrics, one function each."""

from collections.abc import Iterable, Sequence

from foveate.methods.guidance import kl
from foveate.types import Labels, Logits


def accuracy(logits: Logits, labels: Labels) -> float:
    """Return top-1 accuracy in percent."""
    return 100 * (logits.argmax(dim=-1) == labels).double().mean().item()


def harmonic_mean(base: float, new: float) -> float:
    """Return HM = 2 b n / (b + n); 0 if both are 0. Over data sets it is the HM of the averages."""
    return 2 * base * new / (base + new) if base + new else 0.0


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def worst_group(groups: Iterable[tuple[int, int]]) -> float:
    """Return the least accuracy of a group, in percent; groups without pictures are left out.

    - Sagawa et al. 2020, https://arxiv.org/abs/1911.08731; there, a group is a class on one background.

    Args:
        groups: Number of right answers and of pictures, of each group.

    Raises:
        ValueError: No group has a picture.
    """
    return min(100 * right / pictures for right, pictures in groups if pictures)


def foreground_shift(full: Logits, foreground: Logits, tau: float = 2.0) -> float:
    """Return D_fg, the foreground shift index: mean KL(p_full ‖ p_foreground), in nats.

    It measures the change of a prediction when the background is removed; 0 if a model uses the object
    only.

    Args:
        full: `[B, C]` logits of whole pictures.
        foreground: `[B, C]` logits of the same views times their masks.
        tau: Temperature of both softmax functions.
    """
    return max(0.0, kl(full / tau, foreground / tau).mean().item())  # rounding may give less
