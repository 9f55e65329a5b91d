"""The protocol card under a table: all that its numbers depend on, and where that is not the paper's."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from foveate.report.lines import Group, Line, flat
from foveate.report.published import SEEDS, SHOTS, TOWER, set_rank, tower
from foveate.report.titles import class_count, set_title
from foveate.sweep.results import Result

_PAPER = {"epochs": "10", "lr": "0.0035", "batch_size": "4"}

Card = tuple[tuple[str, str], ...]


def card_of(group: Group, lines: Sequence[Line], *, published: bool) -> Card:
    """Return the card.

    Args:
        group: What the table is of.
        lines: Its rows.
        published: Whether published figures stand beside ours.
    """
    results = [result for line in lines for result in line.results]
    trained = [line for line in lines if line.method != "zeroshot"]
    rows = [
        ("pictures", "drawn scenes of foveate.world" if group.drawn else "photographs"),
        ("sets", "; ".join(_sets(results))),
        ("seeds", _listed(str(seed) for seed in sorted({result.seed for result in results}))),
        ("shots", _listed(str(shots) for shots in sorted({result.shots for result in results}) if shots)),
        ("settings from", group.recipe),
        ("weights", f"{group.clip} ({group.weights:.12})"),
        ("precision", group.precision),
        ("training", "; ".join(_training(trained))),
        ("differs between sets", "; ".join(_differing(trained))),
        ("learned numbers", "; ".join(_learned(lines))),
        ("versions", "; ".join(_versions(results))),
        ("ran on", "; ".join(sorted({result.device for result in results}))),
    ]
    if published:
        rows.append(
            (
                "differs from the paper",
                "; ".join(_from_paper(group, lines, results)) or "nothing that we know of",
            )
        )
    return tuple((name, value) for name, value in rows if value)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _sets(results: Iterable[Result]) -> Iterator[str]:
    hashes: dict[str, dict[str, str]] = {}
    tested: dict[str, dict[str, int]] = defaultdict(dict)
    for result in results:
        hashes[result.dataset] = result.hashes
        for one in result.measured:
            tested[one.dataset][one.split] = one.pictures
    for key in sorted({*hashes, *tested}, key=lambda key: (set_rank(set_title(key)), key)):
        counts = ", ".join(f"{number} {split}" for split, number in sorted(tested[key].items()))
        own = hashes.get(key, {})
        said = "".join(f"{name} {own[name]:.8}, " for name in ("split", "masks") if own.get(name))
        yield f"{set_title(key)} ({said}test pictures: {counts or 'none'})"


def _versions(results: Iterable[Result]) -> Iterator[str]:
    seen: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for name, version in result.versions.items():
            seen[name].add(version)
    for name in sorted(seen):
        yield f"{name} {' and '.join(sorted(seen[name]))}"


def _training(lines: Iterable[Line]) -> Iterator[str]:
    """Yield what training is, once for all lines that share it; of the first set, others are told apart."""
    same: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        training = _of_training(next(line.results))
        said = ", ".join(
            f"{name} {training[name]}" for name in ("optimiser", "lr", *_PAPER, "augment") if name in training
        )
        if said := ", ".join(dict.fromkeys(said.split(", "))):
            same[said].append(line.label)
    for said, labels in same.items():
        yield f"{said}: {_listed(labels)}" if len(same) > 1 else said


def _of_training(result: Result) -> dict[str, str]:
    return {
        name.rpartition(".")[2]: value for name, value in flat(result.config).items() if "training." in name
    }


def _differing(lines: Iterable[Line]) -> Iterator[str]:
    """Yield settings that one line has differently on different sets, as the sources themselves have them."""
    for line in lines:
        own = {place: flat(next(iter(seeds.values())).config) for place, seeds in line.runs.items()}
        for key in sorted({key for settings in own.values() for key in settings}):
            values: dict[str, list[str]] = defaultdict(list)
            for place, settings in own.items():
                values[settings.get(key, "–")].append(set_title(place[0]))
            if len(values) > 1 and key != "template":
                usual = max(values, key=lambda value: len(values[value]))
                said = (
                    f"{value} on {_listed(dict.fromkeys(at))}"
                    for value, at in values.items()
                    if value != usual
                )
                yield f"{line.label}: {key} {usual}, but {'; '.join(said)}"


def _learned(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        numbers = {result.learned_numbers for result in line.results}
        least, most = min(numbers), max(numbers)
        yield f"{line.label} {least:,}" if least == most else f"{line.label} {least:,} to {most:,}"


def _from_paper(group: Group, lines: Sequence[Line], results: Sequence[Result]) -> Iterator[str]:
    shots = {result.shots for result in results}
    if shots != {SHOTS}:
        yield f"shots {_listed(map(str, sorted(shots)))} (16)"
    seeds = {result.seed for result in results}
    if seeds != set(SEEDS):
        yield f"seeds {_listed(map(str, sorted(seeds)))} (1, 2, 3)"
    if tower(group.clip) != TOWER or "openai" not in group.clip.casefold():
        yield f"weights {group.clip} (OpenAI's {TOWER})"
    if group.recipe != "paper":
        yield f"settings of {group.recipe} (its text and Table 8)"
    yield from _training_differs(line for line in lines if line.method != "zeroshot")
    yield from sorted(odd_sets(results).values())


def _training_differs(lines: Iterable[Line]) -> Iterator[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        training = _of_training(next(line.results))
        for name, paper in _PAPER.items():
            if name in training and float(training[name]) != float(paper):
                found[f"{name} {training[name]} ({paper})"].append(line.label)
    for said, labels in found.items():
        yield f"{said} for {_listed(labels)}"


def odd_sets(results: Iterable[Result]) -> dict[str, str]:
    """Return, in words, the sets that have fewer or more classes here than the whole set has, by key."""
    found: dict[str, str] = {}
    for result in results:
        for one in result.measured:
            known = class_count(one.dataset, _half(result, one.split))
            if known is not None and known != one.classes:
                what = f"has {one.classes} classes ({one.split}), the whole set {known}"
                found.setdefault(one.dataset, f"{set_title(one.dataset)} {what}")
    return found


def _half(result: Result, split: str) -> str:
    """Return which part of the classes a question is about: all, but where half was trained on."""
    halved = result.protocol in ("base-to-new", "seed-robustness") or result.config.get("classes") == "base"
    return split if halved else "all"
