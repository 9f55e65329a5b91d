"""FVG-PT's adapters fed with raw features or features of unit length: which of them lose their way.

    python benchmarks/world_stability.py --seeds 6

A simulation predicts that unit-length inputs collapse at the field's rate (0.0035) with few classes. Here on
drawn scenes over CoOp: base accuracy of z_FDC on test scenes, the backbone's beside it, and how often the
guard spoke.
"""

import argparse
import sys
from dataclasses import replace

import torch

from foveate.demo import make_task
from on_world import encode, learn, plugged, right, tuned, views, world_recipe

INPUTS = ("raw", "unit")


def main() -> None:
    """Run all seeds and print one line a setting."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--classes", type=int, nargs="+", default=[5, 12])
    parser.add_argument("--lr", type=float, nargs="+", default=[0.0035, 0.002])
    parser.add_argument("--backbone", default="coop")
    parser.add_argument(
        "--scale", type=float, default=100.0, help="CLIP's temperature; the embedded one has 28"
    )
    args = parser.parse_args()
    print("| base classes | lr | input | backbone | FDC mean | FDC worst | seeds where the guard spoke |")
    print("|---|---|---|---|---|---|---|")
    for classes in args.classes:
        found: dict[tuple[float, str], list[tuple[float, float, bool]]] = {}
        norms: list[float] = []
        for seed in range(1, args.seeds + 1):
            task = make_task(seed, classes=2 * classes)
            recipe = world_recipe(args.backbone)
            backbone = tuned(args.backbone, task, seed, recipe, scale=args.scale)
            asked = encode(backbone, task.test, task.base, task.base)
            norms += [
                side.norm(dim=-1).mean().item() for side in (asked.features.image[0], asked.features.text)
            ]
            alone = right(backbone.logits(asked.features), asked.labels)
            drawn = views(plugged(backbone, task, seed), task, recipe, seed)
            for lr in args.lr:
                for kind in INPUTS:
                    method = plugged(backbone, task, seed, {"adapter_input": kind})
                    learn(method, task, replace(recipe, lr=lr), seed, drawn)
                    accuracy = right(method.logits(asked.features, "base"), asked.labels)
                    spoke = any("below their backbone" in note for note in method.warnings())
                    found.setdefault((lr, kind), []).append((alone, accuracy, spoke))
            print(f"{classes} classes, seed {seed} done", file=sys.stderr)
        for (lr, kind), runs in found.items():
            alone, fdc, spoke = (torch.tensor([float(run[i]) for run in runs]) for i in range(3))
            print(
                f"| {classes} | {lr} | {kind} | {alone.mean():.1f} | {fdc.mean():.1f} | {fdc.min():.1f}"
                f" | {int(spoke.sum())} of {len(runs)} |"
            )
        print(f"raw lengths: picture {norms[0]:.1f}, text {norms[1]:.1f}", file=sys.stderr)


if __name__ == "__main__":
    main()
