"""DAPT through the doors a person uses: fits that resume and combine, boxes in a file, the command line."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.methods.dapt import Dapt
from foveate.train.banking import BankPlan
from foveate.train.context import Context
from foveate.train.journal import Reporter
from foveate.train.recipe import Recipe
from foveate.train.run import run_stages

pytestmark = pytest.mark.usefixtures("few_sentences")

RECIPE = Recipe(epochs=3, batch_size=2, warmup_epochs=0, crop_scale=0.5, lr=0.01)
GAZE = {"dapt": {"cue": "gaze"}}


class Stopped(Exception):
    """A run that was killed."""


@pytest.fixture
def photos(shapes: Callable[..., Path]):
    data = shapes(pictures=2)
    return load_photos(data / "photos", masks=data / "masks")


def learned(method) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in method.learned().items()}


@pytest.fixture(autouse=True)
def notes_are_no_errors():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dapt: ")
        yield


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dapt+ivlp", {"dapt": {}}),
        ("dapt+ivlp", GAZE),
        ("dapt+ivlp", {"dapt": {"cue": "gaze", "refresh": "once"}}),
        ("dapt+ivlp", {"dapt": {"cue": "gaze", "refresh": "every_step"}}),
        ("fvgpt+dapt+maple", {}),
    ],
)
def test_a_run_that_is_killed_twice_ends_with_the_same_bits(
    tiny_clip: Clip, photos, tmp_path: Path, method: str, settings: dict
):
    whole = run_stages(method, tiny_clip, photos, RECIPE, settings=settings, seed=5)
    folder = tmp_path / "run"
    folder.mkdir()
    # An epoch has 3 steps, and a run goes on after its last whole one: these are in the second and the third.
    for after in (4, 4):
        taken = 0

        def dying(*_: object, after: int = after) -> None:
            nonlocal taken
            taken += 1
            if taken == after:
                raise Stopped

        dies = Reporter()
        dies.step = dying
        own = {"settings": settings, "seed": 5, "folder": folder, "context": Context(dies)}
        with pytest.raises(Stopped):
            run_stages(method, tiny_clip, photos, RECIPE, **own)
    resumed = run_stages(method, tiny_clip, photos, RECIPE, settings=settings, seed=5, folder=folder)
    for name, tensor in learned(whole).items():
        assert torch.equal(learned(resumed)[name], tensor), name


def test_stages_that_had_ended_are_not_spoken_of_again(tiny_clip: Clip, photos, tmp_path: Path):
    folder, told = tmp_path / "run", []
    folder.mkdir()
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            settings = {"dapt": {"phase_switch": 9.0}}
            run_stages("dapt+ivlp", tiny_clip, photos, RECIPE, settings=settings, folder=folder)
        told.append([str(one.message) for one in caught])
    assert any("second phase never begins" in line for line in told[0])
    assert told[1] == []


@pytest.mark.parametrize(
    ("method", "cue"),
    [
        *product(("dapt+coop", "dapt+promptsrc", "dapt+mmrl"), ("mask", "gaze")),
        ("dapt+coop", "box"),
    ],
)
def test_a_bank_changes_nothing(tiny_clip: Clip, photos, method: str, cue: str):
    settings = {"dapt": {"cue": cue, "phase_switch": None}}
    recipe = replace(RECIPE, epochs=2)
    plain, banked = (
        run_stages(method, tiny_clip, photos, recipe, settings=settings, bank=bank)
        for bank in (None, BankPlan())
    )
    for name, tensor in learned(plain).items():
        torch.testing.assert_close(learned(banked)[name], tensor, rtol=1e-3, atol=1e-5)


def test_fvgpt_goes_over_the_host_that_dapt_has_trained(tiny_clip: Clip, photos, tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    both = run_stages("fvgpt+dapt+maple", tiny_clip, photos, RECIPE, seed=2, folder=folder)
    alone = run_stages("dapt+maple", tiny_clip, photos, RECIPE, seed=2)
    assert isinstance(both.backbone, Dapt)
    for name, tensor in learned(alone).items():
        assert torch.equal(both.learned()[f"host.{name}"], tensor)
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(step["stage"] for step in steps))
    assert stages == ["dapt+maple", "fvgpt+dapt+maple"]
    first = [step for step in steps if step["stage"] == "dapt+maple"]
    terms = [{key for key in step if key.startswith("loss.")} for step in first if "lr" in step]
    assert terms[0] == {"loss.ce", "loss.pull"}
    assert {"empty", "full", "area"} <= next(step["figures"] for step in first if "figures" in step).keys()


def fitted(clip_folder: Path, data: Path, method: str, out: Path, **more: object) -> Classifier:
    recipe = {"epochs": 2, "crop_scale": 0.5}
    return Classifier(method, clip_folder, settings=more.pop("settings", None)).fit(
        data / "photos", shots=2, recipe=recipe, out=out, **more
    )


def test_an_answer_is_the_same_with_and_without_masks_on_disk(clip_folder: Path, shapes, tmp_path: Path):
    data, masks = shapes(), []
    model = fitted(clip_folder, data, "dapt+maple", tmp_path / "out", masks=data / "masks")
    pictures = sorted((data / "photos").rglob("*.png"))
    before = [answer.scores for answer in model.predict(pictures)]
    for mask in (data / "masks").rglob("*.png"):
        masks.append(mask)
        mask.unlink()
    loaded = Classifier.from_pretrained(tmp_path / "out")
    assert [answer.scores for answer in loaded.predict(pictures)] == before
    assert len(masks) == len(pictures)
    host = sum(p.numel() for p in Classifier("maple", clip_folder).method.learned().values())
    assert sum(p.numel() for p in loaded.method.learned().values()) == host
    assert [one.method_name for one in loaded.simpler()] == ["zeroshot"]


def test_the_gaze_needs_no_masks(clip_folder: Path, shapes, tmp_path: Path):
    data = shapes()
    with pytest.raises(InputError, match="learns from foreground masks"):
        fitted(clip_folder, data, "dapt+ivlp", tmp_path / "no")
    model = fitted(clip_folder, data, "dapt+ivlp", tmp_path / "out", settings=GAZE)
    assert model.config.settings["dapt"]["cue"] == "gaze"
    masked = fitted(clip_folder, data, "dapt+ivlp", tmp_path / "b", settings=GAZE, masks=data / "masks")
    assert model.config.data == masked.config.data  # masks that are given are not looked at
    for name, tensor in learned(model.method).items():
        assert torch.equal(learned(masked.method)[name], tensor)


def test_a_file_of_boxes_is_a_cue(foveate, clip_folder: Path, shapes, tmp_path: Path):
    data = shapes()
    rows = [f"{path.parent.name}/{path.name},8,8,30,28" for path in sorted((data / "photos").rglob("*.png"))]
    file = tmp_path / "boxes.csv"
    file.write_text("\n".join(["image,left,top,right,bottom", *rows]) + "\n", encoding="utf-8")
    words = ("--clip", clip_folder, "--shots", 2, "--epochs", 2, "--out", tmp_path / "out")
    said = foveate("fit", data / "photos", "--method", "dapt+ivlp", "--masks", file, *words)
    assert said.code == 0, said.err
    areas = [
        json.loads(line)["figures"]["area"]
        for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()
        if "figures" in line
    ]
    assert len(areas) == 2
    assert all(0.2 < area < 0.9 for area in areas)  # a box is 0.34 of its picture


def test_a_tuned_host_is_no_backbone_of_dapt(clip_folder: Path, shapes, tmp_path: Path):
    data = shapes()
    host = fitted(clip_folder, data, "ivlp", tmp_path / "ivlp")
    assert host.config is not None
    with pytest.raises(InputError, match="stands on no backbone tuned before it: leave --backbone out"):
        fitted(
            clip_folder, data, "dapt+ivlp", tmp_path / "a", masks=data / "masks", backbone=tmp_path / "ivlp"
        )
    with pytest.raises(InputError, match=r"is 'ivlp', but method 'fvgpt\+dapt\+ivlp' stands on 'dapt\+ivlp'"):
        fitted(
            clip_folder,
            data,
            "fvgpt+dapt+ivlp",
            tmp_path / "b",
            masks=data / "masks",
            backbone=tmp_path / "ivlp",
        )
    fitted(clip_folder, data, "dapt+ivlp", tmp_path / "dapt", masks=data / "masks")
    over = fitted(
        clip_folder, data, "fvgpt+dapt+ivlp", tmp_path / "c", masks=data / "masks", backbone=tmp_path / "dapt"
    )
    assert [one.method_name for one in over.simpler()] == ["dapt+ivlp", "zeroshot"]


def test_rows_share_the_host_that_dapt_has_trained(foveate, clip_folder: Path, shapes, tmp_path: Path):
    data, config = shapes(), tmp_path / "dapt.yaml"
    config.write_text(
        "rows:\n  IVLP: {method: ivlp}\n  DAPT-S: {method: dapt+ivlp}\n"
        "  DAPT-G: {method: dapt+ivlp, dapt: {cue: gaze}}\n  both: {method: fvgpt+dapt+ivlp}\n",
        encoding="utf-8",
    )
    said = foveate(
        *("fit", data / "photos", "--masks", data / "masks", "--config", config, "--clip", clip_folder),
        *("--shots", 2, "--epochs", 2, "--crop-scale", 0.5, "--out", tmp_path / "out"),
    )
    assert said.code == 0, said.err
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith("."))
    assert folders == ["both", "dapt-g", "dapt-s", "ivlp"]  # no backbone besides: "both" stands on the second
    logged = (tmp_path / "out" / "both" / "log.jsonl").read_text()
    assert '"stage": "dapt+ivlp"' not in logged
