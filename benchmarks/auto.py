"""How good the choice of `--method auto` is, on twelve drawn sets: beside the best method in hindsight.

    python benchmarks/auto.py --keep out/auto    # 5 draws of shots each; a stopped one goes on
    python benchmarks/auto.py --keep out/16 --shots 16 --solved --seeds 1 --later 0    # without prompt tuning

The truth is the accuracy on 600 other pictures of the same kind, of each candidate trained on all shots. For
forecasts, the best candidate is trained on 8 and 16 more shots a class.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from foveate.auto.choice import Choice
from foveate.auto.choosing import MORE, compare, weigh
from foveate.auto.trials import Budget, Candidate, Trials, reason_against
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.feature_store import FeatureStore
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.evaluate.answers import answer
from foveate.methods.registry import REFERENCE, methods
from foveate.train.banking import clip_features
from foveate.train.config import RunConfig
from foveate.train.journal import Reporter
from foveate.train.shots import Chosen, without_masks
from foveate.trust.folds import PartTrainer
from foveate.world.photos import scene_photos, species_photos
from foveate.world.species import BASE, NEW

SCENES = [
    f"{colour} {shape}"
    for colour in ("red", "blue", "green", "yellow")
    for shape in ("star", "ring", "cross")
]
TESTS, TESTED = 9999, 600
WISH = RunConfig(method="auto")


@dataclass(frozen=True)
class Drawn:
    """A drawn set.

    Attributes:
        title: Its name.
        clip: The CLIP that looks at it.
        classes: How many.
        shots: How many a class.
        place: Where species stand; "new" are other species on any place, "scenes" and "far" no species.
        others: Other objects in each scene.
    """

    title: str
    clip: str
    classes: int
    shots: int
    place: str
    others: int = 0

    def photos(self, per_class: int, seed: int) -> Photos:
        """Draw pictures; fewer a class are the first of more."""
        if self.place in ("scenes", "far"):
            radius = (0.1, 0.18) if self.place == "far" else None
            found = scene_photos(SCENES[: self.classes], per_class, seed, radius=radius)
        else:
            names = (NEW if self.place == "new" else BASE)[: self.classes]
            place = "any" if self.place == "new" else self.place
            found = species_photos(names, per_class, seed, condition=place, others=self.others)
        return found.with_samples(
            [
                Sample(
                    MemoryPicture(one.picture.load()), one.label, one.mask and MemoryPicture(one.mask.load())
                )
                for one in found.samples
            ]
        )


SETS = (
    Drawn("far scenes", "tiny", 6, 4, "far"),
    Drawn("scenes", "tiny", 6, 4, "scenes"),
    Drawn("mild, at home", "tiny-mild", 8, 4, "home"),
    Drawn("mild, any place", "tiny-mild", 6, 8, "any"),
    Drawn("mild, any place, more classes", "tiny-mild", 12, 4, "any"),
    Drawn("mild, siblings' homes", "tiny-mild", 6, 4, "sibling"),
    Drawn("mild, other species", "tiny-mild", 6, 6, "new"),
    Drawn("mild, clutter", "tiny-mild", 4, 10, "any", 2),
    Drawn("strong, any place", "tiny-strong", 6, 8, "any"),
    Drawn("control, any place", "tiny-control", 8, 4, "any"),
    Drawn("control, clutter", "tiny-control", 5, 8, "any", 2),
    Drawn("tiny, species", "tiny", 6, 6, "any"),
)


@cache
def towers(name: str) -> Clip:
    """Load a CLIP once."""
    return load_clip(name)


@cache
def tests(one: Drawn) -> tuple[Photos, Tensor]:
    """Draw test pictures once, and encode them."""
    photos = without_masks(one.photos(TESTED // one.classes, TESTS))
    return photos, clip_features(photos, towers(one.clip))


def accuracy(one: Drawn, photos: Photos, candidate: Candidate, seed: int, shelf: FeatureStore) -> float:
    """Return the accuracy in percent of a candidate that learned from all of these pictures."""
    config = candidate.config(RunConfig(method="auto", clip=one.clip, seed=seed))
    shown = photos if config.needs_masks else without_masks(photos)
    trainer = PartTrainer(towers(one.clip), _chosen(shown, one.shots), shelf)
    method, (asked, features) = trainer.train(config, range(len(photos))), tests(one)
    with torch.no_grad(), method.eval().constant_text():
        return answer(method, {"image": features[None]}, asked, "base").accuracy


def _chosen(photos: Photos, shots: int) -> Chosen:
    return Chosen(photos, photos.with_samples([]), shots=shots)


@dataclass(frozen=True)
class Measured:
    """A choice, and the truth.

    Attributes:
        one: The set.
        choice: The choice.
        truth: Accuracy of each candidate.
        later: Accuracy of the one that forecasts tell of, with more shots; empty if it was not measured.
        seconds: All trials took, without the encoding of pictures.
    """

    one: Drawn
    choice: Choice
    truth: dict[str, float]
    later: list[float]
    seconds: float

    @property
    def chosen(self) -> float:
        """Accuracy of the chosen candidate."""
        return self.truth[self.choice.chosen]

    @property
    def behind(self) -> float:
        """How many points the best candidate in hindsight is ahead."""
        return max(self.truth.values()) - self.chosen

    @property
    def held(self) -> bool:
        """Whether the truth is in the interval."""
        return within(self.choice.expected.low, self.chosen, self.choice.expected.high)


def within(low: float, value: float, high: float) -> bool:
    """Return whether a value is in an interval, up to rounding."""
    return low - 1e-6 <= value <= high + 1e-6


def measure(one: Drawn, seed: int, keep: Path, *, later: bool, solved: bool) -> Measured:
    """Choose as `--method auto` does; then train all candidates on all shots, and test them.

    Args:
        one: The set.
        seed: Of the shots and of the choice.
        keep: Folder of what was measured before.
        later: Whether to train on more shots too.
        solved: Whether to try only methods that take no steps.
    """

    def against(candidate: Candidate) -> str | None:
        how = methods()[candidate.method.partition("+")[0]].auto
        if solved and how and how.rank > 2:
            return "it takes steps"
        return reason_against(candidate, wish, clip, masks=True)

    clip, shots = towers(one.clip), one.photos(one.shots, seed)
    wish, budget = RunConfig(method="auto", clip=one.clip, seed=seed), Budget(3600, time.monotonic)
    trials = Trials(wish, clip, _chosen(shots, one.shots), (keep, None), budget, Reporter())
    found = compare(trials, against)
    choice = weigh(trials, found, {}, seed)
    shelf, file = FeatureStore(), keep / "truth.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for title, candidate in found.candidates.items():
        if title not in known:
            known[title] = accuracy(one, shots, candidate, seed, shelf)
    after = list[float]()
    for more in MORE if later else ():
        title = f"{choice.forecast_of} +{more}"
        if title not in known:
            photos = one.photos(one.shots + more, seed)
            candidate = found.candidates[choice.forecast_of]
            known[title] = accuracy(one, photos, candidate, seed, FeatureStore())
        after.append(known[title])
    file.write_text(json.dumps(known))
    return Measured(one, choice, {title: known[title] for title in found.logits}, after, budget.spent)


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in cells) + " |"


def summary(found: Sequence[Measured]) -> list[str]:
    """Return what the aims ask for, a line each."""
    number, behind = len(found), [one.behind for one in found]
    plain = [
        next(row.accuracy.value for row in one.choice.rows if row.title == one.choice.chosen) - one.chosen
        for one in found
    ]
    mended = [one.choice.expected.value - one.chosen for one in found]
    unless_sure = [
        max(one.truth.values())
        - (one.chosen if one.choice.gain and one.choice.gain.low > 0 else one.truth[REFERENCE])
        for one in found
    ]
    below = sum(one.chosen < one.choice.expected.low - 1e-6 for one in found)
    seconds = [one.seconds for one in found]
    lines = [
        f"behind the best of each draw: {fmean(behind):.2f} points on average; within 1 point in"
        f" {sum(one <= 1 for one in behind)} of {number} runs",
        f"zero-shot wherever the interval includes 0: {fmean(unless_sure):.2f} points behind",
        f"in the 90 % interval: {sum(one.held for one in found)} of {number} runs; {below} below it",
        f"held-out accuracy less the truth: {fmean(plain):+.2f} points; corrected {fmean(mended):+.2f}",
        f"seconds of trials: {fmean(seconds):.0f} on average, {max(seconds):.0f} at most",
    ]
    for place, more in enumerate(MORE):
        some = [(one.choice.forecasts[place].accuracy, one.later[place]) for one in found if one.later]
        if some:
            inside = sum(within(said.low, truth, said.high) for said, truth in some)
            off = fmean(abs(said.value - truth) for said, truth in some)
            lines.append(
                f"{more} more shots a class: in the interval in {inside} of {len(some)} runs,"
                f" {off:.1f} points off on average"
            )
    return lines


def main() -> None:
    """Measure, and print Markdown."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--seeds", type=int, default=5)
    reader.add_argument("--later", type=int, default=2, help="of how many seeds to measure forecasts")
    reader.add_argument("--shots", type=int, help="a class, in place of each set's own number")
    reader.add_argument("--solved", action="store_true", help="try only methods that take no steps")
    reader.add_argument("--keep", type=Path, required=True, help="folder of what was measured")
    given = reader.parse_args()
    found = list[Measured]()
    sets = [replace(one, shots=given.shots or one.shots) for one in SETS]
    for seed in range(1, given.seeds + 1):
        for place, one in enumerate(sets):
            keep = given.keep / f"{place}-{seed}"
            found.append(measure(one, seed, keep, later=seed <= given.later, solved=given.solved))
    print(
        row(
            "set",
            "classes × shots",
            "zero-shot",
            "chosen",
            "best method",
            "best each time",
            "in the interval",
        )
    )
    print("|---|---|---|---|---|---|---|")
    steady = list[float]()
    for one in sets:
        own = [each for each in found if each.one is one]
        mean = {
            title: fmean(each.truth[title] for each in own)
            for title in own[0].truth
            if all(title in each.truth for each in own)
        }
        chosen = fmean(each.chosen for each in own)
        steady.append(max(mean.values()) - chosen)
        best = fmean(max(each.truth.values()) for each in own)
        inside = f"{sum(each.held for each in own)} of {len(own)}"
        size = f"{one.classes} × {one.shots}"
        print(row(one.title, size, mean[REFERENCE], chosen, max(mean.values()), best, inside))
    print(
        f"\nbehind the set's best method: {fmean(steady):.2f} points on average; within 1 point in"
        f" {sum(one <= 1 for one in steady)} of {len(steady)} sets"
    )
    print(*summary(found), sep="\n")


if __name__ == "__main__":
    main()
