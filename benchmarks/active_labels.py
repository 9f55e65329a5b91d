"""How many labels the order of `foveate serve` saves, beside photos in a random order.

python benchmarks/active_labels.py                  # five drawn sets, ten seeds; some 5 minutes of one core
python benchmarks/active_labels.py --seeds 2        # does it run?

A set is a pool of drawn scenes, as unequal as people's photos are, and a test set. Photos are labelled one
by one, and after each a head is learned from the kept features of all that have a label, as the page does it.
The share of labels is that after which the test accuracy (the mean over a window of labels, so that one lucky
answer does not count) is at least what a random order has with all of its labels.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.serve.learning import HEAD, answered, learn, most_useful
from foveate.world.photos import scene_photos, species_photos
from foveate.world.scenes import COLOURS, SHAPES
from foveate.world.species import BASE, EPITHETS, NEW

LABELS = 60
WINDOW = 5


@dataclass(frozen=True)
class Drawn:
    """A set: names, and scenes a class of the pool; which CLIP looks at it."""

    key: str
    clip: str
    names: tuple[str, ...]
    species: bool = False


def sets() -> list[Drawn]:
    """Return the five sets."""
    shapes = tuple(f"{colour} {shape}" for colour, shape in zip(list(COLOURS) * 2, SHAPES, strict=False))
    alike = tuple(f"{colour} {shape}" for shape in ("star", "cross") for colour in list(COLOURS)[:4])
    return [
        Drawn("shapes", "tiny", shapes[:10]),
        Drawn("look-alikes", "tiny", alike),
        Drawn("species, base", "tiny-mild", BASE[:10], species=True),
        Drawn("species, new", "tiny-mild", NEW[:10], species=True),
        Drawn("species, strong bias", "tiny-strong", BASE[10:20], species=True),
    ]


def scenes(one: Drawn, per_class: int, seed: int) -> Photos:
    """Draw scenes, anywhere; shapes under names that CLIP has never read, for it knows their own."""
    if one.species:
        return species_photos(one.names, per_class, seed, condition="any")
    return replace(scene_photos(one.names, per_class, seed), names=EPITHETS[: len(one.names)])


@torch.no_grad()
def features(clip: Classifier, photos: Photos) -> Tensor:
    """Return `[N, D]` raw features."""
    pictures = eval_pictures(photos, clip.clip.config)
    return torch.cat([clip.clip.vision(batch.images) for batch in pictures.batches(None, 64)])


@dataclass(frozen=True)
class Seen:
    """Pictures as the frozen CLIP sees them: `[N, D]` features, and their names."""

    features: Tensor
    labels: list[str]


def seen(clip: Classifier, photos: Photos) -> Seen:
    """Return what CLIP sees of pictures."""
    return Seen(features(clip, photos), [photos.names[sample.label] for sample in photos.samples])


def curve(clip: Classifier, pool: Seen, test: Seen, order: str, method: str, seed: int) -> list[float]:
    """Return percent right on the test set after each label."""
    names = sorted(set(pool.labels))
    wanted = torch.tensor([names.index(label) for label in test.labels])
    shuffled = np.random.default_rng([seed, 1]).permutation(len(pool.labels)).tolist()
    taken, chosen, found = torch.zeros(len(shuffled), dtype=torch.bool), list[int](), list[float]()
    logits = answered(clip, pool.features, names)
    while len(chosen) < LABELS:
        active = order == "active"
        place = most_useful(pool.features, logits, taken) if active else shuffled[len(chosen)]
        assert place is not None
        taken[place] = True
        chosen.append(place)
        learned = learn(clip, pool.features[chosen], [pool.labels[i] for i in chosen], method=method)
        logits = answered(learned, pool.features, names) if active else logits
        right = answered(learned, test.features, names).argmax(dim=1) == wanted
        found.append(100 * right.double().mean().item())
    return found


def smooth(found: Sequence[float]) -> np.ndarray:
    """Return means over a window of labels that ends at each."""
    return np.array([np.mean(found[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(found))])


def reached(active: Sequence[float], random: Sequence[float]) -> float:
    """Return the share of labels after which the active order is as good as the random one with all."""
    enough = np.flatnonzero(smooth(active) >= smooth(random)[-1])
    return (int(enough[0]) + 1) / LABELS if len(enough) else 1.0


def interval(shares: Sequence[float]) -> list[float]:
    """Return a 95 % bootstrap interval of the mean over seeds."""
    drawn = np.random.default_rng(0).choice(shares, (10_000, len(shares))).mean(axis=1)
    return np.round(np.percentile(drawn, [2.5, 97.5]), 3).tolist()


def pool_of(one: Drawn, seed: int) -> Photos:
    """Draw a pool in which some classes have many photos and some have few, as a camera trap's have.

    Each has one at least.
    """
    pool, rng = scenes(one, 24, 100 * seed), np.random.default_rng([seed, 2])
    firsts = {sample.label: sample for sample in reversed(pool.samples)}.values()
    kept = [s for s in pool.samples if rng.uniform() < 1 / (1 + s.label / 2) or s in firsts]
    if len(kept) < LABELS:
        raise SystemExit(f"{one.key}, seed {seed}: the pool is too small")
    return pool.with_samples(kept)


def main() -> None:
    """Print a row a set, and write all to results/active-DATE.json."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, default=10)
    options.add_argument("--method", default=HEAD, help="the head that is learned")
    given = options.parse_args()
    found: dict[str, dict[str, object]] = {}
    print("| set | share of labels | 95 % interval | random, all labels | this order, all labels |")
    print("|---|---|---|---|---|")
    clips = {one.clip: Classifier("zeroshot", clip=one.clip) for one in sets()}
    for one in sets():
        clip, curves = clips[one.clip], dict[str, list[list[float]]]()
        for seed in range(given.seeds):
            pool, test = seen(clip, pool_of(one, seed)), seen(clip, scenes(one, 20, 100 * seed + 1))
            for order in ("random", "active"):
                curves.setdefault(order, []).append(curve(clip, pool, test, order, given.method, seed))
        shares = [reached(*both) for both in zip(curves["active"], curves["random"], strict=True)]
        means = {order: np.mean(some, axis=0).round(2).tolist() for order, some in curves.items()}
        row = {"share of labels": round(float(np.mean(shares)), 3), "interval": interval(shares)}
        ends = {f"{order} with all": one[-1] for order, one in means.items()}
        print(f"| {one.key} | {' | '.join(str(value) for value in {**row, **ends}.values())} |", flush=True)
        found[one.key] = {**row, "shares": shares, "curves": means}
    name = f"active-{datetime.now(UTC):%Y-%m-%d}.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
