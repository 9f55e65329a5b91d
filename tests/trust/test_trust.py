"""A classifier that knows when not to answer: fitted, saved, read again, asked."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.errors import InputError
from foveate.prediction import Calibration
from foveate.world.photos import scene_photos

NAMES = ["red star", "blue ring", "green cross", "yellow heart"]
QUICK = {"epochs": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip("tiny")


@pytest.fixture(scope="module")
def probe(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe of 4 classes and 8 shots each, read again."""
    folder = tmp_path_factory.mktemp("trust") / "out"
    Classifier("linear_probe", clip).fit(scene_photos(NAMES, 8, 1), shots=8, out=folder)
    return folder


@pytest.fixture(scope="module")
def read(probe: Path, clip: Clip) -> Classifier:
    return Classifier.from_pretrained(probe, clip=clip)


def noise(number: int) -> list[Image.Image]:
    pixels = torch.randint(256, (number, 64, 64, 3), generator=torch.Generator().manual_seed(0))
    return [Image.fromarray(one.byte().numpy()) for one in pixels]


def pictures(names: list[str], seed: int) -> list[Image.Image]:
    return [sample.picture.load() for sample in scene_photos(names, 4, seed).samples]


def test_it_is_saved_with_the_model(probe: Path, read: Classifier):
    assert read.trust.knows_doubt
    assert len(read.trust.truths) == len(read.trust.support) == 32
    card = (probe / "README.md").read_text()
    assert "calibrated on 32 shots" in card
    assert "none of these" in card


def test_known_pictures_are_answered_and_strange_ones_refused(read: Classifier):
    known = read.predict(pictures(NAMES, 7), abstain=True)
    assert sum(one.refused for one in known) <= 3
    assert all(one.doubt == pytest.approx(1 - one.probability) for one in known)
    strange = read.predict(noise(8), abstain=True)
    assert all(one.refused and one.novelty > 0.95 for one in strange)
    assert not any(one.refused for one in read.predict(noise(8)))  # nobody asked for refusals


def test_naming_the_unknown_turns_a_refusal_into_an_answer(read: Classifier):
    unknown = pictures(["purple moon"], 7)
    assert sum(one.refused for one in read.predict(unknown, abstain=True)) >= 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a linear probe has learned nothing of it
        named = read.predict(unknown, ["purple moon"], abstain=True)
    assert [(one.label, one.refused) for one in named].count(("purple moon", False)) >= 3


def test_sets_begin_with_the_answer_and_grow_as_the_risk_shrinks(read: Classifier):
    seen = pictures(NAMES, 9)
    wide, narrow = (read.predict(seen, risk=risk) for risk in (0.05, 0.3))
    for one, other in zip(wide, narrow, strict=True):
        assert one.names[0] == other.names[0] == one.label
        assert set(other.names) <= set(one.names)
        assert list(one.names) == sorted(one.names, key=lambda name: -one.scores[name])


def test_what_cannot_be_promised_is_one_line(read: Classifier, clip: Clip):
    with pytest.raises(InputError, match=r"a risk of 0\.01 needs 99 pictures, and 32 were held back"):
        read.predict(noise(1), risk=0.01)
    with pytest.raises(InputError, match=r"risk is 1\.0: give a number"):
        read.predict(noise(1), risk=1.0)
    few = scene_photos(NAMES[:2], 2, 1)
    coop = Classifier("coop", clip).fit(few, shots=2, recipe=QUICK)
    with pytest.raises(InputError, match="all of its shots at once: fit again with --folds 4"):
        coop.predict(noise(1), risk=0.1)
    with pytest.raises(InputError, match="'none of these' needs 19 shots, and this model has 4"):
        coop.predict(noise(1), abstain=True)
    assert coop.predict(noise(1))[0].doubt is None
    assert coop.predict(noise(1))[0].novelty is not None
    with pytest.raises(InputError, match="does not know its shots"):
        Classifier("zeroshot", clip).predict(noise(1), ["cat"], only=True, risk=0.1)
    with pytest.raises(InputError, match="every class has one picture, so none can be held back"):
        Classifier("coop", clip).fit(few, shots=1, folds=2, recipe=QUICK)
    with pytest.raises(InputError, match="folds is 1: give 2 or more"):
        Classifier("coop", clip).fit(few, folds=1)


def test_folds_hold_back_what_is_not_learned_from(clip: Clip, tmp_path: Path):
    """A run that has finished is calibrated by the same command with --folds; its model stays what it was."""
    few = scene_photos(NAMES[:2], 4, 1)
    options = {"shots": 4, "recipe": QUICK, "out": tmp_path / "out"}
    plain = Classifier("coop", clip).fit(few, **options)
    weights = (tmp_path / "out/model.safetensors").read_bytes()
    assert not plain.trust.knows_doubt
    again = Classifier("coop", clip).fit(few, folds=2, **options)
    assert len(again.trust.truths) == 8
    assert (tmp_path / "out/model.safetensors").read_bytes() == weights
    assert Classifier.from_pretrained(tmp_path / "out", clip=clip).trust.knows_doubt


def test_held_back_shots_decide_how_sure_an_answer_is_beside_new_names_too(read: Classifier):
    own = Calibration(2.0, (0.4, 0.9), (0.3, 0.8))
    told = replace(read.trust, calibration=own, plain=9.0)
    blind = replace(told, calibration=Calibration(), truths=told.truths[:0])
    branches = ("base", "mixed", "new")
    assert [told.calibration_for(one) for one in branches] == [own, own, Calibration(9.0)]
    assert [blind.calibration_for(one).temperature for one in branches] == [1, 9, 9]


def test_folds_of_a_tuned_image_tower(clip: Clip):
    few = scene_photos(NAMES[:2], 4, 1)
    tuned = Classifier("vpt", clip).fit(few, shots=4, folds=2, recipe=QUICK)
    assert len(tuned.trust.truths) == 8
    assert tuned.predict(pictures(NAMES[:1], 7)[:1], risk=0.2)[0].doubt is not None


def test_a_damaged_file_is_named(probe: Path, clip: Clip, tmp_path: Path):
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_bytes((probe / name).read_bytes())
    assert Classifier.from_pretrained(tmp_path, clip=clip).trust is None
    (tmp_path / "trust.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"trust\.safetensors is damaged"):
        Classifier.from_pretrained(tmp_path, clip=clip)


def test_the_command(foveate: Callable[..., object], probe: Path, tmp_path: Path):
    noise(1)[0].save(tmp_path / "noise.png")
    options = (tmp_path / "noise.png", "--clip", "tiny")
    said = foveate("predict", probe, *options, "--abstain", "--risk", "0.2")
    header, line = (row.split("\t") for row in said.out.splitlines())
    assert header == ["photo", "label", "probability", "next", "one of", "novelty"]
    assert line[1] == "none of these"
    found = json.loads(foveate("predict", probe, *options, "--abstain", "--json").out)[0]
    assert (found["refused"], found["names"]) == (True, None)
    assert found["label"] in NAMES
