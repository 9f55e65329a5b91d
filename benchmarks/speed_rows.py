"""Rows of the benchmark table: the same work in the reference implementation and in foveate."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldway import FieldCoOp, FieldKgCoOp, evaluate, unit
from fieldway_towers import FieldClip
from foveate.data.feature_store import FeatureStore
from foveate.methods.base import Method
from foveate.methods.prompts import PromptMethod
from foveate.types import Features
from speed_flops import packed_texts, picture, tuning, whole_texts
from speed_setup import Bench, tune


@dataclass(frozen=True)
class Part:
    """Work to time, and how often it is repeated in a row."""

    run: Callable[[], object]
    times: float = 1.0


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        work: Description of the work.
        field: Its parts in the reference implementation; in rows of one optimisation, without it.
        ours: Its parts in foveate; with the optimisation.
        bound: Ratio of the operations of both, if they were counted.
        note: Remark for the reader.
        warm: Whether both run once before the measurement.
    """

    work: str
    field: tuple[Part, ...]
    ours: tuple[Part, ...]
    bound: float | None = None
    note: str = ""
    warm: bool = True


def seconds(parts: tuple[Part, ...]) -> float:
    """Run each part once and return the duration of the whole work."""
    total = 0.0
    for part in parts:
        start = time.perf_counter()
        part.run()
        total += part.times * (time.perf_counter() - start)
    return total


# --- tuning steps ---


def few_classes(bench: Bench, name: str, *, bank: bool = True) -> Row:
    """A step with the number of base classes of Flowers102."""
    sizes = bench.sizes
    size = sizes.wide if name == "promptsrc" else sizes.batch
    ours, field = bench.both(name, sizes.classes)
    held = bench.banked(ours, size)
    tune(ours, next(held))  # constant texts are encoded once in a run, not in each step
    views = itertools.count()

    def field_step() -> None:
        images, _, labels = bench.field_batch(size, next(views))
        field.step(images, labels)

    def our_step() -> None:
        tune(ours, next(held) if bank else bench.batch(size, next(views)))

    cost = tuning(ours, sizes.clip)
    return Row(
        f"{name} step, {sizes.classes} classes, batch {size}" + ("" if bank else ", no bank"),
        (Part(field_step),),
        (Part(our_step),),
        cost.field(size) / cost.ours(size, bank=bank),
    )


def many_classes(bench: Bench, name: str) -> Row:
    """A step with the number of base classes of ImageNet; the reference encodes them in groups."""
    sizes = bench.sizes
    ours, field = bench.both(name, sizes.many)
    assert isinstance(field, FieldCoOp | FieldKgCoOp)
    held = bench.banked(ours, sizes.batch)
    tune(ours, next(held))
    wish = torch.randn(sizes.many, sizes.clip.embed, generator=torch.Generator().manual_seed(0))

    def field_step() -> None:
        images, _, _ = bench.field_batch(sizes.batch)
        with torch.no_grad():
            field.pictures(images)
        _read_in_groups(field, wish, sizes.group)

    cost = tuning(ours, sizes.clip)
    return Row(
        f"{name} step, {sizes.many} classes, batch {sizes.batch}",
        (Part(field_step),),
        (Part(lambda: tune(ours, next(held))),),
        cost.field(sizes.batch) / cost.ours(sizes.batch),
        f"field: {sizes.group} classes at a time, each read forward and backward once, as if memory held all",
    )


def _read_in_groups(field: FieldCoOp | FieldKgCoOp, wish: Tensor, group: int) -> None:
    """Encode all classes forward and backward, for a given gradient of their features.

    With memory for one group only, a user would encode each class forward twice: for the loss, and for
    its gradient. Less than this is timed, so the ratio does not depend on the memory of a machine.
    """
    for start in range(0, len(wish), group):
        which = slice(start, start + group)
        (unit(field.texts(which)) * wish[which]).sum().backward()


# --- the stage of FVG-PT ---


def stage(bench: Bench, *, own_clip: bool) -> Row:
    """All epochs of drawn views; the reference has its own CLIP for the prior, or shares one."""
    sizes, steps = bench.sizes, bench.sizes.steps
    held, fill = _stage_parts(bench)
    field = _field_step(bench, own_clip=own_clip)
    reading = "CLIP asked apart" if own_clip else "CLIP's pass and texts shared"
    much = f"{sizes.shots} shots × {sizes.classes} classes, {sizes.epochs} epochs"
    return Row(
        f"fvgpt stage over coop, {much} ({reading})",
        (Part(field, steps),),
        (Part(fill, sizes.epochs * _share(bench)), Part(held, steps / _held_steps(bench))),
        _stage_bound(bench, own_clip=own_clip),
        "scaled from one field step, a bank of some pictures and the steps on it",
        warm=False,
    )


def fixed_view(bench: Bench) -> Row:
    """The same with one view for each picture."""
    steps = bench.sizes.steps
    held, fill = _stage_parts(bench)
    return Row(
        "fvgpt stage, one fixed view",
        (Part(_field_step(bench, own_clip=False), steps),),
        (Part(fill, _share(bench)), Part(held, steps / _held_steps(bench))),
        _stage_bound(bench, own_clip=False) * bench.sizes.epochs,
        "field: CLIP's pass and texts shared",
        warm=False,
    )


def second_run(bench: Bench) -> Row:
    """The same if the bank exists."""
    held, _ = _stage_parts(bench)
    return Row(
        "fvgpt stage, second run on the same bank",
        (Part(_field_step(bench, own_clip=False), bench.sizes.steps),),
        (Part(held, bench.sizes.steps / _held_steps(bench)),),
        note="field: CLIP's pass and texts shared",
    )


def _stage_parts(bench: Bench) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return an epoch of steps on an existing bank, and the filling of such a bank."""
    ours, _ = bench.both_stages("coop", bench.sizes.classes, None)
    there, new = (FeatureStore(bench.folder / name) for name in ("bank", "new-bank"))
    batches = bench.banked(ours, bench.sizes.batch, there)
    tune(ours, next(batches))

    def held() -> None:
        for _ in range(_held_steps(bench)):
            tune(ours, next(batches))

    def fill() -> None:
        new.clear()
        bench.banked(ours, bench.sizes.batch, new)

    return held, fill


def _field_step(bench: Bench, *, own_clip: bool) -> Callable[[], None]:
    _, field = bench.both_stages("coop", bench.sizes.classes, FieldClip(bench.clip) if own_clip else None)
    views = itertools.count()

    def step() -> None:
        field.step(*bench.field_batch(bench.sizes.batch, next(views)))

    return step


def _stage_bound(bench: Bench, *, own_clip: bool) -> float:
    """Return the reference's operations over those of a bank of all views; the learned part is negligible."""
    sizes = bench.sizes
    one, texts = picture(sizes.clip).forward, whole_texts(sizes.clip, sizes.classes).forward
    by_step = sizes.batch * one * (3 if own_clip else 2) + texts * (2 if own_clip else 1)
    return by_step / (2 * sizes.batch * picture(sizes.clip, read=1).forward)


def _held_steps(bench: Bench) -> int:
    return bench.sizes.drawn // bench.sizes.batch


def _share(bench: Bench) -> float:
    """Return the share of an epoch's pictures among the drawn ones."""
    return bench.sizes.classes * bench.sizes.shots / bench.sizes.drawn


# --- evaluation ---


def evaluation(bench: Bench) -> Row:
    """All test pictures; the reference encodes all class texts again for each batch."""
    sizes = bench.sizes
    batches = sizes.test_pictures / sizes.test_batch
    ours, field = bench.both("coop", sizes.test_classes)
    images = _test_images(bench)
    reading, answering = _our_evaluation(ours, images)
    one, texts = picture(sizes.clip).forward, whole_texts(sizes.clip, sizes.test_classes).forward
    once = _read_once(bench, ours)
    return Row(
        f"evaluating {sizes.test_pictures} pictures, {sizes.test_classes} classes, batch {sizes.test_batch}",
        (Part(lambda: evaluate(field, [images]), batches),),
        (Part(reading), Part(answering, batches)),
        (batches * texts + sizes.test_pictures * one)
        / (once + sizes.test_pictures * picture(sizes.clip, read=1).forward),
        "scaled from one batch; decoding, the same in both, is left out",
        warm=False,
    )


def tower_alone(bench: Bench) -> Row:
    """The same compared with the image tower alone, which is the upper bound of the gain."""
    sizes = bench.sizes
    batches = sizes.test_pictures / sizes.test_batch
    ours, _ = bench.both("coop", sizes.test_classes)
    images = _test_images(bench)
    reading, answering = _our_evaluation(ours, images)
    one, once = picture(sizes.clip, read=1).forward, _read_once(bench, ours)
    return Row(
        "the same, beside foveate's image tower alone",
        (Part(lambda: _see(ours, images), batches),),
        (Part(reading), Part(answering, batches)),
        sizes.test_pictures * one / (once + sizes.test_pictures * one),
        "first column: the image tower alone; 0.95 or more is wanted",
        warm=False,
    )


def _our_evaluation(ours: Method, images: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return the computation of the text features, and the prediction of a batch with them."""
    texts: list[Tensor] = []

    @torch.no_grad()
    def read() -> None:
        ours.set_classes(ours.names)
        texts[:] = [ours.encode_text()]

    @torch.no_grad()
    def answer() -> None:
        ours.logits(Features(ours.encode_images(images), texts[0]))

    return read, answer


def _read_once(bench: Bench, ours: Method) -> float:
    assert isinstance(ours, PromptMethod)
    return packed_texts(bench.sizes.clip, ours.rows).forward


def _test_images(bench: Bench) -> Tensor:
    side, generator = bench.sizes.clip.image_size, torch.Generator().manual_seed(0)
    return torch.randn(bench.sizes.test_batch, 3, side, side, generator=generator)


@torch.no_grad()
def _see(ours: Method, images: Tensor) -> None:
    ours.clip.vision(images)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "coop": lambda bench: few_classes(bench, "coop"),
    "coop-no-bank": lambda bench: few_classes(bench, "coop", bank=False),
    "coop-many": lambda bench: many_classes(bench, "coop"),
    "kgcoop": lambda bench: few_classes(bench, "kgcoop"),
    "kgcoop-many": lambda bench: many_classes(bench, "kgcoop"),
    "promptsrc": lambda bench: few_classes(bench, "promptsrc"),
    "promptsrc-no-bank": lambda bench: few_classes(bench, "promptsrc", bank=False),
    "mmrl": lambda bench: few_classes(bench, "mmrl"),
    "mmrl-no-bank": lambda bench: few_classes(bench, "mmrl", bank=False),
    "stage": lambda bench: stage(bench, own_clip=False),
    "stage-own-clip": lambda bench: stage(bench, own_clip=True),
    "fixed-view": fixed_view,
    "second-run": second_run,
    "evaluation": evaluation,
    "tower-alone": tower_alone,
}
