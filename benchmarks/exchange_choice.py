"""Choose Exchange's settings for new classes without a test scene: `python benchmarks/exchange_choice.py`.

Ten of the twenty base species are trained, the ten others stand for new classes, in scenes that are drawn for
this alone. So neither the new classes of the world of species nor its test scenes are seen. For each host the
mean over seeds is printed: accuracy in percent at home and anywhere, harmonic means, and their mean. The
settings with the best mean over hosts are those to take.
"""

import argparse
import tempfile
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from foveate.classifier import Classifier
from foveate.data.samples import Photos
from foveate.demo import AT_HOME, CONDITIONS, RECIPE, SETTINGS, DemoSize, Half, measured
from foveate.methods.exchange import Exchange
from foveate.world.photos import species_photos
from foveate.world.species import BASE, Condition

TRAINED, HELD_OUT = BASE[:10], BASE[10:]
SEED = 900  # of the scenes; those of the world, the demo and the bars have others
LARGE = {**RECIPE, "epochs": DemoSize.epochs}
RECIPES: dict[str, dict[str, Any]] = {  # as in configs/exchange.yaml
    "coop": LARGE,
    "kgcoop": LARGE,
    "promptsrc": {"augment": "none", "batch_size": 8},
    "mmrl": {"augment": "none"},
}
PRIORS, WHERES = (0.5, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0)

Figures = dict[str, float]


def tried(host: str, clip: str, seed: int, folder: Path) -> dict[tuple[float, float], Figures]:
    """Train one host and Exchange over it; return figures by prior and where."""
    draw = SEED + 10 * seed
    shots = species_photos(TRAINED, 16, draw, at_home=AT_HOME)

    @cache
    def scenes(half: Half, condition: Condition) -> Photos:
        names = TRAINED if half == "base" else HELD_OUT
        return species_photos(names, 20, draw + 1, condition=condition)

    options = {"shots": 16, "seed": seed, "bank_dir": folder / "bank"}
    settings = SETTINGS if host == "coop" else {}
    base = Classifier(host, clip, settings=settings)
    base.fit(shots, recipe=RECIPES[host], out=folder / "host", **options)
    found: dict[tuple[float, float], Figures] = {}
    for prior in PRIORS:  # it takes part in the choice of directions; `where` changes answers alone
        classifier = Classifier(f"exchange+{host}", clip, settings={**settings, "exchange": {"prior": prior}})
        classifier.fit(shots, recipe=RECIPES[host], backbone=folder / "host", **options)
        method = classifier.method
        assert isinstance(method, Exchange)
        for where in WHERES:
            method.config = replace(method.config, where=where)
            figures = measured(classifier, scenes, folder / "bank")
            figures["mean HM"] = mean(figures[f"HM {condition}"] for condition in CONDITIONS)
            found[prior, where] = figures
    return found


def main() -> None:
    """Print a line for each host and settings, and the means over hosts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", default="tiny-mild")
    parser.add_argument("--hosts", nargs="+", default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}: give 1 or more")
    torch.set_num_threads(1)
    hosts: dict[tuple[float, float], list[Figures]] = defaultdict(list)
    for host in given.hosts:
        seeds: dict[tuple[float, float], list[Figures]] = defaultdict(list)
        for seed in range(1, given.seeds + 1):
            with tempfile.TemporaryDirectory() as folder:
                for settings, figures in tried(host, given.clip, seed, Path(folder)).items():
                    seeds[settings].append(figures)
        if not hosts:
            names = list(seeds[PRIORS[0], WHERES[0]][0])
            print(f"| host | prior | where | {' | '.join(names)} |\n|---{'|---' * (2 + len(names))}|")
        for settings in product(PRIORS, WHERES):
            means = {name: mean(run[name] for run in seeds[settings]) for name in seeds[settings][0]}
            hosts[settings].append(means)
            print_row(host, settings, means)
    for settings, runs in hosts.items():
        print_row("all", settings, {name: mean(run[name] for run in runs) for name in runs[0]})


def print_row(host: str, settings: tuple[float, float], figures: Figures) -> None:
    """Print one row of the table."""
    cells = [f"{value:g}" for value in settings] + [f"{value:.1f}" for value in figures.values()]
    print(f"| {host} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
