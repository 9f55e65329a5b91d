"""How many drawn scenes are enough, by who chooses them: a backbone tuned on a share of a pool.

    python benchmarks/world_select.py --home 0.9    # most scenes of a class stand on one place
    python benchmarks/world_select.py --home 0

base, new, hm: each split among its own names, on test scenes that stand anywhere. Percent right, mean ± sd
over seeds; each seed is a task of its own (names, scenes, start, order). Objects are smaller and more turned
than the demo's. Scenes are learned from as they are, without random crops, and every run takes the same
number of steps: what differs is what is learned from. Nothing is tuned on these figures.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import Photos
from foveate.demo import make_task
from foveate.evaluate.metrics import harmonic_mean
from foveate.methods.base import Method, encode_pictures
from foveate.methods.registry import build
from foveate.seeds import stream
from foveate.select.choosing import choose
from foveate.select.seen import Seen, budgets
from foveate.train.loop import fit
from foveate.train.recipe import recipe_for
from foveate.types import Batch, Branch
from foveate.world.photos import scene_photos
from on_world import as_set, right, table

SELECTORS = ("uniform", "herding", "kcenter", "margin", "grand", "facility", "glister", "cal")
RADIUS, TURN = (0.08, 0.14), 1.4
BATCH, STEPS, TESTS = 16, 200, 50


@dataclass(frozen=True)
class Scenes:
    """Scenes of some names, as the frozen tower sees them.

    Attributes:
        names: A label is a row of it.
        features: `[1, N, D]`, raw.
        labels: `[N]`.
    """

    names: tuple[str, ...]
    features: Tensor
    labels: Tensor


@torch.no_grad()
def look(method: Method, photos: Photos, names: Sequence[str]) -> Scenes:
    """Encode the scenes of some names."""
    pictures = as_set(method, photos, names)
    batches = list(pictures.batches(None, 100))
    features = torch.cat([encode_pictures(method.clip, batch.images) for batch in batches], dim=1)
    return Scenes(tuple(names), features, torch.cat([batch.labels for batch in batches]))


def look_at_task(clip: Clip, seed: int, pictures: int, home: float) -> tuple[Scenes, Scenes, Scenes]:
    """Return the pool, and the test scenes of its names and of others.

    Args:
        clip: The frozen towers.
        seed: Of the task.
        pictures: Scenes of a class in the pool.
        home: Share of them that stands on the class's own place; the others stand anywhere.
    """
    task, at_home = make_task(seed, tests=TESTS, radius=RADIUS, turn=TURN), round(home * pictures)
    kinds = [(at_home, task.home, 2), (pictures - at_home, None, 3)]
    drawn = [
        scene_photos(task.base, number, 1000 * seed + salt, home=place, radius=RADIUS, turn=TURN)
        for number, place, salt in kinds
        if number
    ]
    pool = drawn[0].with_samples([sample for one in drawn for sample in one.samples])
    new = [name for name in task.test.names if name not in task.base]
    method = build("zeroshot", clip)
    return look(method, pool, task.base), look(method, task.test, task.base), look(method, task.test, new)


@torch.no_grad()
def seen_by(clip: Clip, pool: Scenes) -> Seen:
    """Return the pool as selectors see it."""
    method = build("zeroshot", clip)
    method.set_classes(pool.names)
    return Seen.of(pool.features[0], method.text_features(), pool.labels, float(clip.scale))


def tuned(backbone: str, clip: Clip, pool: Scenes, rows: Tensor, seed: int) -> Method:
    """Return a backbone that has learned from some scenes of the pool."""
    method = build(backbone, clip, seed=seed)
    method.set_classes(pool.names)
    epochs = max(1, round(STEPS * BATCH / len(rows)))
    recipe = recipe_for(backbone, {"epochs": epochs, "batch_size": BATCH, "augment": "none"})

    def batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(rows), generator=stream(seed, "order", epoch))
        for some in rows[order].split(BATCH):
            frozen = {"image": pool.features[:, some]}
            yield Batch(torch.empty(len(some), 3, 0, 0), pool.labels[some], frozen=frozen)

    fit(method, batches, recipe)
    return method


@torch.no_grad()
def measure(method: Method, base: Scenes, new: Scenes) -> dict[str, float]:
    """Ask about the test scenes."""
    found: dict[str, float] = {}
    spaces: tuple[tuple[Branch, Scenes], ...] = (("base", base), ("new", new))
    for branch, scenes in spaces:
        method.set_classes(scenes.names, trained=base.names)
        found[branch] = right(method.logits(method.pair(scenes.features), branch), scenes.labels)
    return found | {"hm": harmonic_mean(found["base"], found["new"])}


def main() -> None:
    """Print the table, and keep every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--pictures", type=int, default=80, help="of a class in the pool")
    parser.add_argument("--home", type=float, default=0.9)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.2])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument("--backbone", default="coop", help="one whose image tower is frozen")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clip = load_clip("tiny")
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        pool, base, new = look_at_task(clip, seed, args.pictures, args.home)
        seen, counts = seen_by(clip, pool), torch.bincount(pool.labels).tolist()
        rows.setdefault("zero-shot", []).append(measure(build("zeroshot", clip), base, new))
        for fraction in args.fractions:
            budget = budgets(counts, fraction)
            for name in args.selectors:
                chosen = choose(name, seen, budget, stream(seed, "select", name))
                found = measure(tuned(args.backbone, clip, pool, chosen, seed), base, new)
                rows.setdefault(f"{name}, {fraction:g}", []).append(found)
        every = tuned(args.backbone, clip, pool, torch.arange(len(pool.labels)), seed)
        rows.setdefault("all", []).append(measure(every, base, new))
        print(f"seed {seed} done", file=sys.stderr)
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
