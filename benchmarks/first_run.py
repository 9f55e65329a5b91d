"""CPU seconds and peak memory of a whole first fit: `python benchmarks/first_run.py FOLDER`.

It draws pictures and masks, saves towers of ViT-B/16's size with random weights, and runs `foveate fit` as a
process of its own: first without kept features, and then a second run of the same method, which finds them.
What is in the folder already is drawn no second time.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from foveate.clip.config import ClipConfig
from foveate.clip.weights import save_clip
from foveate.costs.drawn import draw_photos, made_up_names
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FOVEATE_CACHE": str(folder / "cache")}
    command = [sys.executable, str(Path(__file__)), "--inside", *words]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds, most = done.stdout.splitlines()[-1].split()
    return float(seconds), float(most)


def inside(words: list[str]) -> None:
    """Run `foveate fit` in this process, and print its CPU seconds and its peak memory."""
    from foveate.cli import main as command

    if command(["fit", *words]):
        raise SystemExit("foveate fit has failed")
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, peak())


def main() -> None:
    """Run the measurements that the arguments select."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2:])
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=["coop", "fvgpt+coop"])
    parser.add_argument("--options", action="append", help='of foveate fit, e.g. --options="--dtype auto"')
    given = parser.parse_args()
    if not (given.folder / "clip").is_dir():
        lay_out(given.folder)
    for method in given.methods:
        for options in given.options or [""]:
            shutil.rmtree(given.folder / "cache" / "features", ignore_errors=True)
            for run in ("first", "second"):
                seconds, peak = fitted(given.folder, method, options.split())
                print(f"{method} {options} {run}: {seconds:.1f} CPU s, peak {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
