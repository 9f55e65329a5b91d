"""FVG-PT's parts on the demo's task: what each is worth where the place lies.

    python benchmarks/world_ablation.py --seeds 5

Prints, as means over seeds: percent right on training scenes, base, new, their HM, all names together, and
the foreground shift index over base scenes.
"""

import argparse
import sys
from dataclasses import replace

import torch

from foveate.clip.weights import load_clip
from foveate.data.loader import PictureSet
from foveate.data.samples import Photos
from foveate.demo import RECIPE, Task, make_task
from foveate.evaluate.answers import Answers, ask
from foveate.evaluate.metrics import harmonic_mean
from foveate.methods.base import Method
from foveate.methods.registry import build, wrap
from foveate.train.loop import fit
from foveate.train.recipe import Recipe, recipe_for
from foveate.train.run import training_pictures
from foveate.types import Branch

VARIANTS = {
    "fvgpt": {},
    "no distillation": {"terms": ("base", "gate", "prior", "prior_kl")},
    "r = 1": {"foreground_gate": False},
    "lambda_distill 50": {"lambda_distill": 50.0},
    "tau 0.5": {"tau": 0.5},
}


def answers(method: Method, task: Task, photos: Photos, names: tuple[str, ...], branch: Branch) -> Answers:
    """Ask about the scenes of `names` among these names."""
    kept = [s for s in photos.samples if photos.names[s.label] in names]
    labelled = tuple(replace(s, label=names.index(photos.names[s.label])) for s in kept)
    config = method.clip.config
    pictures = PictureSet(Photos(names, labelled, "binary255"), config.image_size, config.mean, config.std)
    method.set_classes(names, trained=task.base)
    return ask(method, pictures, branch, with_foreground=branch == "base")


def measure(method: Method, task: Task) -> list[float]:
    """Return train, base, new, HM, all, shift."""
    new = tuple(name for name in task.test.names if name not in task.base)
    trained = answers(method, task, task.train, task.base, "base").accuracy
    base = answers(method, task, task.test, task.base, "base")
    other = answers(method, task, task.test, new, "new").accuracy
    both = answers(method, task, task.test, task.base + new, "mixed").accuracy
    assert base.shift is not None
    return [trained, base.accuracy, other, harmonic_mean(base.accuracy, other), both, base.shift]


def learn(method: Method, task: Task, recipe: Recipe, seed: int) -> Method:
    """Train one stage."""
    pictures = training_pictures(task.train, method.clip.config, recipe, seed)
    method.set_classes(task.base)
    fit(
        method, lambda epoch: pictures.batches(epoch, recipe.batch_size, shuffle=True, drop_last=True), recipe
    )
    return method


def main() -> None:
    """Run all seeds and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--lr", type=float, default=None, help="another rate than the field's, for both stages"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    clip, recipe = load_clip("tiny"), recipe_for("coop", {**RECIPE, "lr": args.lr})
    seeds = range(1, args.seeds + 1)
    results: dict[str, list[list[float]]] = {}
    for seed in seeds:
        task = make_task(seed)
        results.setdefault("zeroshot", []).append(measure(build("zeroshot", clip), task))
        coop = learn(build("coop", clip, seed=seed), task, recipe, seed)
        results.setdefault("coop", []).append(measure(coop, task))
        for name in args.variants:
            guided = learn(wrap("fvgpt", coop, {"fvgpt": VARIANTS[name]}, seed), task, recipe, seed)
            results.setdefault(name, []).append(measure(guided, task))
        print(f"seed {seed} done", file=sys.stderr)
    print("| method | train | base | new | HM | all | shift |\n|---|---|---|---|---|---|---|")
    for name, rows in results.items():
        means = torch.tensor(rows).mean(0).tolist()
        cells = [f"{value:.1f}" for value in means[:-1]] + [f"{means[-1]:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
