"""CPU seconds and peak memory of work on long lists.

    python benchmarks/growth.py listing FOLDER
    python benchmarks/growth.py choosing

`listing` reads a folder of 250,000 empty picture files, which it makes if they are not there. `choosing` runs
selectors on random features.
"""

import argparse
import time
from pathlib import Path

import torch

from foveate.data.sources import load_photos
from foveate.select.choosing import choose
from foveate.select.pool import PoolFeatures, budgets
from speed_memory import peak


def listing(folder: Path, classes: int = 1000, each: int = 250) -> str:
    """List a folder of pictures."""
    if not folder.is_dir():
        for label in range(classes):
            (folder / f"class {label:04d}").mkdir(parents=True)
            for number in range(each):
                (folder / f"class {label:04d}" / f"{label:04d}_{number:04d}.jpg").touch()
    before, start = peak(), time.process_time()
    found = load_photos(folder)
    seconds = time.process_time() - start
    return f"{len(found)} pictures: {seconds:.2f} CPU s, {peak() - before:.0f} MB more than before"


def choosing(name: str, pictures: int, classes: int, share: float = 0.1, dim: int = 512) -> str:
    """Choose a share of a pool of random features around class texts."""
    g = torch.Generator().manual_seed(0)
    labels, centre = torch.arange(pictures) % classes, torch.randn(classes, dim, generator=g)
    features = centre[labels] + torch.randn(pictures, dim, generator=g)
    texts = centre + 0.5 * torch.randn(classes, dim, generator=g)
    pool = PoolFeatures.of(features, texts, labels, 100.0)
    budget = budgets(torch.bincount(labels).tolist(), share)
    start = time.process_time()
    choose(name, pool, budget, torch.Generator().manual_seed(1))
    seconds = time.process_time() - start
    return f"{name}, {pictures} in {classes} classes: {seconds:.2f} CPU s, peak {peak():.0f} MB"


def main() -> None:
    """Run the measurement that the arguments select."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["listing", "choosing"])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/many"))
    parser.add_argument("--selectors", nargs="+", default=["herding", "kcenter", "facility"])
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.work == "listing":
        print(listing(given.folder))
        return
    for name in given.selectors:
        print(choosing(name, given.pictures, given.classes), flush=True)


if __name__ == "__main__":
    main()
