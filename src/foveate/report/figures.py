"""Computes figures from the long table: estimates for every row, and differences between rows.

A figure has a `FigureKey`: row, test set, amount of training data, test condition and measure. Averages
over sets are computed last: an average HM is the HM of the averaged base and the averaged new accuracy.
"""

import difflib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import pandas as pd
import torch

from foveate.errors import InputError
from foveate.evaluate.metrics import mean, worst_group
from foveate.report import published
from foveate.report.frame import ResultGroup, groups_of, set_order, set_title
from foveate.report.statistics import (
    Bootstrap,
    Estimate,
    RowAnswers,
    average,
    average_p,
    deviation,
    difference,
    hm,
    paired_p,
)
from foveate.sweep.results import unpacked

AVERAGE = ""
"""Value of `set` for the mean over all sets; with a source set, the mean over all targets."""
THREE = ("base", "new", "HM")
MIXED = ("trained", "others", "HM of all names", "all")
_HALVES = {"HM": ("base", "new"), "HM of all names": ("trained", "others")}
_TRANSFER = ("cross-dataset", "domain-generalisation")
_WHERE = ("label", "tested_on", "amount", "condition")
_MORE = ("shift", "trained", "others", "per_class")
_HOME = "home"


class FigureKey(NamedTuple):
    """Key of a figure.

    Attributes:
        label: Label of the row.
        set: Key of the test set; `AVERAGE` for the mean over sets.
        amount: Shots or share of the training data; 0 if it does not vary.
        condition: Test condition; empty for the plain test.
        measure: "base", "new", "HM", "accuracy", "source", "target", "trained", "others", "all", "shift
            base", ...
    """

    label: str
    set: str
    amount: float
    condition: str
    measure: str


class Figures:
    """All figures of some rows of a group.

    Attributes:
        frame: The rows' lines of the long table.
        labels: Labels in order: CLIP first, then as in Table 1, backbones before plug-ins, then by name.
        seeds: All seeds of any row.
    """

    def __init__(self, frame: pd.DataFrame, bootstrap: Bootstrap, labels: Sequence[str] = ()) -> None:
        """Prepare the computation; figures are computed on access.

        Args:
            frame: Lines of a `ResultGroup`, all or some of them.
            bootstrap: Source of the bootstrap draws.
            labels: Labels of the rows, to set another order.
        """
        self.frame, self.bootstrap = frame, bootstrap
        self._drawn: dict[tuple[FigureKey, FigureKey], tuple[Estimate, Estimate]] = {}
        first = frame.drop_duplicates("label")[["label", "name", "method", "config"]]
        self.rows = {str(one["label"]): one for one in first.to_dict("records")}
        self.labels = tuple(labels or sorted(self.rows, key=self._row_order))
        self.seeds = tuple(sorted(set(frame["seed"].tolist())))
        self.protocol = str(frame["protocol"].iloc[0])

    @cached_property
    def found(self) -> dict[FigureKey, Estimate]:
        """All figures by key: first each set, then averages; HM last."""
        found = {key: self.bootstrap.estimate(one, self.seeds) for key, one in self._complete().items()}
        found |= dict(self._other_measures())
        found |= dict(self._averages(found))
        return found | dict(_harmonic(found))

    def _row_order(self, label: str) -> tuple[bool, int, bool, str]:
        method = self.method(label)
        return method != "zeroshot", published.row_rank(self.name(label)), "+" in method, label

    def method(self, label: str) -> str:
        """Return the method of a row."""
        return str(self.rows[label]["method"])

    def name(self, label: str) -> str:
        """Return the name of a row, without the settings that its label may add."""
        return str(self.rows[label]["name"])

    def config(self, label: str) -> Mapping[str, Any]:
        """Return all settings of a row's first run."""
        return cast("Mapping[str, Any]", self.rows[label]["config"])

    @cached_property
    def source(self) -> str | None:
        """Key of the single training set, if the test sets are other sets (targets)."""
        return str(self.frame["trained_on"].iloc[0]) if self.protocol in _TRANSFER else None

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Keys of all test sets in Table 1's order; a source set is first."""
        return tuple(
            sorted(set(self.frame["tested_on"]), key=lambda key: (key != self.source, set_order(key)))
        )

    @cached_property
    def targets(self) -> tuple[str, ...]:
        """Keys of the sets that are averaged."""
        return tuple(key for key in self.sets if key != self.source)

    @cached_property
    def amounts(self) -> tuple[float, ...]:
        """All amounts of training data, in increasing order."""
        return tuple(sorted(set(self.frame["amount"].tolist())))

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """All test conditions: the plain one first, then in the order of the results."""
        seen = dict.fromkeys(self.frame["condition"])
        return tuple(sorted(seen, key=lambda condition: condition != ""))

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """The main measures: base, new and HM; accuracy; or source and target."""
        asked = tuple(dict.fromkeys(key.measure for key in self.answers))
        return THREE if "new" in asked else tuple(sorted(asked))

    @cached_property
    def _asked(self) -> dict[tuple[str, str, float, str], dict[str, list[dict[str, Any]]]]:
        """Lines of the long table, one for each seed, by (row, test set, amount, condition) and split."""
        columns = [
            *_WHERE,
            "split",
            "seed",
            "trained_on",
            "accuracy",
            "digest",
            "pictures",
            "answers",
            *_MORE,
        ]
        found: dict[Any, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for line in self.frame[columns].sort_values("seed", kind="stable").to_dict("records"):
            found[tuple(line[name] for name in _WHERE)][str(line["split"])].append(
                cast("dict[str, Any]", line)
            )
        return found

    @cached_property
    def answers(self) -> dict[FigureKey, RowAnswers]:
        """Answers by key."""
        halves = {"base": ("base",), "new": ("new",)}
        few = self.protocol in ("few-shot", "data-efficiency") and not (self.frame["split"] == "new").any()
        found: dict[FigureKey, RowAnswers] = {}
        for where, splits in self._asked.items():
            measures = {"accuracy": ("base", "all")} if few else halves
            if self.source is not None:
                at_home = where[1] == self.source
                measures = (
                    {"source": ("base", "all", "new")} if at_home else {"target": ("new", "all", "base")}
                )
            for measure, order in measures.items():
                split = next((split for split in order if split in splits), None)
                if split is not None:
                    found[FigureKey(*where, measure)] = _answers_of(splits[split])
        return found

    def _complete(self) -> dict[FigureKey, RowAnswers]:
        """Return the answers; base and new are left out if the other one is missing."""
        other = {"base": "new", "new": "base"}
        return {
            key: one
            for key, one in self.answers.items()
            if self.measures != THREE or key._replace(measure=other[key.measure]) in self.answers
        }

    def _other_measures(self) -> Iterator[tuple[FigureKey, Estimate]]:
        """Yield shift index and worst group of each split, and the accuracies among all names."""
        for where, splits in self._asked.items():
            known: dict[str, dict[int, float]] = {
                f"shift {split}": {line["seed"]: line["shift"] for line in lines if pd.notna(line["shift"])}
                for split, lines in splits.items()
            }
            mixed = [
                line for line in splits.get("all", ()) if pd.notna([line["trained"], line["others"]]).all()
            ]
            for measure, column in (("trained", "trained"), ("others", "others"), ("all", "accuracy")):
                known[measure] = {line["seed"]: line[column] for line in mixed}
            known |= self._worst_groups(where, splits)
            for measure, values in known.items():
                if values:
                    mark = "" if set(self.seeds) <= set(values) else "†"
                    yield FigureKey(*where, measure), Estimate(mean(list(values.values())), values, mark=mark)

    def _worst_groups(
        self, where: tuple[str, str, float, str], splits: Mapping[str, Sequence[Mapping[str, Any]]]
    ) -> Iterator[tuple[str, dict[int, float]]]:
        """Yield the least accuracy, by seed, over the classes at home and those under a condition."""
        if not where[3]:
            return
        at_home = self._asked.get((*where[:3], _HOME), {})
        for split, lines in splits.items():
            home = {line["seed"]: line["per_class"] for line in at_home.get(split, ())}
            yield (
                f"worst group {split}",
                {
                    line["seed"]: worst_group([*home[line["seed"]].values(), *line["per_class"].values()])
                    for line in lines
                    if line["seed"] in home
                },
            )

    def _averages(self, found: Mapping[FigureKey, Estimate]) -> Iterator[tuple[FigureKey, Estimate]]:
        parts: dict[FigureKey, list[Estimate]] = defaultdict(list)
        for key, one in found.items():
            if key.set in self.targets:
                parts[key._replace(set=AVERAGE)].append(one)
        for key, own in parts.items():
            yield key, average(own, len(own) == len(self.sets_under(key.condition)))

    def sets_under(self, condition: str) -> list[str]:
        """Return the sets, except a source, for which any row has results under a condition."""
        asked = set(self.frame.loc[self.frame["condition"] == condition, "tested_on"])
        return [key for key in self.targets if key in asked]

    def sets_of(self, key: FigureKey) -> list[str]:
        """Return the sets that a figure covers: one, or those of an average."""
        if key.set != AVERAGE:
            return [key.set]
        return [one for one in self.targets if key._replace(set=one) in self.found]

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Descriptions of runs that other rows have and one row lacks."""
        needed: dict[FigureKey, set[str]] = defaultdict(set)
        for key in self.answers:
            needed[key._replace(label="", measure="")].add(key.measure)
        ordered = sorted(needed, key=self._key_order)
        return tuple(
            f"{label} on {self.where(key)}, seed {seed}"
            for label in self.labels
            for key in ordered
            for seed in self.seeds
            if not all(self._answered(key._replace(label=label, measure=one), seed) for one in needed[key])
        )

    def _key_order(self, key: FigureKey) -> tuple[int, float, int, str]:
        return self.sets.index(key.set), key.amount, self.conditions.index(key.condition), key.measure

    def _answered(self, key: FigureKey, seed: int) -> bool:
        answers = self.answers.get(key)
        return answers is not None and seed in answers.accuracy

    def where(self, key: FigureKey, *, amount: bool = True) -> str:
        """Return set, amount and condition as text: "DTD, 4 shots, home"."""
        title = "average" if key.set == AVERAGE else set_title(key.set)
        words = (title, self.amount_words(key.amount) if amount else "", key.condition)
        return ", ".join(word for word in words if word)

    def amount_words(self, amount: float) -> str:
        """Return an amount as text: "4 shots", "25 %"; empty if it does not vary."""
        if self.protocol == "few-shot":
            return f"{amount:g} shot{'s' * (amount != 1)}"
        return f"{100 * amount:g} %" if self.protocol == "data-efficiency" else ""

    def plug_ins(self) -> list[tuple[str, str]]:
        """Return pairs of rows, a backbone and a plug-in over it: "CoOp" and "CoOp + FVG-PT"."""
        found: list[tuple[str, str]] = []
        for label in self.labels:
            host = self.method(label).partition("+")[2]
            alone = [other for other in self.labels if self.method(other) == host]
            start = published.plain(label)
            named = [other for other in alone if start.startswith(published.plain(self.name(other)))]
            if host and (named or len(alone) == 1):
                found.append(((named or alone)[0], label))
        return found

    def same_answers(self) -> list[str]:
        """Return notes on rows with identical answers to every question, as after learning nothing."""
        found: dict[Hashable, list[str]] = defaultdict(list)
        for label in self.labels:
            own = {key[1:]: one for key, one in self.answers.items() if key.label == label}
            if own and all(one.right is not None for one in own.values()):
                given = {
                    (key, one.digest, tuple(one.accuracy), one.right.numpy().tobytes())
                    for key, one in own.items()
                    if one.right is not None
                }
                found[frozenset(given)].append(label)
        return [
            f"{', '.join(labels[1:])} gave the same answers as {labels[0]} to every picture, under every "
            "seed."
            for labels in found.values()
            if len(labels) > 1
        ]

    def drawn_together(self, before: FigureKey, after: FigureKey) -> tuple[Estimate, Estimate]:
        """Return the figures of two rows for one question, over their common seeds."""
        if (before, after) not in self._drawn:
            both = self.bootstrap.both(self.answers[before], self.answers[after])
            self._drawn[before, after] = both
        return self._drawn[before, after]

    def comparable(
        self, before: str, after: str
    ) -> tuple[dict[FigureKey, tuple[RowAnswers, RowAnswers]], list[str]]:
        """Return the answers of two rows to the same questions, and questions with different pictures."""
        both: dict[FigureKey, tuple[RowAnswers, RowAnswers]] = {}
        refused: list[str] = []
        for key in sorted(self.answers, key=self._key_order):
            other = self.answers.get(key._replace(label=after))
            if key.label != before or other is None:
                continue
            first = self.answers[key]
            if first.shared_seeds(other):
                both[key._replace(label=after)] = first, other
            else:
                refused.append(f"{self.where(key)} ({first.split})")
        return both, refused


def _answers_of(lines: Sequence[Mapping[str, Any]]) -> RowAnswers:
    """Return the answers of a row's runs to one question; each line is one seed."""
    first = lines[0]
    alike = len({(line["digest"], line["pictures"]) for line in lines}) == 1
    right = torch.stack([unpacked(line["answers"], line["pictures"]) for line in lines]) if alike else None
    accuracy = {line["seed"]: line["accuracy"] for line in lines}
    asked = (first["tested_on"], first["split"], first["condition"])
    place = (first["trained_on"], first["amount"])
    return RowAnswers(place, *asked, accuracy, right, first["digest"] if alike else None)


def _harmonic(found: Mapping[FigureKey, Estimate]) -> Iterator[tuple[FigureKey, Estimate]]:
    for key, one in found.items():
        for measure, (first, second) in _HALVES.items():
            other = found.get(key._replace(measure=second))
            if key.measure == first and other is not None:
                yield key._replace(measure=measure), hm(one, other)


@dataclass(frozen=True)
class Difference:
    """Difference of two rows on the same pictures under the same seeds.

    Attributes:
        key: Key of the second row; in a mean, set is `AVERAGE`, amount is 0 or condition is empty.
        split: Split of the test.
        sets: Number of sets.
        before: Figure of the first row.
        after: Figure of the second row.
        pictures: Number of pictures.
        only_first: Number of answers over all seeds that only the first row has right.
        only_second: Number of answers that only the second row has right.
        p: P value of the exact paired test; None for HM, which is not a mean over pictures.
    """

    key: FigureKey
    split: str
    sets: int
    before: Estimate
    after: Estimate
    pictures: int = 0
    only_first: int = 0
    only_second: int = 0
    p: float | None = None

    @cached_property
    def estimate(self) -> Estimate:
        """The difference, also by seed and in each bootstrap draw."""
        return difference(self.before, self.after)


def differences(
    figures: Figures, before: str, after: str, by: Collection[str] = ("set", "amount", "condition")
) -> list[Difference]:
    """Return the differences of two rows.

    Args:
        figures: Figures of both rows.
        before: Label of the row to subtract.
        after: Label of the other row.
        by: Axes to keep, of "set", "amount" and "condition"; the mean is taken over the others. A source
            set is never part of a mean. A set counts if all of its measures can be compared.
    """
    both, _ = figures.comparable(before, after)
    asked: dict[FigureKey, set[str]] = defaultdict(set)
    for key in figures.answers:
        if key.label in (before, after):
            asked[key._replace(label=after, measure="")].add(key.measure)
    parts: dict[FigureKey, list[FigureKey]] = defaultdict(list)
    neutral = {"set": AVERAGE, "amount": 0.0, "condition": ""}
    for key in both:
        whole = all(key._replace(measure=one) in both for one in asked[key._replace(measure="")])
        if "set" in by or (whole and key.measure != "source"):
            parts[key._replace(**{name: none for name, none in neutral.items() if name not in by})].append(
                key
            )
    found: dict[FigureKey, Difference] = {}
    for key, own in parts.items():
        drawn = [figures.drawn_together(one._replace(label=before), one) for one in own]
        sides = [average([pair[side] for pair in drawn]) for side in (0, 1)]
        tested = [_on_shared_seeds(*both[one]) for one in own]
        lost, won = (sum(int((pair[one] & ~pair[1 - one]).sum()) for pair in tested) for one in (0, 1))
        p = paired_p(*tested[0]) if len(tested) == 1 else average_p(tested)
        pictures = sum(pair[0].shape[1] for pair in tested)
        found[key] = Difference(
            key, both[own[0]][0].split, len(own), sides[0], sides[1], pictures, lost, won, p
        )
    return list(_with_harmonic(found))


def _on_shared_seeds(first: RowAnswers, second: RowAnswers) -> tuple[torch.Tensor, torch.Tensor]:
    common = first.shared_seeds(second)
    return first.of_seeds(common), second.of_seeds(common)


def _with_harmonic(found: Mapping[FigureKey, Difference]) -> Iterator[Difference]:
    for key, one in found.items():
        yield one
        base = found.get(key._replace(measure="base"))
        if key.measure == "new" and base is not None:
            before, after = hm(base.before, one.before), hm(base.after, one.after)
            yield Difference(key._replace(measure="HM"), "HM", one.sets, before, after)


def paired(
    frame: pd.DataFrame,
    a: str,
    b: str,
    *,
    by: Collection[str] = ("amount", "condition"),
    bootstrap: Bootstrap | None = None,
) -> pd.DataFrame:
    """Return the difference of row `a` minus row `b` on the same pictures under the same seeds.

    Args:
        frame: The long table (`SweepResults.frame`), or a part of it.
        a: Label of a row; its name, compared by letters and digits; or its method, if one row has it.
        b: The other row.
        by: Axes to keep, of "set", "amount" and "condition"; the mean is taken over the others.
        bootstrap: Source of the bootstrap draws.

    Returns:
        A line for each measure and each value of `by`: `protocol`, `group` (distinguishes the group from
            others of the protocol), `set`, `amount`, `condition`, `measure`, `difference` (mean, in
            percentage points), `low` and `high` (95 % bootstrap interval over pictures and seeds), `sd`
            (over seeds), `seeds` (a dict: the difference under each), `sets`, `pictures`, `only_a` and
            `only_b` (answers that only one row has right) and `p` (exact paired test, not corrected; NaN
            for HM).

    Raises:
        InputError: There is no such row, or both rows have no common question.
    """
    lines: list[dict[str, Any]] = []
    groups = groups_of(frame)
    first, second = (resolve(groups, name) for name in (a, b))
    for group in groups:
        own = group.frame[group.frame["label"].isin([first, second])]
        if own["label"].nunique() < 2:
            continue
        for one in differences(Figures(own, bootstrap or Bootstrap()), second, first, by):
            low, high = one.estimate.interval
            seeds = dict(one.estimate.seeds)
            lines.append(
                {
                    "protocol": group.protocol,
                    "group": group.apart,
                    **{name: value for name, value in one.key._asdict().items() if name != "label"},
                    "difference": one.estimate.value,
                    "low": low,
                    "high": high,
                    "sd": deviation(list(seeds.values())),
                    "seeds": seeds,
                    "sets": one.sets,
                    "pictures": one.pictures,
                    "only_a": one.only_second,
                    "only_b": one.only_first,
                    "p": float("nan") if one.p is None else one.p,
                }
            )
    if not lines:
        raise InputError(
            f"{first} and {second} share no table with a test on the same pictures under the same seeds"
        )
    return pd.DataFrame(lines)


def resolve(groups: Iterable[ResultGroup], name: str) -> str:
    """Return the label of a row, given its label, its name (letters and digits only), or its method.

    Raises:
        InputError: There is no such row, or several rows have this method.
    """
    methods = {
        str(label): str(method)
        for group in groups
        for label, method in zip(group.frame["label"], group.frame["method"], strict=True)
    }
    for found in (
        [label for label in methods if label == name],
        [label for label in methods if published.plain(label) == published.plain(name)],
        [label for label, method in methods.items() if method == name],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{name!r} may be {' or '.join(map(repr, found))}: give one of these")
    near = difflib.get_close_matches(name, methods, 1, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"there is no row {name!r}: {hint}rows are {', '.join(map(repr, sorted(methods)))}")
