"""The protocol card under a table (everything its numbers depend on), and notes on deviations."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from foveate.clip.config import EMBEDDED
from foveate.report.figures import Figures
from foveate.report.frame import ResultGroup, class_count, flat, set_order, set_title
from foveate.report.published import SEEDS, SHOTS, TOWER, tower
from foveate.report.statistics import Bootstrap

_PAPER = {"epochs": "10", "lr": "0.0035", "batch_size": "4"}
_DRAWN = (
    "Measured on drawn scenes, with {}. These figures say how methods compare there, and nothing of "
    "photographs; no published figure stands beside them."
)
_OURS = "the small CLIP that was trained on such scenes"
PARTIAL = "† the mean is over fewer seeds or sets than the table has; what is missing is listed."


@dataclass(frozen=True)
class ReportContext:
    """Settings that all tables of a report share.

    Attributes:
        bootstrap: Source of the bootstrap draws.
        against: Whether to show published numbers.
    """

    bootstrap: Bootstrap
    against: bool

    def beside(self, group: ResultGroup, towers: str = TOWER) -> bool:
        """Return whether published numbers may be shown: only for photographs and the same kind of tower."""
        return self.against and not group.drawn and tower(group.clip) in (None, towers)

    def notes(self, group: ResultGroup, figures: Figures, towers: str | None = TOWER) -> list[str]:
        """Return the notes that any table needs.

        Args:
            group: Group of the table's rows.
            figures: Figures in the table.
            towers: Towers of the published numbers; None if no such table is published.
        """
        notes = [_DRAWN.format(_OURS if group.clip in EMBEDDED else group.clip)] if group.drawn else []
        if towers is None or not self.against or group.drawn:
            return notes
        if not self.beside(group, towers):
            return [f"No published figures stand beside these: they are of {towers}, these of {group.clip}."]
        partial_sets = "; ".join(sorted(odd_sets(figures.frame).values()))
        sentence = "No published figure stands beside parts of sets, nor beside averages with them"
        return [f"{sentence}: {partial_sets}."] if partial_sets else []

    def card(
        self, group: ResultGroup, figures: Figures, towers: str | None = TOWER
    ) -> tuple[tuple[str, str], ...]:
        """Return the protocol card as names and values."""
        frame = figures.frame
        trained = [label for label in figures.labels if figures.method(label) != "zeroshot"]
        shots = [str(shots) for shots in sorted(set(frame["shots"].tolist())) if shots]
        rows = {
            "pictures": "drawn scenes of foveate.world" if group.drawn else "photographs",
            "sets": "; ".join(_sets(frame)),
            "test conditions": ", ".join(condition or "plain" for condition in figures.conditions),
            "seeds": ", ".join(map(str, figures.seeds)),
            "shots": ", ".join(shots),
            "settings from": group.recipe,
            "weights": f"{group.clip} ({group.weights:.12})",
            "precision": group.precision,
            "training": "; ".join(_training(figures, trained)),
            "differs between sets": "; ".join(_differing(figures, trained)),
            "learned numbers": "; ".join(_learned(figures)),
            "versions": "; ".join(_versions(frame)),
            "ran on": "; ".join(sorted(set(frame["device"]))),
        }
        if figures.conditions == ("",):
            del rows["test conditions"]
        if self.beside(group, towers or TOWER):
            different = [
                *_from_paper(group, figures),
                *_training_differs(figures, trained),
                *odd_sets(frame).values(),
            ]
            rows["differs from the paper"] = "; ".join(different) or "nothing that we know of"
        return tuple((name, value) for name, value in rows.items() if value)


def odd_sets(frame: pd.DataFrame) -> dict[str, str]:
    """Return descriptions of sets with fewer or more classes than the complete set, by key."""
    descriptions: dict[str, str] = {}
    questions = frame.drop_duplicates(["protocol", "tested_on", "split", "classes"])
    for line in questions.to_dict("records"):
        halved = (
            line["protocol"] in ("base-to-new", "seed-robustness") or line["config"].get("classes") == "base"
        )
        complete = class_count(line["tested_on"], line["split"] if halved else "all")
        if complete is not None and complete != line["classes"]:
            counts = f"has {line['classes']} classes ({line['split']}), the whole set {complete}"
            descriptions.setdefault(line["tested_on"], f"{set_title(line['tested_on'])} {counts}")
    return dict(sorted(descriptions.items(), key=lambda item: item[1]))


def _sets(frame: pd.DataFrame) -> Iterator[str]:
    runs = {
        line["trained_on"]: line
        for line in frame.drop_duplicates("trained_on", keep="last").to_dict("records")
    }
    for key in sorted({*frame["trained_on"], *frame["tested_on"]}, key=set_order):
        tests = frame[frame["tested_on"] == key].drop_duplicates(["split", "condition"], keep="last")
        tested = sorted(zip(tests["split"], tests["condition"], tests["pictures"], strict=True))
        counts = ", ".join(
            f"{number} {f'{split} {condition}'.strip()}" for split, condition, number in tested
        )
        run: dict[Any, Any] = runs.get(key, {})
        fingerprints = (("split", run.get("split_hash")), ("masks", run.get("masks")))
        prefix = "".join(f"{name} {value:.8}, " for name, value in fingerprints if value)
        yield f"{set_title(key)} ({prefix}test pictures: {counts or 'none'})"


def _versions(frame: pd.DataFrame) -> Iterator[str]:
    by_name: dict[str, set[str]] = defaultdict(set)
    for versions in frame["versions"]:
        for name, version in versions.items():
            by_name[name].add(version)
    yield from (f"{name} {' and '.join(sorted(by_name[name]))}" for name in sorted(by_name))


def training_of(figures: Figures, label: str) -> dict[str, str]:
    """Return the training settings of a row's first run, by short name: "epochs", "lr", ..."""
    config = flat(figures.config(label))
    return {name.rpartition(".")[2]: value for name, value in config.items() if "training." in name}


def _training(figures: Figures, labels: Iterable[str]) -> Iterator[str]:
    """Yield descriptions of the training, once for all rows that share it."""
    labels_by_text: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        training = training_of(figures, label)
        text = ", ".join(
            f"{name} {training[name]}"
            for name in ("optimiser", "lr", "epochs", "batch_size", "augment")
            if name in training
        )
        if text:
            labels_by_text[text].append(label)
    for text, row_labels in labels_by_text.items():
        yield f"{text}: {', '.join(row_labels)}" if len(labels_by_text) > 1 else text


def _differing(figures: Figures, labels: Iterable[str]) -> Iterator[str]:
    """Yield settings that differ between the sets of one row, as the sources define them."""
    runs = figures.frame.drop_duplicates(["label", "trained_on", "amount"])
    for label in labels:
        label_runs = runs[runs["label"] == label]
        settings = [
            (key, flat(config))
            for key, config in zip(label_runs["trained_on"], label_runs["config"], strict=True)
        ]
        for name in sorted({name for _, config in settings for name in config} - {"template"}):
            values: dict[str, list[str]] = defaultdict(list)
            for key, config in settings:
                values[config.get(name, "–")].append(set_title(key))
            usual = max(values, key=lambda value: len(values[value]))
            exceptions = [
                f"{value} on {', '.join(dict.fromkeys(titles))}"
                for value, titles in values.items()
                if value != usual
            ]
            if exceptions:
                yield f"{label}: {name} {usual}, but {'; '.join(exceptions)}"


def _learned(figures: Figures) -> Iterator[str]:
    for label in figures.labels:
        numbers = figures.frame.loc[figures.frame["label"] == label, "learned_numbers"]
        yield f"{label} {words_of_range(numbers)}"


def words_of_range(numbers: pd.Series) -> str:
    """Return a range as text: "2,048", or "1,024 to 2,048"."""
    least, most = int(numbers.min()), int(numbers.max())
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _from_paper(group: ResultGroup, figures: Figures) -> Iterator[str]:
    shots = sorted(set(figures.frame["shots"].tolist()))
    if shots != [SHOTS]:
        yield f"shots {', '.join(map(str, shots))} (16)"
    if figures.seeds != SEEDS:
        yield f"seeds {', '.join(map(str, figures.seeds))} (1, 2, 3)"
    if tower(group.clip) != TOWER or "openai" not in group.clip.casefold():
        yield f"weights {group.clip} (OpenAI's {TOWER})"
    if group.recipe != "paper":
        yield f"settings of {group.recipe} (its text and Table 8)"


def _training_differs(figures: Figures, labels: Iterable[str]) -> Iterator[str]:
    labels_by_difference: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        training = training_of(figures, label)
        for name, paper in _PAPER.items():
            if name in training and float(training[name]) != float(paper):
                labels_by_difference[f"{name} {training[name]} ({paper})"].append(label)
    yield from (
        f"{difference} for {', '.join(labels)}" for difference, labels in labels_by_difference.items()
    )
