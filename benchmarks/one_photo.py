"""One photo from a cold start: `python benchmarks/one_photo.py FOLDER [--pairs 3]`.

Each measurement is a process of its own that starts, loads a CLIP of ViT-B/16's size with random weights,
reads one photo and prints its label: by `foveate predict` with a tuned CoOp and with its export, and by
open_clip in the few lines of its README. `foveate fit` on the embedded CLIP (CoOp, two classes, two photos
each) is measured too, and `import torch`, which is a part of all but the export. Byte code is kept, as in any
installation. What is in the folder already is not made again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from foveate.clip.config import ClipConfig
from foveate.clip.weights import save_clip
from foveate.costs.measuring import draw_photos, made_up_names
from speed_setup import random_clip

FOVEATE = [sys.executable, "-m", "foveate"]
# torchvision's CUDA wheel cannot declare its operators over a CPU torch, and open_clip imports it.
IMPORTS = """
import sys, torch
from importlib.metadata import version
if torch.__version__.endswith("+cpu") and not version("torchvision").endswith("+cpu"):
    for name in ("nms", "qnms"):
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", signature)
import open_clip
from PIL import Image
"""
RANDOM = f"""{IMPORTS}
torch.save(open_clip.create_model("ViT-B-16-quickgelu").state_dict(), sys.argv[1])
"""
OPEN_CLIP = f"""{IMPORTS}
model, preprocess = open_clip.create_model_from_pretrained("ViT-B-16-quickgelu", pretrained=sys.argv[1])
model.eval()
names = sys.argv[3:]
texts = open_clip.get_tokenizer("ViT-B-16-quickgelu")(["a photo of a " + name + "." for name in names])
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open(sys.argv[2])).unsqueeze(0), normalize=True)
    text = model.encode_text(texts, normalize=True)
    print(names[(100 * image @ text.T).softmax(-1).argmax()])
"""


def lay_out(folder: Path, names: list[str]) -> None:
    """Draw two photos a class, save the towers in both libraries' formats, and tune a model."""
    drawn = draw_photos(folder / "drawn", 2 * len(names), names)
    for sample in drawn.samples:
        assert isinstance(sample.picture, Path)
        place = folder / "photos" / names[sample.label] / sample.picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.picture, place)
    save_clip(random_clip(ClipConfig()), folder / "clip")
    spent([sys.executable, "-c", RANDOM, folder / "open_clip.pt"])
    words = ["--method", "coop", "--shots", "1", "--epochs", "1", "--bank", "fixed"]
    spent([*FOVEATE, "fit", folder / "photos", "--clip", folder / "clip", *words, "--out", folder / "model"])
    spent([*FOVEATE, "export", folder / "model", "--out", folder / "export"])


def spent(words: list[object]) -> tuple[float, float]:
    """Run a process; return its wall time and its CPU seconds."""
    before, started = os.times(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    subprocess.run([str(word) for word in words], env=environment, check=True, capture_output=True)
    seconds, after = time.perf_counter() - started, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used


def main() -> None:
    """Measure all ways by turns; print each, the medians, and the ratio of open_clip's time to foveate's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    if given.pairs < 1:
        parser.error(f"--pairs is {given.pairs}: give 1 or more")
    folder, names = given.folder, made_up_names(2)
    if not (folder / "export").is_dir():
        lay_out(folder, names)
    photo = next((folder / "photos").rglob("*.jpg"))
    fit = ["fit", folder / "photos", "--method", "coop"]
    ways = {
        "import torch": [sys.executable, "-c", "import torch"],
        "open_clip": [sys.executable, "-c", OPEN_CLIP, folder / "open_clip.pt", photo, *names],
        "foveate predict": [*FOVEATE, "predict", folder / "model", photo],
        "foveate predict, export": [*FOVEATE, "predict", folder / "export", photo],
        "foveate fit, embedded": [*FOVEATE, *fit, "--out", folder / "small"],
    }
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(given.pairs):
        for way, words in ways.items():
            shutil.rmtree(folder / "small", ignore_errors=True)
            found[way].append(spent(words))
            print(f"{way}: {found[way][-1][0]:.2f} s, {found[way][-1][1]:.2f} CPU s", flush=True)
    print("\n| way | s | CPU s |\n|---|---|---|")
    for way, times in found.items():
        print(f"| {way} | {median(wall for wall, _ in times):.2f} | {median(cpu for _, cpu in times):.2f} |")
    for way in ("foveate predict", "foveate predict, export"):
        ratios = [
            theirs / mine for (theirs, _), (mine, _) in zip(found["open_clip"], found[way], strict=True)
        ]
        print(f"open_clip / {way}: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
