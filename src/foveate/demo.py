"""The demo: few-shot learning on drawn scenes; the place tells the class in training and lies in the test.

Each base class is seen on one place only; test scenes stand anywhere. A method that learned the place fails
there, one that looks at the object does not. The scenes are harder than those the embedded CLIP was trained
on (smaller, more turned), so that there is something to learn.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from foveate.classifier import Classifier, OnCount
from foveate.data.loader import PictureSet
from foveate.data.pictures import open_picture
from foveate.data.samples import Photos
from foveate.evaluate.metrics import harmonic_mean, mean
from foveate.explain import contact_sheet, gaze, gaze_on_object, overlay
from foveate.files import write_atomically
from foveate.seeds import stream
from foveate.train.run import OnStep
from foveate.world.photos import scene_photos
from foveate.world.scenes import NAMES, PLACES

RADIUS, TURN = (0.14, 0.24), 0.7
RECIPE = {"crop_scale": 0.5}  # scenes are small: a smaller crop would often lose the object


@dataclass(frozen=True)
class Row:
    """One method's line in the demo's table.

    Attributes:
        method: Its name.
        train: Percent right on the training scenes.
        base: Percent right on test scenes of trained classes, among them.
        new: Of the other classes, among them.
        both: Of all, among all names together.
        shift_base: Foreground shift index over base test scenes, in nats.
        shift_new: Over new ones.
        gaze: Share of the gaze on the object over base test scenes.
    """

    method: str
    train: float
    base: float
    new: float
    both: float
    shift_base: float
    shift_new: float
    gaze: float

    @property
    def hm(self) -> float:
        """Harmonic mean of base and new."""
        return harmonic_mean(self.base, self.new)


@dataclass(frozen=True)
class Task:
    """Training scenes, each base class at home on one place; test scenes of base and new classes anywhere."""

    train: Photos
    test: Photos
    base: tuple[str, ...]
    home: dict[str, str]


def make_task(
    seed: int,
    classes: int = 24,
    shots: int = 16,
    tests: int = 25,
    *,
    radius: tuple[float, float] = RADIUS,
    turn: float = TURN,
) -> Task:
    """Draw the demo's task.

    Args:
        seed: Decides which of the world's 96 names are base and which new, and every scene.
        classes: Base and new ones together; half each.
        shots: Training scenes of a base class.
        tests: Test scenes of a class.
        radius: Least and largest half size of objects, as a share of the picture.
        turn: Largest turn, in radians.
    """
    order = torch.randperm(len(NAMES), generator=stream(seed, "demo", "names"))[:classes]
    names = [NAMES[int(i)] for i in order]
    base, places = tuple(names[: classes // 2]), list(PLACES)
    home = {name: places[i % len(places)] for i, name in enumerate(base)}
    draw = stream(seed, "demo", "scenes").initial_seed() % 2**31
    train = scene_photos(base, shots, draw, home=home, radius=radius, turn=turn)
    test = scene_photos(names, tests, draw + 1, radius=radius, turn=turn)
    return Task(train, test, base, home)


def run_demo(
    out: Path,
    seeds: Sequence[int] = (1, 2, 3),
    *,
    on_step: OnStep | None = None,
    on_count: OnCount | None = None,
) -> list[Row]:
    """Train CoOp and FVG-PT over it, measure them and zero-shot CLIP, and draw where they look.

    Args:
        out: Folder for the tuned models, `result.json` and `gaze.png` (of the first seed).
        seeds: Each decides a task and a training; a single one says little.
        on_step: Told of training steps.
        on_count: Told of other slow work.

    Returns:
        The means over seeds, a line each for zero-shot CLIP, CoOp and FVG-PT.
    """
    found: dict[int, list[Row]] = {}
    for seed in seeds:
        task = make_task(seed)
        classifier = Classifier("fvgpt+coop", "tiny")
        classifier.fit(
            task.train,
            seed=seed,
            recipe=RECIPE,
            out=out / f"seed-{seed}",
            on_step=_of_seed(on_step, seed),
            on_count=on_count,
        )
        compared = [*reversed(classifier.simpler()), classifier]
        found[seed] = [measure(one, task) for one in compared]
        if on_count:
            on_count("seeds", len(found), len(seeds))
        if seed == seeds[0]:
            draw_gaze(compared[1:], task).save(out / "gaze.png")
    means = [_mean([rows[i] for rows in found.values()]) for i in range(3)]
    kept = {
        "seeds": {seed: [asdict(row) for row in rows] for seed, rows in found.items()},
        "mean": [{**asdict(row), "hm": row.hm} for row in means],
    }
    write_atomically(out / "result.json", json.dumps(kept, indent=2) + "\n")
    return means


def _of_seed(on_step: OnStep | None, seed: int) -> OnStep | None:
    """Tell of each seed's steps apart."""
    if on_step is None:
        return None
    return lambda stage, total, step: on_step(f"{stage}, seed {seed}", total, step)


def _mean(rows: Sequence[Row]) -> Row:
    """Mean of every figure; HM then is that of the means, as the field has it."""
    figures = [asdict(row) for row in rows]
    means = {name: mean([figure[name] for figure in figures]) for name in figures[0] if name != "method"}
    return Row(rows[0].method, **means)


def measure(classifier: Classifier, task: Task) -> Row:
    """Ask one method about all scenes of the task."""
    base = classifier.evaluate(task.test, "base", shift=True)
    new = classifier.evaluate(task.test, "new", shift=True)
    assert base.shift is not None
    assert new.shift is not None
    return Row(
        method=classifier.method_name,
        train=classifier.evaluate(task.train, "base").accuracy,
        base=base.accuracy,
        new=new.accuracy,
        both=classifier.evaluate(task.test, "all").accuracy,
        shift_base=base.shift,
        shift_new=new.shift,
        gaze=_mean_gaze(classifier, task),
    )


def draw_gaze(compared: Sequence[Classifier], task: Task, scenes: int = 5, side: int = 192) -> Image.Image:
    """Draw a few base test scenes with the gaze of each method, and what it took them for."""
    chosen = _far_from_home(task, scenes)
    names = [chosen.names[sample.label] for sample in chosen.samples]
    pictures = [
        open_picture(s.picture).resize((side, side), Image.Resampling.NEAREST) for s in chosen.samples
    ]
    rows, captions = [pictures], [[f"home: {task.home[name]}" for name in names]]
    for classifier in compared:
        answers = classifier.evaluate(chosen, "base").logits.argmax(dim=-1).tolist()
        heats = _gaze(classifier, chosen)
        said = [classifier.method.names[answer] for answer in answers]
        rows.append([overlay(picture, heat, side) for picture, heat in zip(pictures, heats, strict=True)])
        captions.append(
            [
                f"{'+' if guess == name else '-'}{classifier.method_name}: {guess}"
                for guess, name in zip(said, names, strict=True)
            ]
        )
    return contact_sheet(rows, captions, names)


def _far_from_home(task: Task, scenes: int) -> Photos:
    """Test scenes of base classes, one each of the first few: they stand on places their class never had."""
    first = {name: [] for name in task.base[:scenes]}
    for sample in task.test.samples:
        name = task.test.names[sample.label]
        if name in first:
            first[name].append(sample)
    picked = [next(s for s in found if task.home[name] not in s.name) for name, found in first.items()]
    return replace(task.test, samples=tuple(picked))


def _gaze(classifier: Classifier, photos: Photos) -> torch.Tensor:
    """Gaze at the true class of pictures of base classes."""
    pictures, method = _as_set(classifier, photos), classifier.method
    batch = next(iter(pictures.batches(None, len(pictures))))
    classifier.method.set_classes(pictures.photos.names)
    return gaze(method, batch.images, batch.labels)


def _mean_gaze(classifier: Classifier, task: Task, number: int = 100) -> float:
    base = [s for s in task.test.samples if task.test.names[s.label] in task.base]
    photos = replace(task.test, samples=tuple(base[:: max(1, len(base) // number)]))
    batch = next(iter(_as_set(classifier, photos).batches(None, len(photos))))
    assert batch.masks is not None
    return gaze_on_object(_gaze(classifier, photos), batch.masks).mean().item()


def _as_set(classifier: Classifier, photos: Photos) -> PictureSet:
    """Base pictures as tensors, labelled by the trained names."""
    assert classifier.config is not None
    names, config = tuple(classifier.config.names), classifier.clip.config
    samples = tuple(replace(s, label=names.index(photos.names[s.label])) for s in photos.samples)
    known = replace(photos, names=names, samples=samples)
    return PictureSet(known, config.image_size, config.mean, config.std)
