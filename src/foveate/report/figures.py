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
        first_lines = frame.drop_duplicates("label")[["label", "name", "method", "config"]]
        self.rows = {str(line["label"]): line for line in first_lines.to_dict("records")}
        self.labels = tuple(labels or sorted(self.rows, key=self._row_order))
        self.seeds = tuple(sorted(set(frame["seed"].tolist())))
        self.protocol = str(frame["protocol"].iloc[0])

    @cached_property
    def estimates(self) -> dict[FigureKey, Estimate]:
        """All figures by key: first each set, then averages; HM last."""
        estimates = {
            key: self.bootstrap.estimate(answers, self.seeds) for key, answers in self._complete().items()
        }
        estimates |= dict(self._other_measures())
        estimates |= dict(self._averages(estimates))
        return estimates | dict(_harmonic(estimates))

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
        distinct = dict.fromkeys(self.frame["condition"])
        return tuple(sorted(distinct, key=lambda condition: condition != ""))

    @cached_property
    def measures(self) -> tuple[str, ...]:
        """The main measures: base, new and HM; accuracy; or source and target."""
        names = tuple(dict.fromkeys(key.measure for key in self.answers))
        return THREE if "new" in names else tuple(sorted(names))

    @cached_property
    def _lines(self) -> dict[tuple[str, str, float, str], dict[str, list[dict[str, Any]]]]:
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
        lines: dict[Any, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for line in self.frame[columns].sort_values("seed", kind="stable").to_dict("records"):
            lines[tuple(line[name] for name in _WHERE)][str(line["split"])].append(
                cast("dict[str, Any]", line)
            )
        return lines

    @cached_property
    def answers(self) -> dict[FigureKey, RowAnswers]:
        """Answers by key."""
        halves = {"base": ("base",), "new": ("new",)}
        all_classes = (
            self.protocol in ("few-shot", "data-efficiency") and not (self.frame["split"] == "new").any()
        )
        answers: dict[FigureKey, RowAnswers] = {}
        for where, splits in self._lines.items():
            measures = {"accuracy": ("base", "all")} if all_classes else halves
            if self.source is not None:
                on_source = where[1] == self.source
                measures = (
                    {"source": ("base", "all", "new")} if on_source else {"target": ("new", "all", "base")}
                )
            for measure, order in measures.items():
                split = next((split for split in order if split in splits), None)
                if split is not None:
                    answers[FigureKey(*where, measure)] = _answers_of(splits[split])
        return answers

    def _complete(self) -> dict[FigureKey, RowAnswers]:
        """Return the answers; base and new are left out if the other one is missing."""
        other = {"base": "new", "new": "base"}
        return {
            key: answers
            for key, answers in self.answers.items()
            if self.measures != THREE or key._replace(measure=other[key.measure]) in self.answers
        }

    def _other_measures(self) -> Iterator[tuple[FigureKey, Estimate]]:
        """Yield shift index and worst group of each split, and the accuracies among all names."""
        for where, splits in self._lines.items():
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
        at_home = self._lines.get((*where[:3], _HOME), {})
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

    def _averages(self, per_set: Mapping[FigureKey, Estimate]) -> Iterator[tuple[FigureKey, Estimate]]:
        parts: dict[FigureKey, list[Estimate]] = defaultdict(list)
        for key, estimate in per_set.items():
            if key.set in self.targets:
                parts[key._replace(set=AVERAGE)].append(estimate)
        for key, estimates in parts.items():
            yield key, average(estimates, len(estimates) == len(self.sets_under(key.condition)))

    def sets_under(self, condition: str) -> list[str]:
        """Return the sets, except a source, for which any row has results under a condition."""
        tested = set(self.frame.loc[self.frame["condition"] == condition, "tested_on"])
        return [key for key in self.targets if key in tested]

    def sets_of(self, key: FigureKey) -> list[str]:
        """Return the sets that a figure covers: one, or those of an average."""
        if key.set != AVERAGE:
            return [key.set]
        return [target for target in self.targets if key._replace(set=target) in self.estimates]

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Descriptions of runs that other rows have and one row lacks."""
        needed: dict[FigureKey, set[str]] = defaultdict(set)
        for key in self.answers:
            needed[key._replace(label="", measure="")].add(key.measure)
        questions = sorted(needed, key=self._key_order)
        return tuple(
            f"{label} on {self.where(key)}, seed {seed}"
            for label in self.labels
            for key in questions
            for seed in self.seeds
            if not all(
                self._answered(key._replace(label=label, measure=measure), seed) for measure in needed[key]
            )
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
        pairs: list[tuple[str, str]] = []
        for label in self.labels:
            host = self.method(label).partition("+")[2]
            backbones = [other for other in self.labels if self.method(other) == host]
            plain_label = published.plain(label)
            by_name = [
                other for other in backbones if plain_label.startswith(published.plain(self.name(other)))
            ]
            if host and (by_name or len(backbones) == 1):
                pairs.append(((by_name or backbones)[0], label))
        return pairs

    def same_answers(self) -> list[str]:
        """Return notes on rows whose answers are all identical, for instance because nothing was learned."""
        labels_by_answers: dict[Hashable, list[str]] = defaultdict(list)
        for label in self.labels:
            row_answers = {key[1:]: answers for key, answers in self.answers.items() if key.label == label}
            if row_answers and all(answers.right is not None for answers in row_answers.values()):
                fingerprint = {
                    (key, answers.digest, tuple(answers.accuracy), answers.right.numpy().tobytes())
                    for key, answers in row_answers.items()
                    if answers.right is not None
                }
                labels_by_answers[frozenset(fingerprint)].append(label)
        return [
            f"{', '.join(labels[1:])} gave the same answers as {labels[0]} to every picture, under every "
            "seed."
            for labels in labels_by_answers.values()
            if len(labels) > 1
        ]

    def drawn_together(self, before: FigureKey, after: FigureKey) -> tuple[Estimate, Estimate]:
        """Return two rows' figures for one question, over their common seeds and with common draws."""
        if (before, after) not in self._drawn:
            estimates = self.bootstrap.both(self.answers[before], self.answers[after])
            self._drawn[before, after] = estimates
        return self._drawn[before, after]

    def comparable(
        self, before: str, after: str
    ) -> tuple[dict[FigureKey, tuple[RowAnswers, RowAnswers]], list[str]]:
        """Return the answers of two rows to the same questions, and questions with different pictures."""
        pairs: dict[FigureKey, tuple[RowAnswers, RowAnswers]] = {}
        refused: list[str] = []
        for key in sorted(self.answers, key=self._key_order):
            second = self.answers.get(key._replace(label=after))
            if key.label != before or second is None:
                continue
            first = self.answers[key]
            if first.shared_seeds(second):
                pairs[key._replace(label=after)] = first, second
            else:
                refused.append(f"{self.where(key)} ({first.split})")
        return pairs, refused


def _answers_of(lines: Sequence[Mapping[str, Any]]) -> RowAnswers:
    """Return the answers of a row's runs to one question; each line is one seed."""
    first = lines[0]
    shared = len({(line["digest"], line["pictures"]) for line in lines}) == 1
    right = torch.stack([unpacked(line["answers"], line["pictures"]) for line in lines]) if shared else None
    accuracy = {line["seed"]: line["accuracy"] for line in lines}
    question = (first["tested_on"], first["split"], first["condition"])
    training = (first["trained_on"], first["amount"])
    return RowAnswers(training, *question, accuracy, right, first["digest"] if shared else None)


def _harmonic(estimates: Mapping[FigureKey, Estimate]) -> Iterator[tuple[FigureKey, Estimate]]:
    for key, estimate in estimates.items():
        for measure, (first, second) in _HALVES.items():
            other = estimates.get(key._replace(measure=second))
            if key.measure == first and other is not None:
                yield key._replace(measure=measure), hm(estimate, other)


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
    answers, _ = figures.comparable(before, after)
    measures: dict[FigureKey, set[str]] = defaultdict(set)
    for key in figures.answers:
        if key.label in (before, after):
            measures[key._replace(label=after, measure="")].add(key.measure)
    groups: dict[FigureKey, list[FigureKey]] = defaultdict(list)
    neutral = {"set": AVERAGE, "amount": 0.0, "condition": ""}
    for key in answers:
        complete = all(
            key._replace(measure=measure) in answers for measure in measures[key._replace(measure="")]
        )
        if "set" in by or (complete and key.measure != "source"):
            groups[key._replace(**{name: value for name, value in neutral.items() if name not in by})].append(
                key
            )
    by_key: dict[FigureKey, Difference] = {}
    for key, members in groups.items():
        estimates = [figures.drawn_together(member._replace(label=before), member) for member in members]
        averages = [average([pair[side] for pair in estimates]) for side in (0, 1)]
        right = [_on_shared_seeds(*answers[member]) for member in members]
        only_first, only_second = (
            sum(int((pair[winner] & ~pair[1 - winner]).sum()) for pair in right) for winner in (0, 1)
        )
        p = paired_p(*right[0]) if len(right) == 1 else average_p(right)
        pictures = sum(pair[0].shape[1] for pair in right)
        by_key[key] = Difference(
            key,
            answers[members[0]][0].split,
            len(members),
            averages[0],
            averages[1],
            pictures,
            only_first,
            only_second,
            p,
        )
    return list(_with_harmonic(by_key))


def _on_shared_seeds(first: RowAnswers, second: RowAnswers) -> tuple[torch.Tensor, torch.Tensor]:
    common = first.shared_seeds(second)
    return first.of_seeds(common), second.of_seeds(common)


def _with_harmonic(by_key: Mapping[FigureKey, Difference]) -> Iterator[Difference]:
    for key, diff in by_key.items():
        yield diff
        base = by_key.get(key._replace(measure="base"))
        if key.measure == "new" and base is not None:
            before, after = hm(base.before, diff.before), hm(base.after, diff.after)
            yield Difference(key._replace(measure="HM"), "HM", diff.sets, before, after)


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
        group_lines = group.frame[group.frame["label"].isin([first, second])]
        if group_lines["label"].nunique() < 2:
            continue
        for diff in differences(Figures(group_lines, bootstrap or Bootstrap()), second, first, by):
            low, high = diff.estimate.interval
            seeds = dict(diff.estimate.seeds)
            lines.append(
                {
                    "protocol": group.protocol,
                    "group": group.apart,
                    **{name: value for name, value in diff.key._asdict().items() if name != "label"},
                    "difference": diff.estimate.value,
                    "low": low,
                    "high": high,
                    "sd": deviation(list(seeds.values())),
                    "seeds": seeds,
                    "sets": diff.sets,
                    "pictures": diff.pictures,
                    "only_a": diff.only_second,
                    "only_b": diff.only_first,
                    "p": float("nan") if diff.p is None else diff.p,
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
    for matches in (
        [label for label in methods if label == name],
        [label for label in methods if published.plain(label) == published.plain(name)],
        [label for label, method in methods.items() if method == name],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise InputError(f"{name!r} may be {' or '.join(map(repr, matches))}: give one of these")
    similar = difflib.get_close_matches(name, methods, 1, 0.5)
    hint = f"did you mean {similar[0]!r}? " if similar else ""
    raise InputError(f"there is no row {name!r}: {hint}rows are {', '.join(map(repr, sorted(methods)))}")
