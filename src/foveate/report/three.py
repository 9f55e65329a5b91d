"""Base, new and HM of rows, set by set and on average, as Table 1 and the ablations have them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from foveate.report.estimates import Answers, Bootstrap, Estimate, answers_of, average, hm
from foveate.report.lines import Group, Line
from foveate.report.published import row_rank, set_rank
from foveate.report.titles import set_title

Kind = Literal["base", "new", "hm"]
KINDS: tuple[Kind, ...] = ("base", "new", "hm")
HEADS = ("base", "new", "HM")


@dataclass(frozen=True)
class Three:
    """What one row has on one set, or on average over several.

    Attributes:
        base: Accuracy on base classes among base names.
        new: On new ones among new names.
        hm: Harmonic mean of these two.
    """

    base: Estimate
    new: Estimate
    hm: Estimate

    def __getitem__(self, kind: Kind) -> Estimate:
        return {"base": self.base, "new": self.new, "hm": self.hm}[kind]


@dataclass(frozen=True)
class Rows:
    """Rows of a group that share a table.

    Attributes:
        group: They belong to.
        lines: Which.
        bootstrap: Where draws come from.
    """

    group: Group
    lines: tuple[Line, ...]
    bootstrap: Bootstrap

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Keys of the sets that any of them was trained on, in the paper's order."""
        keys = {place[0] for line in self.lines for place in line.runs}
        return tuple(sorted(keys, key=set_order))

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """All seeds of any of them."""
        return tuple(sorted({result.seed for line in self.lines for result in line.results}))

    @cached_property
    def found(self) -> Mapping[str, Mapping[str, Three]]:
        """By label of the line and set; a set is left out where base or new is missing."""
        return {line.label: self._of_line(line) for line in self.lines}

    @cached_property
    def averages(self) -> Mapping[str, Three]:
        """By label of the line: base and new on average, and the HM of these two."""
        found: dict[str, Three] = {}
        for label, own in self.found.items():
            if own:
                whole = set(own) == set(self.sets)
                base, new = (
                    average([three[kind] for three in own.values()], whole) for kind in ("base", "new")
                )
                found[label] = Three(base, new, hm(base, new))
        return found

    def three(self, label: str, key: str | None) -> Three | None:
        """Return what a row has on a set, or on average; None where something is missing."""
        return self.averages.get(label) if key is None else self.found[label].get(key)

    def asked(self, line: Line) -> list[tuple[Answers | None, Answers | None]]:
        """Return a line's answers on base and new classes, set by set."""
        return [
            (answers_of(line, (key, 0.0), key, "base"), answers_of(line, (key, 0.0), key, "new"))
            for key in self.sets
        ]

    def asked_flat(self, line: Line) -> list[Answers | None]:
        """Return the same, without telling sets apart."""
        return [one for both in self.asked(line) for one in both]

    def missing(self) -> tuple[str, ...]:
        """Return the runs that others of these rows have and one has not."""
        return tuple(
            f"{line.label} on {set_title(key)}, seed {seed}"
            for line in self.lines
            for key in self.sets
            for seed in self.seeds
            if not _is_whole(line, key, seed)
        )

    def _of_line(self, line: Line) -> dict[str, Three]:
        found: dict[str, Three] = {}
        for key, (base, new) in zip(self.sets, self.asked(line), strict=True):
            if base is not None and new is not None:
                one, other = (self.bootstrap.estimate(half, self.seeds) for half in (base, new))
                found[key] = Three(one, other, hm(one, other))
        return found


def _is_whole(line: Line, key: str, seed: int) -> bool:
    run = line.runs.get((key, 0.0), {}).get(seed)
    return run is not None and run.of(key, "base") is not None and run.of(key, "new") is not None


def set_order(key: str) -> tuple[int, list[str | int], str]:
    """Return what sets are sorted by: their place in Table 1; "world-2" before "world-10"."""
    head, _, number = key.rpartition("-")
    return (set_rank(set_title(key)), [head, int(number)] if number.isdigit() else [key, 0], key)


def line_order(line: Line) -> tuple[bool, int, bool, str]:
    """Return what rows are sorted by: CLIP, as in Table 1, backbones before plug-ins, by name."""
    return (line.method != "zeroshot", row_rank(line.name), "+" in line.method, line.label)


def highest(estimates: Sequence[Estimate]) -> float | None:
    """Return the highest of several, to two digits; None where there is nothing to compare, or all are alike.

    A mean over fewer seeds or sets than the others' is never the highest, and where it seems to be, none is;
    nor is any where rows were tested on different pictures.
    """
    whole = [one for one in estimates if not one.mark]
    if len(whole) < 2 or len({one.tested for one in whole}) > 1:
        return None
    values = [round(one.value, 2) for one in estimates]
    best = max(round(one.value, 2) for one in whole)
    return best if best >= max(values) and min(values) < best else None


def is_best(estimate: Estimate, best: float | None) -> bool:
    """Return whether a figure is the highest."""
    return not estimate.mark and best is not None and round(estimate.value, 2) == best
