"""DAPT on drawn scenes: hosts alone, with each cue, and under FVG-PT; and curves over the number of shots.

    python benchmarks/world_dapt.py --seeds 5 --out out/dapt
    python benchmarks/world_dapt.py --seeds 3 --hosts maple --shots 1 2 4 8 16 --out out/dapt-shots

DAPT-S has the scenes' exact masks, DAPT-G the gaze of the model that is being tuned. base, new, hm: percent
right, each split among its own names. gaze: share of the gaze (at the label) inside the object, shift: the
foreground shift index, both over base test scenes. empty: percent of the views of the last epoch whose
foreground was empty. Each seed is a task of its own (names, scenes, start, order). All figures go to a JSON
file in the folder; what is there already is not trained again. Several numbers of shots also give a PNG.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from foveate.clip.weights import load_clip
from foveate.demo import Task, make_task
from foveate.explain.measure import LABEL, LookConfig, look
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.methods.dapt import Dapt
from foveate.methods.registry import build
from on_world import as_set, learn, plugged, split_wise, table, world_recipe

PAPER = {"mmrl": {"lambda_distill": 5.0}}
"""Settings of FVG-PT that its paper changes for a backbone."""

CUES = {"DAPT-S": "mask", "DAPT-G": "gaze"}

Figures = dict[str, float]


def measure(method: Method, task: Task) -> Figures:
    """Return accuracies, and where the method looks."""
    found = split_wise(method, task)
    method.set_classes(task.base)
    looks = look(method, as_set(method, task.test, task.base), "base", LookConfig(about=LABEL, steps=0))
    found |= {
        name: looks.figures[own].nanmean().item() for name, own in (("gaze", "energy"), ("shift", "shift"))
    }
    empty = method.last_tally.shares().get("empty", 0.0) if isinstance(method, Dapt) else 0.0
    return found | {"empty": 100 * empty}


def trained(name: str, host: str, task: Task, seed: int) -> Method:
    """Return the host, tuned: alone, or with DAPT and a cue."""
    if name == "alone":
        return learn(build(host, load_clip("tiny"), seed=seed), task, world_recipe(host), seed)
    settings = {"dapt": {"cue": CUES[name]}}
    method = build(f"dapt+{host}", load_clip("tiny"), settings, seed)
    return learn(method, task, world_recipe(f"dapt+{host}"), seed)


def one(host: str, task: Task, seed: int, wanted: list[str]) -> dict[str, Figures]:
    """Train one host in each way and measure it."""
    found: dict[str, Figures] = {}
    for name in wanted:
        if name == "DAPT-S, FVG-PT":
            continue
        method = trained(name, host, task, seed)
        found[name] = measure(method, task)
        if name == "DAPT-S" and "DAPT-S, FVG-PT" in wanted:
            recipe = replace(world_recipe(host), average_mean=None)
            guided = learn(plugged(method, task, seed, PAPER.get(host)), task, recipe, seed)
            found["DAPT-S, FVG-PT"] = measure(guided, task)
    return found


def draw(rows: dict[int, dict[str, list[Figures]]], title: str) -> bytes:
    """Return a PNG: base and new over the number of shots, a line each way to train."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    shots = sorted(rows)
    for axes, column in zip(figure.subplots(1, 2), ("base", "new"), strict=True):
        for name, marker in zip(rows[shots[0]], "os^Dv", strict=False):
            seeds = [torch.tensor([one[column] for one in rows[number][name]]) for number in shots]
            spread = [each.std().item() if len(each) > 1 else 0.0 for each in seeds]
            axes.errorbar(
                shots, [each.mean().item() for each in seeds], spread, marker=marker, capsize=2, label=name
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(shots, [str(number) for number in shots])
        axes.set_xlabel("training scenes a class")
        axes.set_ylabel(f"{column} classes, percent right")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    return drawn.getvalue()


def main() -> None:
    """Run all seeds, keep every figure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--hosts", nargs="+", default=["maple", "ivlp", "promptsrc", "mmrl", "coop"])
    parser.add_argument("--ways", nargs="+", default=["alone", "DAPT-S", "DAPT-G", "DAPT-S, FVG-PT"])
    parser.add_argument("--shots", nargs="+", type=int, default=[16])
    parser.add_argument("--out", type=Path, default=Path("out/dapt"))
    told = parser.parse_args()
    torch.set_num_threads(1)
    told.out.mkdir(parents=True, exist_ok=True)
    kept = told.out / "figures.json"
    done: dict[str, dict[str, Figures]] = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in range(1, told.seeds + 1):
        for shots in told.shots:
            for host in told.hosts:
                key = f"{host}, {shots} shots, seed {seed}"
                if set(told.ways) - done.get(key, {}).keys():
                    done[key] = one(host, make_task(seed, shots=shots), seed, told.ways)
                    write_atomically(kept, json.dumps(done, indent=2) + "\n")
                    print(f"{key} done", file=sys.stderr, flush=True)
    for host in told.hosts:
        rows: dict[int, dict[str, list[Figures]]] = {}
        for shots in told.shots:
            seeds = [done[f"{host}, {shots} shots, seed {seed}"] for seed in range(1, told.seeds + 1)]
            rows[shots] = {way: [figures[way] for figures in seeds] for way in told.ways}
            print(f"\n{host}, {shots} shots, {told.seeds} seeds\n\n{table(rows[shots])}")
        if len(told.shots) > 1:
            write_atomically(
                told.out / f"{host}.png", draw(rows, f"{host}, drawn scenes, {told.seeds} seeds")
            )


if __name__ == "__main__":
    main()
