"""Checks that the world of species is a fair benchmark: criteria for a CLIP, over several seeds.

    python benchmarks/world_bars.py tiny-mild --seeds 5 --out benchmarks/results/world-bars-mild.json

Each seed draws its own scenes. The output marks criteria that are not met; the exit code does not depend
on them.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import Photos
from foveate.demo import RECIPE, SETTINGS, DemoSize
from foveate.foreground.views import foreground_view
from foveate.world.photos import ScenePicture, species_photos
from foveate.world.scenes import Scene, render, render_ground
from foveate.world.species import BASE, NEW
from foveate.world.train import normalise

EACH = 20
CONDITIONS = ("home", "any", "sibling", "unseen")


def scenes_of(photos: Photos) -> tuple[list[Scene], list[int]]:
    """Return the scenes and labels of drawn photos."""
    scenes = [s.picture.scene for s in photos.samples if isinstance(s.picture, ScenePicture)]
    return scenes, [s.label for s in photos.samples]


@torch.no_grad()
def encoded(clip: Clip, pictures: np.ndarray, masks: np.ndarray | None = None) -> Tensor:
    """Return unit features `[N, D]`; of the mean-filled foreground if masks are given."""
    found: list[Tensor] = []
    for start in range(0, len(pictures), 100):
        images = normalise(pictures[start : start + 100], clip.config)
        if masks is not None:
            part = torch.from_numpy(masks[start : start + 100])[:, None].float()
            images = foreground_view(images, part, "mean")
        found.append(F.normalize(clip.vision(images), dim=-1))
    return torch.cat(found)


@torch.no_grad()
def texts(clip: Clip, names: Sequence[str]) -> Tensor:
    """Return unit features `[C, D]` of the names in the standard template."""
    return F.normalize(clip.text(clip.tokenizer([f"a photo of a {name}." for name in names])), dim=-1)


def right(features: Tensor, text: Tensor, labels: Sequence[int]) -> float:
    """Return the accuracy in percent."""
    return 100 * ((features @ text.T).argmax(-1) == torch.tensor(labels)).float().mean().item()


def free_scenes(names: Sequence[str], each: int, seed: int) -> Photos:
    """Draw scenes at places of pretraining, chosen independently of the species."""
    return species_photos(names, each, seed, condition="any")


def probe(clip: Clip, train: Photos, test: Tensor, labels: Sequence[int]) -> float:
    """Return the accuracy of a linear probe on unit features, in percent."""
    scenes, truth = scenes_of(train)
    features = encoded(clip, render(scenes)[0]).numpy()
    middle, spread = features.mean(0), features.std(0) + 1e-6
    model = LogisticRegression(C=0.3, max_iter=2000).fit((features - middle) / spread, truth)
    return 100 * float(model.score((test.numpy() - middle) / spread, list(labels)))


def figures(clip: Clip, seed: int, methods: Sequence[str]) -> dict[str, float]:
    """Compute all figures of one seed."""
    found: dict[str, float] = {}
    for split, names in (("base", BASE), ("new", NEW)):
        text = texts(clip, names)
        for condition in CONDITIONS:
            scenes, labels = scenes_of(species_photos(names, EACH, 1000 + seed, condition=condition))
            pictures, masks = render(scenes)
            whole = encoded(clip, pictures)
            found[f"{split} {condition}"] = right(whole, text, labels)
            found[f"{split} {condition}, foreground"] = right(encoded(clip, pictures, masks), text, labels)
            if condition == "home":
                ground = encoded(clip, render_ground(scenes))
                found[f"{split} {condition}, ground"] = right(ground, text, labels)
            if (split, condition) == ("base", "any"):
                found["probe, free"] = probe(clip, free_scenes(names, 60, 2000 + seed), whole, labels)
                at_home = species_photos(names, 60, 3000 + seed, at_home=1.0)
                found["probe, home"] = probe(clip, at_home, whole, labels)
    for method in methods:
        found |= {f"{method} {what}": value for what, value in tuned(clip, method, seed).items()}
    return found


def tuned(clip: Clip, method: str, seed: int, at_home: float = 0.9) -> dict[str, float]:
    """Return accuracies in percent of a method trained on 16 scenes of each base class."""
    settings = SETTINGS if "coop" in method.split("+") else {}
    classifier = Classifier(method, clip, settings=settings)
    train = species_photos(BASE, 16, 4000 + seed, at_home=at_home)
    classifier.fit(train, shots=16, seed=seed, recipe={**RECIPE, "epochs": DemoSize.epochs})
    found: dict[str, float] = {}
    for split, names in (("base", BASE), ("new", NEW)):
        for condition in CONDITIONS:
            test = species_photos(names, EACH, 1000 + seed, condition=condition)
            found[f"{split} {condition}"] = classifier.evaluate(test, split).accuracy
    return found


@dataclass(frozen=True)
class Bar:
    """A criterion for a figure; `value` computes it from the figures of a seed."""

    words: str
    value: Callable[[dict[str, float]], float]
    least: float = -np.inf
    most: float = np.inf


BARS = (
    Bar("zero-shot, base, any place", lambda f: f["base any"], 55, 75),
    Bar("zero-shot, base, home − any", lambda f: f["base home"] - f["base any"], 10),
    Bar("linear probe, places free, on any place", lambda f: f["probe, free"], 90),
    Bar("the same − trained at home", lambda f: f["probe, free"] - f["probe, home"], 20),
    Bar("ground alone names the class, × chance", lambda f: f["base home, ground"] / 100 * len(BASE), 3),
    Bar("mean-filled foreground, any: gain", lambda f: f["base any, foreground"] - f["base any"], 5),
    Bar("mean-filled foreground, home: gain", lambda f: f["base home, foreground"] - f["base home"], most=0),
    Bar("CoOp, base, home: gain", lambda f: f["coop base home"] - f["base home"], 0),
    Bar("CoOp, new, home: gain", lambda f: f["coop new home"] - f["new home"], most=0),
)
SPREAD = 3.0


def main() -> None:
    """Compute the figures, compare them with the criteria, print a table and save everything."""
    parser = argparse.ArgumentParser(description="Check the bars of the world of species.")
    parser.add_argument("clip", help="tiny-mild, tiny-strong, tiny-control, or a folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=["coop"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    clip = load_clip(args.clip)
    rows = [figures(clip, seed, args.methods) for seed in range(1, args.seeds + 1)]
    names = list(rows[0])
    mean = {name: float(np.mean([row[name] for row in rows])) for name in names}
    spread = {name: float(np.std([row[name] for row in rows], ddof=min(1, len(rows) - 1))) for name in names}
    print(f"| figure, {args.clip}, {args.seeds} seeds | mean | sd |\n|---|---|---|")
    for name in names:
        print(f"| {name} | {mean[name]:.1f} | {spread[name]:.1f} |")
    print("\n| bar | asked | found | sd | met |\n|---|---|---|---|---|")
    for bar in BARS:
        if "coop" in bar.words.casefold() and "coop" not in args.methods:
            continue
        values = [bar.value(row) for row in rows]
        middle, sd = float(np.mean(values)), float(np.std(values, ddof=min(1, len(values) - 1)))
        asked = f"{bar.least:g} to {bar.most:g}".replace("-inf to", "at most").replace(" to inf", " or more")
        met = bar.least <= middle <= bar.most
        print(f"| {bar.words} | {asked} | {middle:.1f} | {sd:.1f} | {'yes' if met else 'NO'} |")
    wide = [name for name in names if spread[name] > SPREAD]
    print(f"\nspread above {SPREAD:g} points: {', '.join(wide) or 'none'}")
    if args.out:
        args.out.write_text(json.dumps({"clip": args.clip, "seeds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
