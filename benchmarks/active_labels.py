"""How many labels the order of `foveate serve` saves, beside photos in a random order.

python benchmarks/active_labels.py                  # five drawn sets, ten seeds
python benchmarks/active_labels.py --seeds 2        # does it run?

A set is a pool of drawn scenes, as unequal as people's photos are, and a test set. Photos are labelled one
by one, and after each a head is learned from the kept features of all that have a label, as the page does it.
The share of labels is that after which the test accuracy (the mean over a window of labels, so that one lucky
answer does not count) is at least what a random order has with all of its labels.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.data.samples import Photos
from foveate.serve.learning import HEAD, answered, learn, most_useful
from foveate.train.banking import seen_as_asked
from foveate.world.photos import scene_photos, species_photos
from foveate.world.scenes import COLOURS, SHAPES
from foveate.world.species import BASE, NEW

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
    """Draw scenes, anywhere."""
    if one.species:
        return species_photos(one.names, per_class, seed, condition="any")
    return scene_photos(one.names, per_class, seed)


@torch.no_grad()
def features(clip: Classifier, photos: Photos) -> Tensor:
    """Return `[N, D]` raw features."""
    pictures = seen_as_asked(photos, clip.clip.config)
    return torch.cat([clip.clip.vision(batch.images) for batch in pictures.batches(None, 64)])


def curve(
    clip: Classifier, pool: Tensor, labels: list[str], test: Tensor, truth: list[str], order: str, seed: int
) -> list[float]:
    """Return percent right on the test set after each label."""
    names = sorted(set(labels))
    wanted = torch.tensor([names.index(label) for label in truth])
    shuffled = np.random.default_rng([seed, 1]).permutation(len(pool)).tolist()
    taken, chosen, found = torch.zeros(len(pool), dtype=torch.bool), list[int](), list[float]()
    logits = answered(clip, pool, names)
    while len(chosen) < LABELS:
        place = shuffled[len(chosen)] if order == "random" else most_useful(pool, logits, taken)
        assert place is not None
        taken[place] = True
        chosen.append(place)
        learned = learn(clip, pool[chosen], [labels[i] for i in chosen], method=HEAD)
        logits = answered(learned, pool, names) if order != "random" else logits
        right = answered(learned, test, names).argmax(dim=1) == wanted
        found.append(100 * right.double().mean().item())
    return found


def smooth(found: Sequence[float]) -> np.ndarray:
    """Return means over a window of labels that ends at each."""
    return np.array([np.mean(found[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(found))])


def reached(active: Sequence[float], random: Sequence[float]) -> float:
    """Return the share of the labels after which the active order is as good as the random one with all."""
    enough = np.flatnonzero(smooth(active) >= smooth(random)[-1])
    return (int(enough[0]) + 1) / LABELS if len(enough) else float("inf")


def main() -> None:
    """Print a row a set, and write all to results/active-DATE.json."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--seeds", type=int, default=10)
    given = options.parse_args()
    found: dict[str, dict[str, object]] = {}
    clips = {one.clip: Classifier("zeroshot", clip=one.clip) for one in sets()}
    for one in sets():
        clip, shares, curves = clips[one.clip], list[float](), dict[str, list[list[float]]]()
        for seed in range(given.seeds):
            pool, test = scenes(one, 24, 100 * seed), scenes(one, 20, 100 * seed + 1)
            # Some classes have many photos and some have few, as a camera trap's have.
            rng = np.random.default_rng([seed, 2])
            kept = [i for i, s in enumerate(pool.samples) if rng.uniform() < 1 / (1 + s.label / 2)]
            pool = pool.with_samples([pool.samples[i] for i in kept])
            seen = features(clip, pool), [pool.names[s.label] for s in pool.samples]
            asked = features(clip, test), [test.names[s.label] for s in test.samples]
            if len(pool) < LABELS or len(set(seen[1])) < len(one.names):
                raise SystemExit(f"{one.key}, seed {seed}: the pool is too small")
            for order in ("random", "active"):
                curves.setdefault(order, []).append(curve(clip, *seen, *asked, order, seed))
            shares.append(reached(curves["active"][-1], curves["random"][-1]))
        means = {order: np.mean([smooth(c) for c in some], axis=0) for order, some in curves.items()}
        mean = reached(means["active"], means["random"])
        row = {
            "share of labels, median": float(np.median(shares)),
            "share of labels, of the mean curves": mean,
            "shares": shares,
            "curves": {order: np.round(c, 2).tolist() for order, c in means.items()},
        }
        found[one.key] = row
        ends = {order: round(float(c[-1]), 1) for order, c in means.items()}
        print(
            f"{one.key}: median {row['share of labels, median']:.2f}, mean curves {mean:.2f}, {ends}",
            flush=True,
        )
    name = f"active-{datetime.now(UTC):%Y-%m-%d}.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
