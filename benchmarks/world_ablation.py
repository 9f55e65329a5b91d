"""FVG-PT's parts on the demo's task: what each is worth where the place lies.

    python benchmarks/world_ablation.py --seeds 5

Means over seeds: percent right on training scenes, base, new, their HM, and the foreground shift index over
base test scenes.
"""

import argparse
import sys
from dataclasses import replace

import torch

from foveate.clip.weights import load_clip
from foveate.demo import Task, make_task
from foveate.evaluate.answers import ask
from foveate.evaluate.metrics import harmonic_mean
from foveate.methods.base import Method
from foveate.methods.registry import build
from on_world import as_set, encode, learn, plugged, right, split_wise, tuned, views, world_recipe

VARIANTS = {
    "fvgpt": {},
    "no distillation": {"terms": ("base", "gate", "prior", "prior_kl")},
    "r = 1": {"foreground_gate": False},
    "lambda_distill 50": {"lambda_distill": 50.0},
    "tau 0.5": {"tau": 0.5},
    "images alone": {"adapters": "image"},
    "texts alone": {"adapters": "text"},
    "black background": {"fill": "black"},
}


def measure(method: Method, task: Task) -> list[float]:
    """Return train, base, new, HM, shift."""
    asked = encode(method, task.train, task.base, task.base)
    train = right(method.logits(asked.features, "base").detach(), asked.labels)
    found = split_wise(method, task)
    method.set_classes(task.base, trained=task.base)
    shift = ask(method, as_set(method, task.test, task.base), "base", with_foreground=True).shift
    assert shift is not None
    return [train, found["base"], found["new"], found["hm"], shift]


def main() -> None:
    """Run all seeds and print the means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="coop")
    parser.add_argument(
        "--lr", type=float, default=None, help="another rate than the recipe's, for both stages"
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = parser.parse_args()
    recipe = world_recipe(args.backbone, lr=args.lr)
    results: dict[str, list[list[float]]] = {}
    for seed in range(1, args.seeds + 1):
        task = make_task(seed)
        results.setdefault("zeroshot", []).append(measure(build("zeroshot", load_clip("tiny")), task))
        backbone = tuned(args.backbone, task, seed, recipe)
        results.setdefault(args.backbone, []).append(measure(backbone, task))
        drawn: dict[str, list] = {}
        for name in args.variants:
            variant = plugged(backbone, task, seed, VARIANTS[name])
            fill = variant.config.fill  # frozen features differ with the background alone
            if fill not in drawn:
                drawn[fill] = views(variant, task, recipe, seed)
            learn(variant, task, replace(recipe, average_mean=None), seed, drawn[fill])
            results.setdefault(name, []).append(measure(variant, task))
        print(f"seed {seed} done", file=sys.stderr)
    print("| method | train | base | new | HM | shift |\n|---|---|---|---|---|---|")
    for name, rows in results.items():
        train, base, new, _, shift = torch.tensor(rows).mean(0).tolist()
        hm = harmonic_mean(base, new)
        print(f"| {name} | {train:.1f} | {base:.1f} | {new:.1f} | {hm:.1f} | {shift:.3f} |")


if __name__ == "__main__":
    main()
