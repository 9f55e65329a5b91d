"""What all tables of a report are made with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foveate.report.cards import Card, card_of, odd_sets
from foveate.report.estimates import Bootstrap, Estimate
from foveate.report.lines import Group, Line
from foveate.report.model import Block, Number, Row, signed, text
from foveate.report.published import TOWER, tower

DRAWN = (
    "Measured on drawn scenes, with {}. These figures say how methods compare there, and nothing of "
    "photographs; no published figure stands beside them."
)
_TINY = "the small CLIP that was trained on such scenes"
PARTIAL = "† the mean is over fewer seeds or sets than the table has; what is missing is listed."
FIGURES = ("row", "set", "classes", "mean", "sd", "seeds", "95 % interval", "published", "difference")


@dataclass(frozen=True)
class Context:
    """What all tables share.

    Attributes:
        bootstrap: Where draws come from.
        against: Whether published figures are wanted.
    """

    bootstrap: Bootstrap
    against: bool

    def beside(self, group: Group, *, towers: str = TOWER) -> bool:
        """Return whether published figures may stand beside: of photographs, on the same kind of tower."""
        return self.against and not group.drawn and tower(group.clip) in (None, towers)

    def notes(
        self, group: Group, lines: Sequence[Line], *, marked: bool, towers: str = TOWER, paper: bool = True
    ) -> list[str]:
        """Return what is to be said under any table.

        Args:
            group: What it is of.
            lines: Its rows.
            marked: Whether a figure bears a †.
            towers: Those of the published figures.
            paper: Whether there are published figures of such a table.
        """
        notes = [DRAWN.format(_TINY if group.clip == "tiny" else group.clip)] if group.drawn else []
        if paper and self.against and not group.drawn and not self.beside(group, towers=towers):
            notes.append(
                f"No published figures stand beside these: they are of {towers}, these of {group.clip}."
            )
        if paper and self.beside(group, towers=towers):
            parts = odd_sets(result for line in lines for result in line.results)
            notes += _of_parts(sorted(parts.values()))
        if marked:
            notes.append(PARTIAL)
        return notes

    def card(self, group: Group, lines: Sequence[Line], *, towers: str = TOWER) -> Card:
        """Return the protocol card."""
        return card_of(group, lines, published=self.beside(group, towers=towers))


def _of_parts(parts: Sequence[str]) -> list[str]:
    if not parts:
        return []
    return [
        f"No published figure stands beside parts of sets, nor beside averages with them: {'; '.join(parts)}."
    ]


def titled(title: str, group: Group) -> str:
    """Return a section's title, with what sets it apart from others of its protocol."""
    return f"{title}{group.apart and f' ({group.apart})'}"


def figures_row(label: str, where: str, split: str, number: Number) -> Row:
    """Return a figure with all that is known of it, as a row of "all figures"."""
    plain = Number(number.value, digits=number.digits, signed=number.signed, mark=number.mark)
    cells = (
        *(where, split, text(plain)),
        "–" if number.sd is None else f"{number.sd:.2f}",
        str(number.seeds or "–"),
        "–" if number.low is None or number.high is None else f"{number.low:.2f} to {number.high:.2f}",
        "–" if number.published is None else f"{number.published:.2f}",
        "–" if number.difference is None else signed(number.difference),
    )
    return Row(label, cells)


def figures_block(rows: Iterable[Row]) -> Block:
    """Return all figures; columns that nothing is in are left out."""
    rows = list(rows)
    kept = [place for place in range(len(FIGURES) - 1) if any(row.cells[place] != "–" for row in rows)]
    columns = (FIGURES[0], *(FIGURES[1:][place] for place in kept))
    return Block(
        "All figures",
        columns,
        tuple(Row(row.label, tuple(row.cells[p] for p in kept)) for row in rows),
        "figures",
    )


def any_marked(estimates: Iterable[Estimate]) -> bool:
    """Return whether any figure is marked as partial."""
    return any(estimate.mark for estimate in estimates)
