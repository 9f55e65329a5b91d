"""The demo: few-shot learning of species with an embedded CLIP, tested at home and anywhere.

The CLIP has learned a weak association of species and places (`foveate.world.species`). In training,
nine of ten scenes show a species in its home. Test scenes at home measure what the field usually
measures; test scenes anywhere show how much of it came from the background.
"""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from foveate.classifier import Classifier
from foveate.data.samples import Photos, Sample
from foveate.evaluate.metrics import harmonic_mean
from foveate.explain import contact_sheet, gaze, overlay
from foveate.explain.gallery import SIDE, changed, gallery, shown
from foveate.explain.measure import LookConfig, Looks, look
from foveate.files import write_atomically
from foveate.foreground.pictures import open_picture
from foveate.processes import begin_worker, process_pool
from foveate.train.journal import Queued, Reporter, Titled, forward
from foveate.world.photos import ScenePicture, species_photos
from foveate.world.species import BASE, NEW, SIBLINGS, Condition, find_species, species_scene

CLIP, METHOD = "tiny-mild", "fvgpt+coop"
AT_HOME = 0.9
# CoOp starts from the words of CLIP's training, sees each scene whole, and takes small steps. Large steps
# magnify the last bits of the gradients, which depend on the processor: with batches of 8 and a learning rate
# of 0.007 two libraries for matrix products gave figures 9 points apart, with these values 0.2 points.
SETTINGS = {"coop": {"init": "a photo of a"}}
RECIPE = {"augment": "none", "batch_size": 32, "lr": 0.0035, "clip_grad": 1.0}
CONDITIONS: tuple[Condition, ...] = ("home", "any")
HALVES = {"base": BASE, "new": NEW}

Half = Literal["base", "new"]
Figures = dict[str, dict[str, float]]
"""Accuracy in percent, by method and figure ("base home", ..., "HM any")."""


@dataclass(frozen=True)
class DemoSize:
    """How much the demo trains and tests.

    Attributes:
        shots: Training scenes of each base class.
        tests: Test scenes of each class, in each condition.
        epochs: Epochs of each stage.
        pairs: Pairs of scenes of each base class that differ only in the place.
    """

    shots: int = 16
    tests: int = 15
    epochs: int = 30
    pairs: int = 12


def training_scenes(seed: int, shots: int = DemoSize.shots) -> Photos:
    """Draw scenes of each base class, nine of ten at home."""
    return species_photos(BASE, shots, 10 * seed, at_home=AT_HOME)


def evaluation_scenes(half: Half, condition: Condition, seed: int, tests: int = DemoSize.tests) -> Photos:
    """Draw the test scenes of base or new classes, at home or anywhere."""
    return species_photos(HALVES[half], tests, 10 * seed + 1, condition=condition)


def run_demo(
    out: Path,
    seeds: Sequence[int] = (1, 2, 3, 4),
    reporter: Reporter | None = None,
    workers: int = 1,
    size: DemoSize | None = None,
) -> dict[int, Figures]:
    """Train CoOp and FVG-PT over CoOp; measure both and zero-shot CLIP; draw heat maps.

    Each seed is computed on one thread, because the last bits of a result depend on the number of
    threads, and training magnifies them. So the figures do not depend on the number of cores or workers.

    Args:
        out: Folder for the tuned models, `result.json`, `gaze.png` and `index.html` (both of the first
            seed).
        seeds: Seeds; each one has its own scenes and training.
        reporter: Receives progress.
        workers: Number of processes; each one computes whole seeds.
        size: How much to train and test.

    Returns:
        Figures of each seed.
    """
    reporter, size = reporter or Reporter(), size or DemoSize()
    with (
        get_context("spawn").Manager() as manager,
        process_pool(min(workers, len(seeds)), one_thread) as pool,
    ):
        progress_queue = manager.Queue()
        queue_reporter = Queued(progress_queue)
        runs = {
            seed: pool.submit(run_seed, out, seed, size, Titled(queue_reporter, f"seed {seed}"))
            for seed in seeds
        }
        while not all(run.done() for run in runs.values()):
            forward(progress_queue, reporter)
        figures = {seed: run.result() for seed, run in runs.items()}
    write_atomically(out / "result.json", json.dumps({"seeds": figures}, indent=2) + "\n")
    tuned = Classifier.from_pretrained(out / f"seed-{seeds[0]}")
    compared, pairs = [*reversed(tuned.simpler()), tuned], scene_pairs(seeds[0], size.pairs)
    draw_pairs(compared, pairs).save(out / "gaze.png")
    write_atomically(out / "index.html", page(compared, figures, pairs, size.shots))
    return figures


def one_thread() -> None:
    """Prepare a worker process that computes on one thread."""
    begin_worker(threads=1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a training at once
    torch.set_num_threads(1)


def run_seed(out: Path, seed: int, size: DemoSize, reporter: Reporter | None = None) -> Figures:
    """Train on the scenes of one seed, save the model, and return the figures of all three methods."""
    classifier = Classifier(METHOD, CLIP, settings=SETTINGS)
    classifier.fit(
        training_scenes(seed, size.shots),
        shots=size.shots,
        seed=seed,
        recipe={**RECIPE, "epochs": size.epochs},
        out=out / f"seed-{seed}",
        reporter=reporter,
    )
    compared = [*reversed(classifier.simpler()), classifier]
    scenes = partial(evaluation_scenes, seed=seed, tests=size.tests)
    return {model.method_name: measured(model, scenes, out / "bank") for model in compared}


def measured(
    classifier: Classifier, scenes: Callable[[Half, Condition], Photos], bank: Path
) -> dict[str, float]:
    """Return accuracies of base and new classes at home and anywhere, and harmonic means.

    Args:
        classifier: The model.
        scenes: Returns the test scenes of base or new classes under a condition.
        bank: Folder of kept features.
    """
    figures: dict[str, float] = {}
    for condition in CONDITIONS:
        base, new = (
            classifier.evaluate(scenes(half, condition), half, bank=bank).accuracy for half in ("base", "new")
        )
        figures |= {f"base {condition}": base, f"new {condition}": new}
        figures[f"HM {condition}"] = harmonic_mean(base, new)
    return figures


def summary(figures: dict[int, Figures]) -> list[list[str]]:
    """Return the rows of the demo's table: a header, then mean ± standard deviation over seeds per method."""
    runs = list(figures.values())
    names = list(next(iter(runs[0].values())))
    rows = [["method", *names]]
    for method in runs[0]:
        values = np.array([[run[method][name] for name in names] for run in runs])
        spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(names))
        cells = [f"{mean:.1f} ± {sd:.1f}" for mean, sd in zip(values.mean(axis=0), spread, strict=True)]
        rows.append([method, *cells])
    return rows


# --- the same object in two places ---


@dataclass(frozen=True)
class Pairs:
    """Pairs of scenes that differ only in the place.

    Attributes:
        home: Scenes of each base class at home.
        away: The same objects in the home of a sibling.
        places: For each pair, both places.
    """

    home: Photos
    away: Photos
    places: tuple[tuple[str, str], ...]


def scene_pairs(seed: int, each: int = DemoSize.pairs) -> Pairs:
    """Draw objects at home, and the same objects in the home of a sibling that is a base class too."""
    home: list[Sample] = []
    away: list[Sample] = []
    places: list[tuple[str, str]] = []
    for label, name in enumerate(BASE):
        species = find_species(name)
        sibling_homes = [sibling.home for sibling in SIBLINGS[name] if sibling.name in BASE]
        for index in range(each):
            scene = species_scene(species, species.home, np.random.default_rng([seed, 7, label, index]))
            away_scene = replace(scene, place=sibling_homes[index % len(sibling_homes)])
            for samples, variant in ((home, scene), (away, away_scene)):
                samples.append(Sample(ScenePicture(variant), label, ScenePicture(variant, "mask")))
            places.append((scene.place, away_scene.place))
    return Pairs(
        Photos(BASE, tuple(home), "binary255"), Photos(BASE, tuple(away), "binary255"), tuple(places)
    )


def draw_pairs(compared: Sequence[Classifier], pairs: Pairs, number: int = 3, side: int = 168) -> Image.Image:
    """Draw objects in both places, with the predictions and heat maps of each method.

    It prefers pairs where the last method is right in both places and the method before it only at home.
    If there are too few, it adds others. No class occurs twice.
    """
    answers = [_answers(model, pairs) for model in compared]
    kept, lost = (
        home & away
        for home, away in (_correct(answers[-1], pairs), _correct_home_wrong_away(answers[-2], pairs))
    )
    order = np.argsort(~(kept & lost), kind="stable")
    chosen: dict[int, int] = {}  # by class
    for pair in order.tolist():
        chosen.setdefault(pairs.home.samples[pair].label, pair)
    heads, rows, captions = [], [[] for _ in range(len(compared) + 1)], [[] for _ in range(len(compared) + 1)]
    for pair in list(chosen.values())[:number]:
        for photos, place in ((pairs.home, 0), (pairs.away, 1)):
            sample = photos.samples[pair]
            picture = open_picture(sample.picture).resize((side, side), Image.Resampling.NEAREST)
            heads.append(BASE[sample.label])
            rows[0].append(picture)
            captions[0].append(("at home: " if place == 0 else "elsewhere: ") + pairs.places[pair][place])
            for row, (classifier, predictions) in enumerate(zip(compared, answers, strict=True), start=1):
                guess = int(predictions[place][pair])
                mark = "+" if guess == sample.label else "-"
                rows[row].append(overlay(picture, _heat(classifier, photos, pair), side))
                captions[row].append(f"{mark}{_short(classifier)}: {BASE[guess]}")
    return contact_sheet(rows, captions, heads)


def _correct(answers: Sequence[np.ndarray], pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array([sample.label for sample in pairs.home.samples])
    return answers[0] == labels, answers[1] == labels


def _correct_home_wrong_away(answers: Sequence[np.ndarray], pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    home, away = _correct(answers, pairs)
    return home, ~away


def _answers(classifier: Classifier, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return the predictions for both scenes of each pair, as indices of the base names."""
    home, away = (
        classifier.evaluate(photos, "base").logits.argmax(dim=-1).numpy()
        for photos in (pairs.home, pairs.away)
    )
    return home, away


def moved_answers(classifier: Classifier, pairs: Pairs) -> float:
    """Return the percentage of predictions that change if only the place changes."""
    home, away = _answers(classifier, pairs)
    return 100 * float((home != away).mean())


def _heat(classifier: Classifier, photos: Photos, index: int) -> torch.Tensor:
    """Return the heat map of a method for the true class of one scene."""
    single = photos.with_samples(photos.samples[index : index + 1])
    pictures, branch = classifier.ask_split(single, "base")
    batch = next(iter(pictures.batches(None, 1)))
    return gaze(classifier.method, batch.images, batch.labels, branch)[0]


def _short(classifier: Classifier) -> str:
    return {"zeroshot": "CLIP", "coop": "CoOp", METHOD: "FVG-PT"}.get(
        classifier.method_name, classifier.method_name
    )


# --- the page ---


def page(compared: Sequence[Classifier], figures: dict[int, Figures], pairs: Pairs, shots: int) -> str:
    """Return the HTML page: the table, how predictions follow the place, and repaired and broken scenes."""
    pictures, branch = compared[-1].ask_split(pairs.away, "base")
    all_looks: list[Looks] = []
    for classifier in compared:
        classifier.ask_split(pairs.away, "base")
        looks = look(classifier.method, pictures, branch, LookConfig(steps=0))
        all_looks.append(replace(looks, method=_short(classifier)))
    moved = ", ".join(
        f"{_short(classifier)} {moved_answers(classifier, pairs):.0f} %" for classifier in compared
    )
    facts = [
        f"Percent right on drawn scenes, {len(figures)} seeds. Test scenes stand at home, where nine of ten "
        f"training scenes stand, or anywhere. Base classes were learned from {shots} scenes each, new "
        f"classes from none.",
        f"Answers that change when nothing but the place does, of {len(pairs.home)} scenes: {moved}.",
        "Below: objects on the home of a sibling, what each method answered, and where it looked.",
    ]
    return gallery(
        "What the foreground has to do with the answer",
        facts,
        summary(figures),
        all_looks,
        changed(all_looks, 12),
        lambda index: shown(pictures, index, SIDE),
    )
