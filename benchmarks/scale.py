"""Pictures per second of `foveate features` and `foveate masks`: plain, in two processes, on Ray.

Run it with `python benchmarks/scale.py` on an idle machine. Each way is a separate command with one
thread for each worker. `whole` is measured from start to end of the command. `steady` leaves out the
start and the first quarter of the files, and is the speed of long jobs. Figures are written to
`results/scale-DATE.json`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

from PIL import Image

from foveate.clip.weights import save_clip
from foveate.costs.measuring import draw_photos
from foveate.data.transforms import eval_view, to_tensor
from speed_setup import QUICK, VIT_B16, random_clip

RESULTS = Path(__file__).parent / "results"
WAYS: Mapping[str, Sequence[str]] = {
    "one process": (),
    "two processes": ("--workers", "2"),
    "Ray, two actors": ("--ray", "--workers", "2"),
}


WORK = ["decode", "features", "masks"]


def measured(words: Sequence[str], out: Path, pattern: str, pictures_a_file: int) -> dict[str, float]:
    """Run a command; return pictures per second, in total and in the steady state."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = time.time()
    command = [sys.executable, "-m", "foveate", *words, "--out", str(out)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    ended = time.time()
    written = sorted(path.stat().st_mtime for path in out.rglob(pattern))
    first = max(2, len(written) // 4)  # both workers are busy by then
    later = (len(written) - first) * pictures_a_file / (written[-1] - written[first - 1])
    return {
        "whole": len(written) * pictures_a_file / (ended - begun),
        "steady": later,
        "start": written[0] - begun,
    }


def features(photos: Path, clip: Path, folder: Path, batch: int) -> dict[str, dict[str, float]]:
    """Measure features, with one batch in a shard."""
    words = ["features", str(photos), "--clip", str(clip), "--shard", str(batch), "--batch-size", str(batch)]
    return {
        way: measured([*words, *more], folder / f"features {way}", "shard-*", batch)
        for way, more in WAYS.items()
    }


def masks(photos: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Measure masks of the proposer without a network."""
    words = ["masks", str(photos), "--proposer", "classical"]
    return {
        way: measured([*words, *more], folder / f"masks {way}", "*/*.png", 1) for way, more in WAYS.items()
    }


def decoding(photos: Path) -> float:
    """Return the mean seconds of one core to decode a JPEG of a folder and crop it to ViT-B/16's view."""
    paths = sorted(photos.rglob("*.jpg"))
    begun = time.process_time()
    for path in paths:
        with Image.open(path) as picture:
            seen, _ = eval_view(picture.size, 224).apply(picture.convert("RGB"))
            to_tensor(seen, VIT_B16.mean, VIT_B16.std)
    return (time.process_time() - begun) / len(paths)


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| work | way | steady, pictures/s | whole, pictures/s | first result after |",
        "|---|---|---|---|---|",
    ]
    for work, ways in found.items():
        for way, one in ways.items():
            lines.append(
                f"| {work} | {way} | {one['steady']:.2f} | {one['whole']:.2f} | {one['start']:.1f} s |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the measurements that the arguments select."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--work", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--quick", action="store_true", help="tiny towers: does it run? figures mean nothing")
    args = parser.parse_args()
    load = os.getloadavg()[0]
    found: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_photos(folder / "photos" / "drawn", args.pictures, ["drawn"])
        for mask in (folder / "photos" / "drawn").glob("*-mask.jpg"):
            mask.unlink()
        about: dict[str, object] = {}
        if "decode" in args.work:
            about["decode_s"] = decoding(folder / "photos")
            print(f"{about['decode_s']:.4f} s of one core to decode and crop a picture\n")
        if "features" in args.work:
            save_clip(random_clip(QUICK.clip if args.quick else VIT_B16), folder / "clip")
            found["features"] = features(folder / "photos", folder / "clip", folder, args.batch)
        if "masks" in args.work:
            found["masks, classical"] = masks(folder / "photos", folder)
    about |= {"pictures": args.pictures, "batch": args.batch, "load_before": load, "cpus": os.cpu_count()}
    if not args.quick and set(args.work) == set(WORK):
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"scale-{date.today()}.json"
        file.write_text(json.dumps({**about, "found": found}, indent=2) + "\n")
    if found:
        print(table(found))


if __name__ == "__main__":
    main()
