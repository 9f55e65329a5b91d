"""Counts of DAPT's training views, epoch by epoch: how many had an object, and a background, at all."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.types import PerImage


@dataclass
class ViewTally:
    """Sums over the views of an epoch; on the towers' device, so that counting waits for nothing.

    Attributes:
        sums: By name: `views`, `empty` (no foreground in the view), `full` (nothing else in it), `area`.
    """

    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @torch.no_grad()
    def count(self, share: PerImage) -> None:
        """Add the views of a batch.

        Args:
            share: `[B]` the foreground's share of each view.
        """
        found = {"views": torch.ones_like(share), "empty": share <= 0, "full": share >= 1, "area": share}
        for name, each in found.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=share.device)) + each.sum()

    def figures(self) -> dict[str, float]:
        """Return shares of the views, and the mean area, for the log."""
        views = float(self.sums.get("views", 0.0))
        return (
            {name: float(self.sums[name]) / views for name in self.sums if name != "views"} if views else {}
        )

    def notes(self, used: str, advice: str) -> list[str]:
        """Say how many views had but one side, if any had.

        Args:
            used: What such views were used for.
            advice: How to have fewer.
        """
        shares = self.figures()
        if not shares or not shares["empty"] + shares["full"]:
            return []
        return [
            f"dapt: {100 * shares['empty']:.1f} % of the last epoch's views had no foreground in them and"
            f" {100 * shares['full']:.1f} % nothing else; these {used}. {advice}"
        ]
