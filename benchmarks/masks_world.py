"""Quality of masks from proposers without a second model, on drawn scenes, with the embedded CLIP.

    python benchmarks/masks_world.py --scenes 200 --seed 0
    python benchmarks/masks_world.py --scenes 100 --seed 1 --study    # settings of clip-self, one at a time

Each proposer gets the scene's own class. The table shows the IoU of the cleaned mask
(`foveate.foreground.cleanup`), plain and refined by GrabCut: mean ± standard error over scenes. Settings
were chosen on seed 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from foveate.foreground.cleanup import TidyConfig, tidy
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.proposers.registry import open_proposer
from foveate.world.photos import random_scene
from foveate.world.scenes import render

CHOICES: dict[str, tuple[str, dict[str, object]]] = {
    "clip-self, dense": ("clip-self", {"mode": "dense"}),
    "clip-self, cam": ("clip-self", {"mode": "cam"}),
    "clip-self, fused": ("clip-self", {}),
    "clip-self, fused, flip": ("clip-self", {"flip": True}),
    "classical": ("classical", {}),
}

STUDY: dict[str, tuple[object, ...]] = {
    "side": (64, 96, 128, 168, 192, 256),
    "scale": (5.0, 11.33, 20.0, 28.33),
    "gaussian": (0.0, 2.0, 5.0, 10.0),
    "layers": (1, 2, 4, 6),
}
"""Values of settings; all others keep their defaults."""

Array = np.ndarray


@dataclass(frozen=True)
class Scored:
    """IoU of the mask of each scene.

    Attributes:
        plain: Cleaned up, not refined.
        refined: Refined along colours, then cleaned up.
        seconds: Duration of the proposer for a scene.
    """

    plain: Array
    refined: Array
    seconds: float

    def row(self, name: str) -> str:
        """Return a row of the table."""
        cells = [f"{v.mean():.3f} ± {v.std() / len(v) ** 0.5:.3f}" for v in (self.plain, self.refined)]
        cells += [f"{100 * np.mean(self.refined > 0.5):.0f} %", f"{1000 * self.seconds:.0f}"]
        return f"| {name} | {' | '.join(cells)} |"


def draw(scenes: int, seed: int) -> tuple[list[Request], Array]:
    """Draw scenes like those in the embedded CLIP's training, with exact masks."""
    rng = np.random.default_rng([seed, 2**33])
    drawn = [random_scene(rng) for _ in range(scenes)]
    pictures, masks = render(drawn)
    requests = [
        Request(f"{number}.png", Image.fromarray(picture), scene.name)
        for number, (picture, scene) in enumerate(zip(pictures, drawn, strict=True))
    ]
    return requests, masks


class Ellipse(Proposer):
    """The same central ellipse for every picture: a baseline for all proposers."""

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        answers: list[Proposal] = []
        for request in requests:
            y, x = np.mgrid[: request.picture.height, : request.picture.width]
            x, y = (x + 0.5) / request.picture.width - 0.5, (y + 0.5) / request.picture.height - 0.5
            answers.append(Proposal(np.hypot(x, y) < 0.35, 0.0))
        return answers


def iou(mask: Array, truth: Array) -> float:
    """Return intersection over union."""
    return float((mask & truth).sum() / (mask | truth).sum())


def score(proposer: Proposer, requests: Sequence[Request], truths: Array) -> Scored:
    """Run a proposer on every scene."""
    began = time.process_time()
    proposals = proposer.propose(requests)
    seconds = (time.process_time() - began) / len(requests)
    found: list[Array] = []
    for refine in ("none", "auto"):
        tidied = [
            tidy(request.picture, proposal, coarse=proposer.coarse, config=TidyConfig(refine=refine))
            for request, proposal in zip(requests, proposals, strict=True)
        ]
        found.append(np.array([iou(one.mask, truth) for one, truth in zip(tidied, truths, strict=True)]))
    return Scored(found[0], found[1], seconds)


def measured(requests: Sequence[Request], truths: Array, study: bool) -> Iterator[tuple[str, Scored]]:
    """Yield table rows by name."""
    yield "ellipse in the middle", score(Ellipse(), requests, truths)
    chosen = dict(CHOICES)
    if study:
        chosen = {"clip-self": CHOICES["clip-self, fused"]}
        for name, values in STUDY.items():
            chosen |= {f"{name} {value}": ("clip-self", {name: value}) for value in values}
    for name, (proposer, settings) in chosen.items():
        yield name, score(open_proposer(proposer, **settings), requests, truths)


def main() -> None:
    """Print the table row by row, and save the figures of each scene."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", action="store_true", help="settings of clip-self, one at a time")
    parser.add_argument("--out", type=Path, default=None, help="JSON file of all figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    requests, truths = draw(args.scenes, args.seed)
    rows: dict[str, dict[str, object]] = {}
    print("| mask | IoU, plain | IoU, refined | refined above 0.5 | ms, proposer |\n|---|---|---|---|---|")
    for name, scored in measured(requests, truths, args.study):
        print(scored.row(name))
        sys.stdout.flush()
        rows[name] = {"plain": scored.plain.tolist(), "refined": scored.refined.tolist()}
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
