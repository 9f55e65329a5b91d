"""Accuracy against the foreground shift index, as in FVG-PT's Fig. 5."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from foveate.evaluate.intervals import wilson
from foveate.foreground.proposers.registry import demand
from foveate.types import PerImage


@dataclass(frozen=True)
class CurvePoint:
    """A bin of pictures with similar shift index.

    Attributes:
        shift: Mean shift index of the bin, in nats.
        accuracy: Accuracy in percent.
        low: Lower end of the accuracy's 95 % interval.
        high: Upper end of the interval.
        pictures: Number of pictures.
    """

    shift: float
    accuracy: float
    low: float
    high: float
    pictures: int


def shift_curve(shift: PerImage, right: Bool[Tensor, " batch"], bins: int = 8) -> list[CurvePoint]:
    """Sort pictures by their shift index into bins of equal size.

    Args:
        shift: `[N]` D_fg of each picture; pictures with NaN are left out.
        right: `[N]` whether the prediction is right.
        bins: Number of bins; fewer if there are fewer pictures.
    """
    known = ~shift.isnan()
    shift, right = shift[known].double(), right[known]
    parts = shift.argsort(stable=True).tensor_split(max(1, min(bins, len(shift))))
    return [_point(shift[part], right[part]) for part in parts if len(part)]


def _point(shift: PerImage, right: Bool[Tensor, " batch"]) -> CurvePoint:
    accuracy = wilson(int(right.sum()), len(right))
    return CurvePoint(shift.mean().item(), accuracy.value, accuracy.low, accuracy.high, len(right))


def draw_curves(curves: Mapping[str, Sequence[CurvePoint]], title: str = "") -> bytes:
    """Return a PNG with a curve for each method; needs the extra `plots`.

    Raises:
        InputError: matplotlib is not installed.
    """
    demand("plots", "the curve", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, points), marker in zip(curves.items(), "os^Dv" * len(curves), strict=False):
        x, y = [p.shift for p in points], [p.accuracy for p in points]
        below = [max(0.0, p.accuracy - p.low) for p in points]
        above = [max(0.0, p.high - p.accuracy) for p in points]
        axes.errorbar(x, y, [below, above], label=name, marker=marker, capsize=2, linewidth=1.5)
    axes.set_xscale("symlog", linthresh=0.01)  # most values are small
    axes.set_xlim(left=0)
    axes.set_xlabel("foreground shift index D_fg in nats (bins of equally many pictures)")
    axes.set_ylabel("accuracy in percent")
    axes.set_ylim(-2, 102)
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
