"""Rows against each other, where they were tested on the very same pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from foveate.report.estimates import Answers, Bootstrap, Estimate, average, difference, hm
from foveate.report.lines import Line
from foveate.report.model import Block, Number, Row, signed
from foveate.report.published import plain
from foveate.report.statistics import holm, paired_p

Asked = Callable[[Line], Sequence[Answers | None]]
"""A line's answers, question by question, in an order that is the same for all lines."""

AskedSets = Callable[[Line], Sequence[Sequence[Answers | None]]]
"""The same, set by set."""

ALPHA = 0.05
"""A corrected p below it is called significant."""


def plug_ins(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Return each backbone's line with that of a plug-in over it: "CoOp" and "CoOp + FVG-PT"."""
    found: list[tuple[Line, Line]] = []
    for line in lines:
        host = line.method.partition("+")[2]
        named = [
            other
            for other in lines
            if other.method == host and plain(line.label).startswith(plain(other.name))
        ]
        alone = [other for other in lines if other.method == host]
        if host and (named or len(alone) == 1):
            found.append(((named or alone)[0], line))
    return found


def against(reference: Line, lines: Iterable[Line]) -> list[tuple[Line, Line]]:
    """Return one line with each of the others."""
    return [(reference, line) for line in lines if line is not reference]


@dataclass(frozen=True)
class Test:
    """One comparison.

    Attributes:
        pair: What is compared, in words.
        dataset: Title of the set.
        split: Of it.
        gain: Percent by which the second is higher.
        seeds: How many both have.
        pictures: How many.
        first: Answers of all seeds that only the first has right.
        second: That only the second has right.
        p: Of the exact test.
    """

    pair: str
    dataset: str
    split: str
    gain: float
    seeds: int
    pictures: int
    first: int
    second: int
    p: float


def tests_of(
    pairs: Iterable[tuple[Line, Line]], asked: Asked, title: Callable[[str], str]
) -> tuple[list[Test], list[str]]:
    """Compare lines question by question.

    Returns:
        Tests, and sentences on what was not compared and why.
    """
    tests: list[Test] = []
    refused: dict[str, list[str]] = defaultdict(list)
    for one, other in pairs:
        for first, second in zip(asked(one), asked(other), strict=True):
            if first is None or second is None:
                continue
            name = f"{one.label} → {other.label}"
            found = _test(name, title(first.dataset), first, second)
            if found is None:
                refused[name].append(f"{title(first.dataset)} ({first.split})")
            else:
                tests.append(found)
    said = [
        f"Not compared, the test pictures differ: {name} on {', '.join(at)}." for name, at in refused.items()
    ]
    return tests, said


def _test(name: str, dataset: str, first: Answers, second: Answers) -> Test | None:
    common = [seed for seed in first.accuracy if seed in second.accuracy]
    if not common or first.right is None or second.right is None or first.digest != second.digest:
        return None
    a, b = first.of_seeds(common), second.of_seeds(common)
    lost, won = int((a & ~b).sum()), int((b & ~a).sum())
    gain = 100 * (won - lost) / b.numel()
    return Test(name, dataset, first.split, gain, len(common), a.shape[1], lost, won, paired_p(a, b))


def tests_block(tests: Sequence[Test]) -> Block:
    """Return tests as a table; p is corrected for all that are in it (Holm)."""
    columns = (
        "pair",
        "set",
        "classes",
        "difference",
        "pictures",
        "seeds",
        "only the first right",
        "only the second",
    )
    corrected = holm([test.p for test in tests])
    rows = tuple(
        Row(
            test.pair,
            (
                test.dataset,
                test.split,
                Number(test.gain, signed=True),
                str(test.pictures),
                str(test.seeds),
                str(test.first),
                str(test.second),
                _p(test.p),
                _p(p, corrected=True),
            ),
        )
        for test, p in zip(tests, corrected, strict=True)
    )
    return Block("Paired tests on the same pictures", (*columns, "p", "p (Holm)"), rows, "tests")


def _p(value: float, *, corrected: bool = False) -> Number:
    """Return a p value with three digits; a corrected one stands out where it is low."""
    return Number(value, digits=3, least=0.001, neutral=True, best=corrected and value < ALPHA)


def tests_said(tests: Sequence[Test]) -> list[str]:
    """Say in a sentence what tests show: how many hold for all of them together, and for whom."""
    if not tests:
        return []
    corrected = holm([test.p for test in tests])
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for test, p in zip(tests, corrected, strict=True):
        if p < ALPHA:
            found[test.pair][test.gain > 0] += 1
    pairs = [f"{pair} (higher in {up}, lower in {down})" for pair, (down, up) in found.items()]
    count = sum(map(sum, found.values()))
    uncorrected = sum(test.p < ALPHA for test in tests)
    who = f": {'; '.join(pairs)}" if pairs else ""
    return [
        f"Paired tests: {count} of {len(tests)} with p (Holm) below {ALPHA}{who}. Uncorrected it would be "
        f"{uncorrected}, where chance alone gives up to {ALPHA * len(tests):.1f}."
    ]


def alike(lines: Iterable[Line], asked: Asked) -> list[str]:
    """Say which lines gave the very same answers to every question, as one that learned nothing does."""
    found: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for line in lines:
        answers = asked(line)
        if any(one is not None for one in answers) and all(
            one is None or one.right is not None for one in answers
        ):
            found[tuple(map(_given, answers))].append(line.label)
    return [
        f"{', '.join(labels[1:])} gave the same answers as {labels[0]} to every picture, under every seed."
        for labels in found.values()
        if len(labels) > 1
    ]


def _given(answers: Answers | None) -> object:
    """Return a fingerprint of what was answered, and to what."""
    if answers is None or answers.right is None:
        return None
    return answers.digest, tuple(answers.accuracy), answers.right.numpy().tobytes()


@dataclass(frozen=True)
class Gain:
    """By how much one line is above another.

    Attributes:
        pair: Of the two.
        sets: Both lines' figures of each kind of answer, set by set; None where they cannot be compared.
    """

    pair: tuple[Line, Line]
    sets: tuple["list[Both] | None", ...]

    def on_set(self, place: int) -> Estimate | None:
        """Return the gain on one set: of HM, where there are base and new."""
        here = self.sets[place]
        return None if here is None else list(_total([here]))[-1]

    @property
    def on_average(self) -> list[Estimate]:
        """The gain of each kind on average over the sets that can be compared, and that of HM."""
        known = [here for here in self.sets if here is not None]
        return list(_total(known)) if known else []


def gains(pairs: Iterable[tuple[Line, Line]], asked: AskedSets, bootstrap: Bootstrap) -> list[Gain]:
    """Return by how much one line is above another, set by set, on the same pictures under the same seeds.

    Args:
        pairs: Of lines.
        asked: A line's answers, set by set; for each set, base and new, or a single one.
        bootstrap: Where draws come from.
    """
    found: list[Gain] = []
    for one, other in pairs:
        both = zip(asked(one), asked(other), strict=True)
        found.append(Gain((one, other), tuple(_of_set(before, after, bootstrap) for before, after in both)))
    return found


def gains_block(found: Iterable[Gain], heads: Sequence[str]) -> Block:
    """Return gains as a table."""
    rows: list[Row] = []
    for gain in found:
        name = f"{gain.pair[0].label} → {gain.pair[1].label}"
        compared = sum(here is not None for here in gain.sets)
        for head, estimate in zip(heads, gain.on_average, strict=False):
            number = replace(estimate.number(signed=True), sd=None)
            said = " to ".join(signed(end or 0.0) for end in (number.low, number.high))
            rows.append(Row(name, (head, number, said, str(compared), str(number.seeds))))
    columns = ("pair", "what", "gain", "95 % interval", "sets", "seeds")
    title = "What a plug-in adds on average, on the same pictures under the same seeds"
    return Block(title, columns, tuple(rows), "gains")


Both = tuple[Estimate, Estimate]


def _of_set(
    before: Sequence[Answers | None], after: Sequence[Answers | None], bootstrap: Bootstrap
) -> list[Both] | None:
    """Return both lines' figures of each kind over the seeds they share; None if one is missing."""
    made: list[Both] = []
    for first, second in zip(before, after, strict=True):
        both = None if first is None or second is None else bootstrap.both(first, second)
        if both is None:
            return None
        made.append(both)
    return made


def _total(found: Sequence[Sequence[Both]]) -> Iterator[Estimate]:
    """Yield the gain of the average of each kind, and that of HM where there are two kinds."""
    sides = [[average([both[side] for both in kind]) for side in (0, 1)] for kind in zip(*found, strict=True)]
    if len(sides) == 2:
        sides.append([hm(sides[0][side], sides[1][side]) for side in (0, 1)])
    for before, after in sides:
        yield difference(before, after)
