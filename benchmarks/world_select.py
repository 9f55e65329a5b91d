"""How many drawn scenes are enough, by who chooses them: a backbone tuned on a share of a pool.

    python benchmarks/world_select.py --seeds 5
    python benchmarks/world_select.py --seeds 5 --home 0.9    # most scenes of a class stand on one place

base, new, hm: each split among its own names, on test scenes that stand anywhere. Percent right, mean ± sd
over seeds; each seed is a task of its own (names, scenes, start, order). Objects are smaller and more turned
than the demo's. Scenes are learned from as they are, without random crops, and every run takes the same
number of steps: what differs is what is learned from.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from foveate.clip.weights import load_clip
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.demo import Task, make_task
from foveate.methods.registry import build
from foveate.seeds import stream
from foveate.train.loop import fit
from foveate.train.recipe import recipe_for
from foveate.train.selecting import Wish, select
from foveate.types import Batch
from foveate.world.photos import scene_photos
from on_world import split_wise, table

SELECTORS = ("uniform", "herding", "kcenter", "margin", "grand", "facility", "glister", "cal")
RADIUS, TURN = (0.08, 0.14), 1.4
BATCH, STEPS = 16, 200


def make_pool(seed: int, pictures: int, home: float) -> Task:
    """Return the demo's task with a pool to choose from.

    Args:
        seed: Of the task.
        pictures: Scenes of a class.
        home: Share of them that stands on the class's own place; the others stand anywhere.
    """
    task, at_home = make_task(seed, tests=50, radius=RADIUS, turn=TURN), round(home * pictures)
    kinds = [(at_home, task.home, 2), (pictures - at_home, None, 3)]
    drawn = [
        scene_photos(task.base, number, 1000 * seed + salt, home=place, radius=RADIUS, turn=TURN)
        for number, place, salt in kinds
        if number
    ]
    return replace(task, train=drawn[0].with_samples([s for one in drawn for s in one.samples]))


def measure(task: Task, photos: Photos, backbone: str, seed: int) -> dict[str, float]:
    """Tune on some pictures with frozen features, and ask about the test scenes."""
    method = build(backbone, load_clip("tiny"), seed=seed)
    method.set_classes(task.base)
    config = method.clip.config
    (whole,) = PictureSet(photos, config.image_size, config.mean, config.std).batches(None, len(photos))
    seen = method.see(whole)
    epochs = max(1, round(STEPS * BATCH / len(photos)))
    recipe = recipe_for(backbone, {"epochs": epochs, "batch_size": BATCH, "augment": "none"})

    def batches(epoch: int) -> Iterator[Batch]:
        order = torch.randperm(len(photos), generator=stream(seed, "order", epoch))
        for rows in order.split(BATCH):
            frozen = {name: tensor[:, rows] for name, tensor in seen.items()}
            yield Batch(torch.empty(len(rows), 3, 0, 0), whole.labels[rows], frozen=frozen)

    fit(method, batches, recipe)
    return split_wise(method, task)


def main() -> None:
    """Print the table, and keep every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=80, help="of a class in the pool")
    parser.add_argument("--home", type=float, default=0.0)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--selectors", nargs="+", default=list(SELECTORS))
    parser.add_argument("--backbone", default="coop")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, args.seeds + 1):
        task, clip = make_pool(seed, args.pictures, args.home), load_clip("tiny")
        zeroshot = split_wise(build("zeroshot", clip), task)
        rows.setdefault("zeroshot, none", []).append(zeroshot)
        for fraction in args.fractions:
            for name in args.selectors:
                chosen = select(task.train, clip, Wish(name, fraction, seed)).photos
                found = measure(task, chosen, args.backbone, seed)
                rows.setdefault(f"{name}, {fraction:g}", []).append(found)
                print(f"seed {seed}, {name}, {fraction:g}: {found['base']:.1f}", file=sys.stderr)
        rows.setdefault("all", []).append(measure(task, task.train, args.backbone, seed))
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
