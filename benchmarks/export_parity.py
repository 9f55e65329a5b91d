"""The table of docs/export.md: how far exports answer as their models do, by method and label space.

    python benchmarks/export_parity.py                      # every method; some minutes
    python benchmarks/export_parity.py coop fvgpt+mmrl

Each method learns four kinds of drawn scenes on the embedded CLIP. Its export is asked about scenes
that it has not seen and about awkward files, among trained names, new names, and both.
"""

import re
import sys
import tempfile
import warnings
from pathlib import Path

import foveate.run
from foveate.classifier import Classifier
from foveate.clip.weights import load_clip
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.export.proof import compare
from foveate.export.writing import Pictures, draw_awkward, export
from foveate.methods.registry import backbones, pairs
from foveate.prediction import Branch
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green heart", "yellow cross"]
SPACES: tuple[Branch, ...] = ("base", "mixed", "new")


def row(method: str, photos: Photos, unseen: Pictures) -> list[str]:
    """Return a line of the table."""
    classifier = Classifier(method, clip=load_clip("tiny"))
    classifier.fit(photos, shots=8, recipe={"epochs": 2, "batch_size": 8})
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = export(classifier, Path(folder) / "whole", photos=unseen)
        except InputError as error:
            return [method, *["-"] * 4, str(error).partition(";")[0]]
        exported = foveate.run.load(made.folder)
        awkward = Path(folder) / "awkward"
        awkward.mkdir()
        asked = [*unseen, *draw_awkward(awkward, seed=1)]
        found = [compare(classifier, exported, asked, [space]) for space in SPACES]
        try:
            small = export(classifier, Path(folder) / "small", photos=unseen, int8=True)
            assert small.int8 is not None
            eight = f"{100 * small.int8.agreement:.1f} %, {small.megabytes:.1f} MB"
        except InputError as error:
            share = re.search(r"[\d.]+ %", str(error))
            eight = f"refused: {share[0]}" if share else str(error)
    return [method, *(f"{one.largest:.1e}" for one in found), f"{made.megabytes:.1f} MB", eight]


def main() -> None:
    """Print the table as Markdown."""
    warnings.simplefilter("ignore")
    photos = scene_photos(NAMES, per_class=8, seed=1)
    unseen = [sample.picture for sample in scene_photos(NAMES, per_class=32, seed=2).samples]
    print("| method | base | mixed | new | size | int8: same answers, size |\n|---|---|---|---|---|---|")
    for method in sys.argv[1:] or [*backbones(), *pairs()]:
        print(f"| {' | '.join(row(method, photos, unseen))} |", flush=True)


if __name__ == "__main__":
    main()
