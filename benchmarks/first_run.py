"""CPU seconds and peak memory of a whole first fit: `python benchmarks/first_run.py FOLDER [--pairs 3]`.

It draws pictures and masks, saves towers of ViT-B/16's size with random weights, and runs `foveate fit` as a
process of its own: first without kept features, and then a second run of the same method, which finds them.
What is in the folder already is drawn no second time. With `--pairs`, the field's way learns from the same
pictures in a process of its own before each first fit; the ratio is the median of the pairs.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch import Tensor

from foveate.clip.config import ClipConfig
from foveate.clip.weights import save_clip
from foveate.costs.measuring import draw_photos, made_up_names
from foveate.types import Batch
from speed_memory import peak
from speed_setup import random_clip

CLASSES, SHOTS, EPOCHS = 10, 4, 2


def lay_out(folder: Path) -> None:
    """Draw pictures in a folder per class, their masks beside in the same layout, and save the towers."""
    drawn = draw_photos(folder / "drawn", CLASSES * SHOTS * 2, made_up_names(CLASSES))
    for sample in drawn.samples:
        assert isinstance(sample.picture, Path)
        assert isinstance(sample.mask, Path)
        for file, kind in ((sample.picture, "photos"), (sample.mask, "masks")):
            place = folder / kind / drawn.names[sample.label] / f"{sample.picture.stem}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
    save_clip(random_clip(ClipConfig()), folder / "clip")


def fitted(folder: Path, method: str, more: list[str]) -> tuple[float, float]:
    """Fit in another process; return its CPU seconds and its peak memory in MB."""
    out = folder / "out"  # each fit begins anew; what may stay are the features in the cache
    shutil.rmtree(out, ignore_errors=True)
    words = [str(folder / "photos"), "--masks", str(folder / "masks"), "--clip", str(folder / "clip")]
    words += ["--method", method, "--shots", str(SHOTS), "--epochs", str(EPOCHS), "--out", str(out), *more]
    return _spent(["--inside", *words], str(folder / "cache"))


def field_fitted(folder: Path, method: str) -> tuple[float, float]:
    """Train in the field's way in another process; return its CPU seconds and its peak memory in MB."""
    return _spent(["--field-inside", str(folder), method], "")


def _spent(words: list[str], cache: str) -> tuple[float, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FOVEATE_CACHE": cache}
    command = [sys.executable, str(Path(__file__)), *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds, most = done.stdout.splitlines()[-1].split()
    return float(seconds), float(most)


def field_inside(folder: Path, method: str) -> None:
    """Train all stages as the released trainers do: decode, encode and step, batch by batch.

    Nothing is calibrated, tested or saved. FVG-PT's stage is the faster reading: CLIP's pass is the host's.
    """
    from fieldway import FIELD
    from fieldway_stage import FieldFvgPt
    from fieldway_towers import FieldClip
    from foveate.clip.weights import load_clip
    from foveate.data.fewshot import draw_shots
    from foveate.data.sources import load_photos
    from foveate.methods.fvgpt import FvgPt
    from foveate.methods.registry import build, wrap
    from foveate.train.banking import training_pictures
    from foveate.train.recipe import recipe_for

    torch.set_num_threads(1)
    clip = load_clip(folder / "clip")
    photos = draw_shots(load_photos(folder / "photos", masks=folder / "masks"), SHOTS, 1).train
    ours = build(method.rpartition("+")[2], clip)
    ours.set_classes(photos.names)
    host = FIELD[ours.name](FieldClip(clip), ours)

    def train(name: str, step: Callable[[Batch], object], learned: list[Tensor]) -> None:
        recipe = recipe_for(name)
        pictures = training_pictures(photos, clip.config, recipe, 1)
        optimiser = torch.optim.SGD(learned, lr=recipe.lr)
        for epoch in range(EPOCHS):
            for batch in pictures.batches(epoch, recipe.batch_size, shuffle=True, drop_last=True):
                step(batch)
                optimiser.step()

    train(ours.name, lambda batch: host.step(batch.images, batch.labels), list(host.learned.values()))
    if method != ours.name:
        stage = wrap("fvgpt", ours)
        assert isinstance(stage, FvgPt)
        guided = FieldFvgPt(host, stage)
        train(
            method,
            lambda batch: guided.step(batch.images, cast("Tensor", batch.masks), batch.labels),
            list(guided.guidance.parameters()),
        )
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, peak())


def inside(words: list[str]) -> None:
    """Run `foveate fit` in this process, and print its CPU seconds and its peak memory."""
    from foveate.cli import main as command

    if command(["fit", *words]):
        raise SystemExit("foveate fit has failed")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, peak())


def compare(folder: Path, method: str, options: str, pairs: int) -> None:
    """Print CPU seconds and peak memory of both ways, by turns, and the median of the ratios."""
    ratios: list[float] = []
    for _ in range(pairs):
        theirs, most = field_fitted(folder, method)
        shutil.rmtree(folder / "cache" / "features", ignore_errors=True)
        mine, own = fitted(folder, method, options.split())
        ratios.append(theirs / mine)
        print(
            f"{method} {options}: field {theirs:.1f} s, {most:.0f} MB; {mine:.1f} s, {own:.0f} MB", flush=True
        )
    if ratios:
        print(
            f"{method} {options}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
        )


def main() -> None:
    """Run the measurements that the arguments select."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
        return
    if sys.argv[1:2] == ["--field-inside"]:
        field_inside(Path(sys.argv[2]), sys.argv[3])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=["coop", "fvgpt+coop"])
    parser.add_argument("--options", action="append", help='of foveate fit, e.g. --options="--dtype auto"')
    parser.add_argument("--pairs", type=int, default=0, help="first fits beside the field's way")
    given = parser.parse_args()
    if not (given.folder / "clip").is_dir():
        lay_out(given.folder)
    for method in given.methods:
        for options in given.options or [""]:
            compare(given.folder, method, options, given.pairs)
            shutil.rmtree(given.folder / "cache" / "features", ignore_errors=True)
            for run in ("first", "second"):
                seconds, peak = fitted(given.folder, method, options.split())
                print(f"{method} {options} {run}: {seconds:.1f} CPU s, peak {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
