"""Quality of proposers' masks on real pictures, compared with masks drawn by people.

    python benchmarks/masks_iou.py DATA/msrc10 --proposers classical u2net ellipse

DATA/msrc10 has pictures in `images/CLASS/` and masks of the same names in `masks/CLASS/`; any such
folder works. Masks are cleaned up as in `foveate masks make`. IoU is averaged over pictures. CPU ms
include proposing and clean-up, but not decoding. "ellipse" ignores the picture: it fills 70 % of each
side.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from foveate.foreground.cleanup import TidyConfig, tidy
from foveate.foreground.matching import find_masks
from foveate.foreground.opening import PICTURE_SUFFIXES
from foveate.foreground.proposers.base import Mask, Proposal, Proposer, Request
from foveate.foreground.proposers.registry import open_proposer
from foveate.foreground.values import read_mask


@dataclass(frozen=True)
class Truth:
    """A picture, and the path of its mask."""

    name: str
    label: str
    picture: Path
    mask: Path


@dataclass(frozen=True)
class Result:
    """Result of one proposer for one picture."""

    name: str
    label: str
    iou: float
    cpu_ms: float
    score: float
    fallback: bool


class Ellipse(Proposer):
    """The same central ellipse for every picture."""

    name = "ellipse"

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [Proposal(self._mask(*request.picture.size), 0.0) for request in requests]

    def _mask(self, width: int, height: int) -> Mask:
        row, column = np.mgrid[0:height, 0:width]
        return ((column + 0.5) / width - 0.5) ** 2 + ((row + 0.5) / height - 0.5) ** 2 < 0.35**2


def main() -> None:
    """Measure each proposer, print both tables, and save all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="folder with images/ and masks/")
    parser.add_argument("--proposers", nargs="+", default=["classical", "u2net", "ellipse"])
    parser.add_argument("--every", type=int, default=1, help="look at every Nth picture only")
    parser.add_argument("--tuned-on", type=int, help="besides, report every Nth picture and the others apart")
    parser.add_argument("--refine", choices=["auto", "grabcut", "none"], default="auto")
    parser.add_argument("--out", type=Path, help="JSON file of each picture's figures")
    args = parser.parse_args()
    truths = find_truths(args.root)[:: args.every]
    results = {name: measure(name, truths, TidyConfig(refine=args.refine)) for name in args.proposers}
    print(summary(results, args.tuned_on))
    print()
    print(by_class(results))
    if args.out:
        kept = {name: [vars(one) for one in several] for name, several in results.items()}
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def find_truths(root: Path) -> list[Truth]:
    """List the pictures that have masks, by name."""
    folder = (root / "images").absolute()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    masks = find_masks([(path, path.relative_to(folder)) for path in files], root / "masks")
    return [
        Truth(path.relative_to(folder).as_posix(), path.parent.name, path, mask)
        for path, mask in zip(files, masks, strict=True)
        if mask is not None
    ]


def measure(name: str, truths: Sequence[Truth], config: TidyConfig) -> list[Result]:
    """Run one proposer on every picture."""
    proposer = Ellipse() if name == "ellipse" else open_proposer(name)
    results: list[Result] = []
    for number, truth in enumerate(truths, 1):
        picture = ImageOps.exif_transpose(Image.open(truth.picture)).convert("RGB")
        wanted = np.asarray(read_mask(truth.mask)) > 0
        start = time.process_time()
        [proposal] = proposer.propose([Request(truth.name, picture, truth.label, truth.label)])
        tidied = tidy(picture, proposal, coarse=proposer.coarse, config=config)
        spent = 1000 * (time.process_time() - start)
        iou = float((tidied.mask & wanted).sum() / (tidied.mask | wanted).sum())
        results.append(Result(truth.name, truth.label, iou, spent, tidied.score, tidied.fallback))
        print(f"\r{name}: {number} of {len(truths)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    proposer.close()
    return results


def summary(results: dict[str, list[Result]], tuned_on: int | None) -> str:
    """Return one row for each proposer and part of the pictures."""
    lines = ["| proposer | pictures | mean IoU | median | IoU > 0.5 | whole picture | CPU ms |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, all_of_them in results.items():
        parts = {"all": all_of_them}
        if tuned_on:
            parts[f"every {tuned_on}th"] = all_of_them[::tuned_on]
            parts["the others"] = [one for place, one in enumerate(all_of_them) if place % tuned_on]
        lines += [f"| {name} | {part}: {_row(several)} |" for part, several in parts.items()]
    return "\n".join(lines)


def _row(results: Sequence[Result]) -> str:
    ious = np.array([one.iou for one in results])
    whole = sum(one.fallback for one in results)
    spent = np.mean([one.cpu_ms for one in results])
    share = np.mean(ious > 0.5)
    return f"{len(ious)} | {ious.mean():.3f} | {np.median(ious):.3f} | {share:.2f} | {whole} | {spent:.0f}"


def by_class(results: dict[str, list[Result]]) -> str:
    """Return the mean IoU for each class and proposer."""
    labels = sorted({one.label for several in results.values() for one in several})
    lines = [f"| class | {' | '.join(results)} |", "|---" * (len(results) + 1) + "|"]
    for label in labels:
        means = [np.mean([one.iou for one in several if one.label == label]) for several in results.values()]
        lines.append(f"| {label} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
