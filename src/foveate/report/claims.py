"""Tests the papers' claims, listed in `claims.yaml`, on the results of a sweep.

Each claim is a difference between two rows, computed under each test condition. The report gives the
mean over seeds, its 95 % interval over pictures and seeds, the exact paired test, and a verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from foveate.errors import InputError
from foveate.report.figures import paired
from foveate.report.frame import ResultGroup
from foveate.report.model import Number, ReportBlock, Section, TableRow, signed
from foveate.report.protocol import ReportContext

TRANSFER = "cross-dataset"
HOLDS, NOT, OPEN = "holds here", "does not", "can't be told"
SMALL = 1.0
"""Differences below this number of points are no gain, whatever their sign."""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Attributes:
        claim: The claim, in words.
        source: The paper, and the section in it.
        rows: Pairs of rows; the effect is the first minus the second.
        measure: "base", "new", "HM", "HM of all names", "target"; empty if the claim is about errors or gaze.
        errors: "base" or "new": the split whose wrong answers are compared with correct ones, by
            foreground shift.
        gaze: "base" or "new": the split whose heat maps are compared, by their share on the object.
        protocol: Protocol of the runs.
    """

    claim: str
    source: str
    rows: tuple[Mapping[str, str], ...]
    measure: str = ""
    errors: str = ""
    gaze: str = ""
    protocol: str = "base-to-new"

    @property
    def unit(self) -> str:
        """Description of the measured quantity, with its unit."""
        if self.errors:
            return f"foreground shift of wrong less right answers, nats, {self.errors}"
        return f"share of heat maps on the object, points, {self.gaze}" if self.gaze else self.measure


@dataclass(frozen=True)
class Effect:
    """Measured effect of a claim under one condition.

    Attributes:
        value: Mean difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
        p: P value of the paired test; None if there is none.
        small: Differences below this value count as none.
    """

    value: float
    low: float
    high: float
    p: float | None
    small: float

    @property
    def verdict(self) -> str:
        """Whether the claim holds."""
        if self.low > 0:
            return HOLDS
        return NOT if self.high < 0 or max(-self.low, self.high) <= self.small else OPEN


@cache
def claims() -> tuple[Claim, ...]:
    """Return all claims in `claims.yaml`."""
    text = files("foveate.report").joinpath("claims.yaml").read_text(encoding="utf-8")
    rows = cast("list[dict[str, Any]]", yaml.safe_load(text))
    return tuple(Claim(**cast("dict[str, Any]", {**row, "rows": tuple(row["rows"])})) for row in rows)


def section(group: ResultGroup, context: ReportContext) -> Section | None:
    """Return the section of the claims that the group can test; None without test conditions or such rows."""
    transfer = group.drawn and group.protocol == TRANSFER
    conditions = [condition for condition in dict.fromkeys(group.frame["condition"]) if condition or transfer]
    of_protocol = (
        [candidate for candidate in claims() if candidate.protocol == group.protocol] if conditions else []
    )
    measured = [(claim, dict(_effects(claim, group.frame, context))) for claim in of_protocol]
    testable = [(claim, effects) for claim, effects in measured if effects]
    if not testable:
        return None
    blocks = [_block(claim, effects, conditions) for claim, effects in testable]
    seeds = group.frame["seed"].nunique()
    headings = ", ".join(map(_heading, conditions))
    base_to_new = group.protocol == "base-to-new"
    return Section(
        key="claims" if base_to_new else f"claims-{group.protocol}",
        title=group.titled("The papers' claims" if base_to_new else f"The papers' claims: {group.protocol}"),
        lead=(
            "What each claim comes to here: the first row's figure less the second's, with its 95 % interval "
            f"over pictures and seeds, by where test scenes stand: {headings}. A claim holds if "
            "the whole interval is above 0. It does not if the interval is below 0, or within 1 point of it. "
            f"Otherwise it can't be told from up to {seeds} seeds. The first table counts pairs of rows of "
            "which a claim holds, does not, or is open."
        ),
        blocks=(_summary(testable, conditions), *blocks),
        drawn=group.drawn,
    )


def _effects(
    claim: Claim, frame: pd.DataFrame, context: ReportContext
) -> Iterator[tuple[str, dict[str, Effect]]]:
    """Yield the measured pairs of rows of a claim, with their effect under each condition."""
    for pair in claim.rows:
        name = " − ".join(pair.values())
        for amount, lines in frame.groupby("amount", sort=True):
            if claim.errors:
                effects = _error_effects(lines, pair["more"], claim.errors)
            elif claim.gaze:
                effects = _gaze_effects(lines, pair, claim.gaze)
            else:
                effects = _pair_effects(lines, pair, claim.measure, context)
            if effects:
                yield f"{name}, {amount:.0%} of the shots" if amount else name, effects


def _pair_effects(
    frame: pd.DataFrame, pair: Mapping[str, str], measure: str, context: ReportContext
) -> dict[str, Effect]:
    if not set(pair.values()) <= set(frame["name"]):
        return {}
    pair_lines = frame[frame["name"].isin(list(pair.values()))]
    try:
        table = paired(pair_lines, pair["more"], pair["less"], by=("condition",), bootstrap=context.bootstrap)
    except InputError:  # the rows have no common seeds yet
        return {}
    lines = table[table["measure"] == measure].to_dict("records")
    return {
        str(line["condition"]): Effect(
            line["difference"], line["low"], line["high"], None if np.isnan(line["p"]) else line["p"], SMALL
        )
        for line in lines
    }


def _error_effects(frame: pd.DataFrame, name: str, split: str) -> dict[str, Effect]:
    """Return the foreground shift of wrong minus that of correct answers, in nats, over seeds."""
    selected = frame[(frame["name"] == name) & (frame["split"] == split)]
    effects: dict[str, Effect] = {}
    for condition, lines in selected.groupby("condition", sort=False):
        gaps = (lines["shift_wrong"] - lines["shift_right"]).dropna().to_numpy(float)
        if len(gaps) >= 2:
            effects[str(condition)] = _effect_over_seeds(gaps, 0.0)
    return effects


def _gaze_effects(frame: pd.DataFrame, pair: Mapping[str, str], split: str) -> dict[str, Effect]:
    """Return the difference in points of the shares of heat maps on the object, over shared seeds."""
    selected = frame[frame["name"].isin(list(pair.values())) & (frame["split"] == split)]
    effects: dict[str, Effect] = {}
    for condition, lines in selected.groupby("condition", sort=False):
        shares = lines.pivot_table(index="seed", columns="name", values="gaze").dropna()
        if len(shares) >= 2 and set(pair.values()) <= set(shares.columns):
            gaps = (100 * (shares[pair["more"]] - shares[pair["less"]])).to_numpy(float)
            effects[str(condition)] = _effect_over_seeds(gaps, SMALL)
    return effects


def _effect_over_seeds(values: np.ndarray, small: float) -> Effect:
    """Return the mean of one value per seed, with its interval and test by Student's t."""
    if np.ptp(values) == 0:  # zero-shot CLIP does not depend on the seed
        return Effect(values[0], values[0], values[0], None, small)
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(0.95)
    return Effect(float(values.mean()), float(interval.low), float(interval.high), float(test.pvalue), small)


def _heading(condition: str) -> str:
    """Return a condition's heading; the tests of a transfer have no condition."""
    return condition or "other sets"


def _summary(
    testable: Sequence[tuple[Claim, Mapping[str, Mapping[str, Effect]]]], conditions: Sequence[str]
) -> ReportBlock:
    """Return the summary table: for each claim, the number of pairs of rows with each verdict."""
    rows: list[TableRow] = []
    for claim, effects in testable:
        cells: list[str] = []
        for condition in conditions:
            verdicts = [
                by_condition[condition].verdict
                for by_condition in effects.values()
                if condition in by_condition
            ]
            counts = {"hold": verdicts.count(HOLDS), "not": verdicts.count(NOT), "open": verdicts.count(OPEN)}
            cells.append(", ".join(f"{number} {word}" for word, number in counts.items() if number))
        rows.append(TableRow(f"{claim.claim} ({claim.source})", tuple(cells)))
    return ReportBlock("", ("claim", *map(_heading, conditions)), tuple(rows))


def _block(
    claim: Claim, effects: Mapping[str, Mapping[str, Effect]], conditions: Sequence[str]
) -> ReportBlock:
    rows = [
        TableRow(
            name,
            tuple(
                cell
                for condition in conditions
                for cell in _cells(by_condition.get(condition), bool(claim.errors))
            ),
        )
        for name, by_condition in effects.items()
    ]
    columns = [name for heading in map(_heading, conditions) for name in (heading, f"{heading}: verdict")]
    return ReportBlock(f"{claim.claim} ({claim.unit})", ("rows", *columns), tuple(rows))


def _cells(effect: Effect | None, fine: bool) -> tuple[str, str]:
    """Return a difference with its interval as text, and its verdict."""
    if effect is None:
        return "–", ""
    digits = 3 if fine else 1
    interval = " to ".join(signed(end, digits) for end in (effect.low, effect.high))
    p = "" if effect.p is None else f", p {Number(effect.p, digits=3, least=0.001).text}"
    return f"{signed(effect.value, digits)} ({interval}{p})", effect.verdict
