"""Cost of inference relative to CLIP's image pass alone, in alternation, on random ViT-B/16 weights.

    python benchmarks/inference.py [--pairs 15] [--batch 16] [--classes 1000] [--device cpu]

Text features are computed before the measurement, because only the first prediction computes them. Run
nothing else on the machine, or the ratios are meaningless.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.methods.base import Method
from foveate.methods.registry import build
from foveate.types import Branch

METHODS = ("zeroshot", "coop", "fvgpt+coop", "fvgpt+kgcoop", "mmrl", "fvgpt+mmrl", "fvgpt+promptsrc")
BRANCHES: tuple[Branch, ...] = ("base", "new")


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the duration of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], plain: Callable[[], object], pairs: int, device: torch.device) -> float:
    """Return the median of time(ours) / time(plain) over pairs; the order alternates."""
    found: list[float] = []
    for number in range(pairs + 1):
        if number % 2:
            below, above = seconds(plain, device), seconds(ours, device)
        else:
            above, below = seconds(ours, device), seconds(plain, device)
        found.append(above / below)
    return median(found[1:])  # the first warms up


@torch.no_grad()
def beside_clip(method: Method, branch: Branch, images: torch.Tensor, pairs: int) -> float:
    """Return the cost of a batch's predictions, in image passes of plain CLIP."""
    return ratio(
        lambda: method.logits(method.features(images, branch), branch),
        lambda: method.clip.vision(images),
        pairs,
        images.device,
    )


def main() -> None:
    """Print a table with the ratio for each method and branch."""
    parser = argparse.ArgumentParser(description="Answers beside CLIP's image pass.")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    clip = Clip(ClipConfig()).initialise(torch.Generator().manual_seed(0)).to(given.device)
    images = torch.randn(given.batch, 3, 224, 224, device=given.device)
    names = [f"class {number}" for number in range(given.classes)]
    print(f"image passes of CLIP an answer costs, {given.classes} classes, batch {given.batch}\n")
    print(f"| method | {' | '.join(BRANCHES)} |\n|---{'|---' * len(BRANCHES)}|")
    for name in METHODS:
        method = build(name, clip).eval()
        method.set_classes(names)
        cells = [f"{beside_clip(method, branch, images, given.pairs):.3f}" for branch in BRANCHES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
