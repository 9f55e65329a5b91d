"""Shift index against accuracy on drawn scenes, for CLIP, a backbone and FVG-PT over it (FVG-PT's Fig. 5).

    python benchmarks/world_shift.py --seeds 3 --out out/shift
    python benchmarks/world_shift.py --seeds 3 --how hirescam gradcam rollout --steps 4

Test scenes of trained classes, among these names; pictures of all seeds are pooled into bins of equally many.
Writes shift.png and shift.json, and prints the means over scenes answered rightly and wrongly.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch

from foveate.demo import Task, make_task
from foveate.explain.curve import Point, draw_curves, shift_curve
from foveate.explain.looking import How
from foveate.explain.measure import LookConfig, Looks, look
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.methods.registry import build
from on_world import as_set, learn, plugged, tuned, world_recipe


def methods(backbone: str, task: Task, seed: int) -> dict[str, Method]:
    """Train the backbone and FVG-PT over it; return them behind zero-shot CLIP."""
    inner = tuned(backbone, task, seed, world_recipe(backbone))
    whole = learn(plugged(inner, task, seed), task, world_recipe(f"fvgpt+{backbone}"), seed)
    return {"zeroshot": build("zeroshot", inner.clip), backbone: inner, f"fvgpt+{backbone}": whole}


def seen(method: Method, task: Task, hows: list[How], steps: int) -> dict[str, Looks]:
    """Return what a method looks at in the test scenes of trained classes, in each way to look."""
    method.eval()
    method.set_classes(task.base)
    pictures = as_set(method, task.test, task.base)
    return {how: look(method, pictures, "base", LookConfig(how=how, steps=steps)) for how in hows}


def means(looks: list[Looks]) -> dict[str, dict[str, float | int]]:
    """Return accuracy and the mean of each figure: over all scenes, those answered rightly, and wrongly."""
    right = torch.cat([one.right for one in looks])
    figures = {name: torch.cat([one.figures[name] for one in looks]) for name in looks[0].figures}
    which = {"all": torch.ones_like(right), "right": right, "wrong": ~right}
    return {
        over: {
            "scenes": int(kept.sum()),
            "accuracy": 100 * right[kept].float().mean().item(),
            **{name: value[kept].nanmean().item() for name, value in figures.items()},
        }
        for over, kept in which.items()
    }


def curve(looks: list[Looks], bins: int) -> list[Point]:
    """Return the curve over the scenes of all seeds."""
    shift = torch.cat([one.figures["shift"] for one in looks])
    return shift_curve(shift, torch.cat([one.right for one in looks]), bins)


def table(rows: dict[str, dict[str, dict[str, dict[str, float | int]]]]) -> str:
    """Return a Markdown table of the means."""
    first = next(iter(next(iter(rows.values())).values()))["all"]
    figures = [name for name in first if name not in ("scenes", "accuracy")]
    lines = [f"| method | gaze | over | scenes | accuracy | {' | '.join(figures)} |"]
    lines.append("|---" * (len(figures) + 5) + "|")
    for name, ways in rows.items():
        for how, parts in ways.items():
            for over, row in parts.items():
                cells = [f"{row['accuracy']:.1f}", *(f"{row[figure]:.3f}" for figure in figures)]
                lines.append(f"| {name} | {how} | {over} | {row['scenes']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tests", type=int, default=25, help="test scenes of a class")
    parser.add_argument("--bins", type=int, default=8)
    parser.add_argument("--backbone", default="coop")
    parser.add_argument("--how", nargs="+", choices=get_args(How), default=["hirescam"])
    parser.add_argument("--steps", type=int, default=0, help="of deletion and insertion")
    parser.add_argument("--out", type=Path, default=Path("out/shift"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[Looks]]] = {}
    for seed in range(1, told.seeds + 1):
        task = make_task(seed, tests=told.tests)
        for name, method in methods(told.backbone, task, seed).items():
            for how, looks in seen(method, task, told.how, told.steps).items():
                found.setdefault(name, {}).setdefault(how, []).append(looks)
        print(f"seed {seed} of {told.seeds}", file=sys.stderr)
    rows = {name: {how: means(looks) for how, looks in ways.items()} for name, ways in found.items()}
    curves = {name: curve(next(iter(ways.values())), told.bins) for name, ways in found.items()}
    told.out.mkdir(parents=True, exist_ok=True)
    points = {name: [asdict(point) for point in one] for name, one in curves.items()}
    kept = {"seeds": told.seeds, "tests": told.tests, "methods": rows, "curves": points}
    write_atomically(told.out / "shift.json", json.dumps(kept, indent=2) + "\n")
    title = f"drawn scenes of trained classes, {told.seeds} seeds"
    write_atomically(told.out / "shift.png", draw_curves(curves, title))
    print(table(rows))


if __name__ == "__main__":
    main()
