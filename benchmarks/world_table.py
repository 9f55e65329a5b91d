"""Backbones on drawn scenes, alone and with FVG-PT: the shape of the paper's Table 1, and more.

    python benchmarks/world_table.py --seeds 5
    python benchmarks/world_table.py --seeds 5 --backbones clip_adapter tip_adapter linear_probe lpplusplus

base, new, hm: each split among its own names. gbase, gnew, ghm: every scene among all names together. Percent
right, mean ± sd over seeds; each seed is a task of its own (names, scenes, start, order).
"""

import argparse
import json
import sys
from pathlib import Path

from foveate.clip.weights import load_clip
from foveate.demo import make_task
from foveate.methods.registry import build
from on_world import everything, learn, plugged, table, tuned, world_recipe

PAPER = {"mmrl": {"lambda_distill": 5.0}}
"""Settings of FVG-PT that the paper changes for a backbone."""


def main() -> None:
    """Run all seeds, print the table, and keep every figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=["coop", "kgcoop", "promptsrc", "mmrl"])
    parser.add_argument("--out", type=Path, default=None, help="JSON file of all figures")
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, args.seeds + 1):
        task = make_task(seed)
        rows.setdefault("zeroshot", []).append(everything(build("zeroshot", load_clip("tiny")), task))
        for name in args.backbones:
            recipe = world_recipe(name)
            backbone = tuned(name, task, seed, recipe)
            rows.setdefault(name, []).append(everything(backbone, task))
            print(f"seed {seed}, {name} done", file=sys.stderr)
            if not backbone.tunes_text:
                continue  # FVG-PT stands over learned class texts
            guided = learn(plugged(backbone, task, seed, PAPER.get(name)), task, recipe, seed)
            rows.setdefault(f"fvgpt+{name}", []).append(everything(guided, task))
            for note in guided.warnings():
                print(f"seed {seed}, {name}: {note}", file=sys.stderr)
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
