"""Counts of FVG-PT's training, epoch by epoch: is the guidance there, and does it help?

The paper has no such watch. Adapters that were thrown off course at a high rate answer worse than the
backbone they compensate, and the loss alone does not say so.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.methods.guidance import Align, Guidance, Views
from foveate.types import Labels

_SIGMAS = 2.0  # how many deviations of chance the backbone must be ahead before we speak
_MUCH = 0.5  # share of views without their object before we speak


@dataclass
class Tally:
    """Sums over the views of an epoch; on the towers' device, so that counting waits for nothing.

    Attributes:
        sums: By name: `views`, `cut_away` (object absent from the crop), `backbone` and `adapted` (right
            answers of z_full and z_FDC), `lost` and `won` (right with one and wrong with the other), `target`
            (views whose foreground errs less, r*).
    """

    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @torch.no_grad()
    def count(self, guidance: Guidance, v: Views, labels: Labels, align: Align) -> None:
        """Add the views of a batch, as they are before the step."""
        backbone = v.full.argmax(dim=-1) == labels
        adapted = guidance.base_logits(v.features, align).argmax(dim=-1) == labels
        found = {
            "views": torch.ones_like(backbone),
            "cut_away": ~guidance.usable(v),
            "backbone": backbone,
            "adapted": adapted,
            "lost": backbone & ~adapted,
            "won": adapted & ~backbone,
            "target": guidance.trust_target(v, labels) > 0,
        }
        for name, each in found.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=each.device)) + each.sum()

    def figures(self) -> dict[str, float]:
        """Return shares of the views, for the log."""
        views = self._sum("views")
        return {name: self._sum(name) / views for name in self.sums if name != "views"} if views else {}

    def notes(self) -> list[str]:
        """Return a line for each thing that has gone wrong."""
        shares, views = self.figures(), int(self._sum("views"))
        if not shares:
            return []
        notes: list[str] = []
        lost, won = self._sum("lost"), self._sum("won")
        if lost - won > max(1.0, _SIGMAS * math.sqrt(lost + won)):
            notes.append(
                f"fvgpt: the adapted features are below their backbone on the training pictures:"
                f" {100 * shares['adapted']:.1f} against {100 * shares['backbone']:.1f} % right"
                f" of {views} views of the last epoch; try a smaller lr, clip_grad=1,"
                " or fvgpt.adapter_input raw"
            )
        if shares["cut_away"] > _MUCH:
            notes.append(
                f"fvgpt: {100 * shares['cut_away']:.0f} % of the views have no object left in them and teach"
                " without a foreground: raise crop_scale, or look at the masks"
            )
        return notes

    def _sum(self, name: str) -> float:
        return float(self.sums[name]) if name in self.sums else 0.0
