"""One photo from a cold start: `python benchmarks/one_photo.py FOLDER [--pairs 3]`.

Each measurement is a process of its own that starts, loads a CLIP of ViT-B/16's size with random weights,
reads one photo and prints its label: by `foveate predict` with a tuned CoOp, and by open_clip in the few
lines of its README. `foveate fit` on the embedded CLIP (two classes, one photo each, the default recipe) and
`import torch` are measured too, since the latter is a part of each. What is in the folder already is not made
again.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

from foveate.clip.config import ClipConfig
from foveate.clip.weights import save_clip
from foveate.costs.drawn import draw_photos, made_up_names
from speed_setup import random_clip

OPEN_CLIP = """
import sys, torch, open_clip
from PIL import Image
model, preprocess = open_clip.create_model_from_pretrained("ViT-B-16-quickgelu", pretrained=sys.argv[1])
model.eval()
names = sys.argv[3:]
texts = open_clip.get_tokenizer("ViT-B-16-quickgelu")([f"a photo of a {name}." for name in names])
with torch.no_grad():
    image = model.encode_image(preprocess(Image.open(sys.argv[2])).unsqueeze(0), normalize=True)
    text = model.encode_text(texts, normalize=True)
    print(names[(100 * image @ text.T).softmax(-1).argmax()])
"""


def lay_out(folder: Path, names: list[str]) -> None:
    """Draw two photos a class, save the towers in both libraries' formats, and tune a model."""
    import open_clip

    drawn = draw_photos(folder / "drawn", 2 * len(names), names)
    for sample in drawn.samples:
        assert isinstance(sample.picture, Path)
        place = folder / "photos" / names[sample.label] / sample.picture.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample.picture, place)
    save_clip(random_clip(ClipConfig()), folder / "clip")
    torch.save(open_clip.create_model("ViT-B-16-quickgelu").state_dict(), folder / "open_clip.pt")
    words = [
        "--clip",
        folder / "clip",
        "--method",
        "coop",
        "--shots",
        "1",
        "--epochs",
        "1",
        "--bank",
        "fixed",
    ]
    spent([*FOVEATE, "fit", folder / "photos", *words, "--out", folder / "model"])


FOVEATE = [sys.executable, "-m", "foveate"]


def spent(words: list[object]) -> tuple[float, float]:
    """Run a process; return its wall time and its CPU seconds."""
    before, started = os.times(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
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
    folder, names = given.folder, made_up_names(2)
    if not (folder / "model").is_dir():
        lay_out(folder, names)
    photo = next((folder / "photos").rglob("*.jpg"))
    ways = {
        "import torch": [sys.executable, "-c", "import torch"],
        "open_clip": [sys.executable, "-c", OPEN_CLIP, folder / "open_clip.pt", photo, *names],
        "foveate predict": [*FOVEATE, "predict", folder / "model", photo],
        "foveate fit, embedded": [*FOVEATE, "fit", folder / "photos", "--out", folder / "small"],
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
    ratios = [
        theirs / mine
        for (theirs, _), (mine, _) in zip(found["open_clip"], found["foveate predict"], strict=True)
    ]
    print(f"\nopen_clip / foveate predict: {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
