"""Short trainings of every method give the numbers of a recorded run: loss terms, answers, what was solved.

The record is kept so that a change of the code's form shows that it changes nothing else. A change that is
meant to change numbers makes the record anew, and its commit says why:

    FOVEATE_RECORD=1 OMP_NUM_THREADS=1 .venv/bin/pytest tests/methods/test_recorded.py
"""

import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.clip.model import Clip
from foveate.methods.base import Method
from foveate.methods.capabilities import SupportSet
from foveate.methods.known import KnownClasses
from foveate.methods.registry import backbones, build, parts, stages, wrap
from foveate.seeds import stream
from foveate.train.journal import Step
from foveate.train.loop import fit
from foveate.train.recipe import recipe_for
from foveate.types import Batch

pytestmark = pytest.mark.usefixtures("few_sentences")

FILE = Path(__file__).parent / "recorded.json"
RECORDING = os.environ.get("FOVEATE_RECORD") == "1"

NAMES, OTHERS = ["cat", "dog", "old photo", "phone"], ["zebra", "okapi"]
EPOCHS, STEPS, PICTURES = 4, 2, 4  # the first is the warm-up; DAPT's second phase is the last

PLUGGED = (
    *("fvgpt+coop", "fvgpt+cocoop", "fvgpt+mmrl", "fvgpt+zeroshot"),
    *("dapt+coop", "dapt+maple", "dapt+ivlp", "dapt+mmrl", "dapt+vpt", "fvgpt+dapt+maple"),
    *("kdpl+coop", "kdpl+cocoop", "kdpl+promptsrc", "fvgpt+kdpl+coop"),
    "two_stage+ln_tuning",
)
RUNS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    **{name: (name, {}) for name in (*backbones(), *PLUGGED)},
    "vectors of each class": ("coop", {"coop": {"class_specific": True, "tokens": 2}}),
    "tuned keys": ("tip_adapter", {"tip_adapter": {"tuned": True, "validate": True}}),
    "no visual tokens": ("ivlp", {"ivlp": {"vision_depth": 0}}),
    "by gaze": ("dapt+maple", {"dapt": {"cue": "gaze"}}),
    "by box, one phase": (
        "dapt+kgcoop",
        {"dapt": {"cue": "box", "phase_switch": None, "background_target": "soft"}},
    ),
    "recomposed": ("dapt+vpt", {"dapt": {"recompose_weight": 1.0, "distance": "cosine"}}),
    "as released": ("dapt+maple", {"dapt": {"official_quirks": True}}),
    "mapped tokens written over": ("hicropl", {"hicropl": {"overwrite": True}}),
    "without a prior": ("fvgpt+mmrl", {"fvgpt": {"prior_branch": False, "heads": "fused"}}),
}


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    known: dict[str, Any] = {} if RECORDING else json.loads(FILE.read_text())
    yield known
    if RECORDING:
        lines = [f"{json.dumps(name)}: {json.dumps(run)}" for name, run in known.items()]
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch(size: int, *place: str | int) -> Batch:
    g = stream(3, "recorded", *place)
    masks = torch.zeros(size, 1, 32, 32)
    masks[:, :, 6:22, 8:28] = 1
    masks[0, :, :12] = 0
    images = torch.randn(size, 3, 32, 32, generator=g) + masks * torch.rand(3, 1, 1, generator=g)
    return Batch(images, torch.arange(size) % len(NAMES), masks, masks.mean((1, 2, 3)))


def train(method: str, settings: dict[str, dict[str, Any]], clip: Clip) -> tuple[Method, list[Any]]:
    """Train stage by stage with the method's own recipe; return it, and each stage's losses by term."""
    recipe = recipe_for(method, {"epochs": EPOCHS})
    size, built, found = min(recipe.batch_size, PICTURES), None, []
    for stage in stages(method):
        own = {name: settings[name] for name in parts(stage) if name in settings}
        built = build(stage, clip, own, 5) if built is None else wrap(parts(stage)[0], built, own, 5)
        built.set_classes(NAMES)
        losses: dict[str, list[float]] = defaultdict(list)

        def keep(step: Step, losses: dict[str, list[float]] = losses) -> None:
            for name, value in [*step.losses.items(), ("norm of the gradient", step.grad_norm)]:
                losses[name].append(value)

        fit(
            built,
            lambda epoch: [batch(size, epoch, i) for i in range(STEPS)],
            recipe,
            support=SupportSet(lambda number: [batch(8, "support", number)], [batch(4, "val")]),
            on_step=keep,
        )
        found.append({name: _short(torch.tensor(values)) for name, values in losses.items()})
        recipe = replace(recipe, average_mean=None)
    assert built is not None
    return built, found


@torch.no_grad()
def answers(method: Method) -> dict[str, Any]:
    """Return what it answers in each label space that it takes."""
    spaces = {"base": NAMES, "new": OTHERS, "mixed": [*NAMES[:3], *OTHERS]}
    found: dict[str, Any] = {}
    for branch, names in spaces.items():
        if branch == "base" or method.takes_new_names or isinstance(method, KnownClasses):
            method.set_classes(names, None, NAMES)
            features = method.features(batch(3, "asked").images, branch)
            found[branch] = _short(method.logits(features, branch))
    return found


def _short(tensor: torch.Tensor) -> Any:
    """Return the numbers of a tensor with the nine digits that tell any two of float32 apart."""
    return json.loads(json.dumps(tensor.tolist()), parse_float=lambda text: float(f"{float(text):.9g}"))


@pytest.mark.parametrize("run", RUNS)
def test_a_training_gives_the_recorded_numbers(run: str, tiny_clip: Clip, record: dict[str, Any]):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a method says of pictures that are noise
        method, losses = train(*RUNS[run], tiny_clip)
    solved = method.learned() if isinstance(method, KnownClasses) else {}
    now: dict[str, Any] = {"losses": losses, "logits": answers(method)}
    now["solved"] = {name: _short(tensor) for name, tensor in solved.items()}
    if RECORDING:
        record[run] = now
        pytest.skip("recorded anew")
    was = record[run]
    torch.testing.assert_close(_tensors(now["losses"]), _tensors(was["losses"]), rtol=1e-5, atol=2e-6)
    for what in ("logits", "solved"):  # logits are cosines times a temperature, which rounding is too
        torch.testing.assert_close(_tensors(now[what]), _tensors(was[what]), rtol=1e-5, atol=1e-4)


def _tensors(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _tensors(value) for name, value in values.items()}
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [_tensors(value) for value in values]
    return torch.tensor(values)


def test_nothing_is_recorded_that_is_not_run(record: dict[str, Any]):
    if RECORDING:
        pytest.skip("recorded anew")
    assert record.keys() == RUNS.keys()
