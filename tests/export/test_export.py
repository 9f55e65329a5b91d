"""Exports: every method's answers are its own, whatever the picture file; what differs is refused."""

import copy
import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import foveate.run
from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.export.proof import Compared, compare, demand_agreement, demand_equal
from foveate.export.writing import ExportReport, draw_awkward, export
from foveate.methods.capabilities import RegionEncoder
from foveate.methods.registry import backbones, methods, needs_masks, register_method
from foveate.methods.zeroshot import ZeroShot
from foveate.run.folder import MANIFEST, WEIGHTS, seal
from foveate.run.model import Exported
from foveate.run.texts import ExportedTrust
from foveate.types import Branch, Features

pytest.importorskip("onnx")

NEW = ["tree frog", "lighthouse"]
FEW = ["tcp", "linear_probe", "fvgpt+cocoop", "fvgpt+mmrl"]
"""One of each kind that is unlike the others."""

PLUGGED = [
    "fvgpt+coop",
    "fvgpt+mmrl",
    "fvgpt+cocoop",
    "dapt+maple",
    "kdpl+coop",
    "exchange+coop",
    "two_stage+ln_tuning",
]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return draw_awkward(folder, seed=7)


@pytest.fixture
def tuned(shapes: Callable[..., Path], few_sentences: None, tiny_clip: Clip) -> Callable[..., Classifier]:
    def make(method: str, clip: Clip | Path = tiny_clip, shots: int = 2, **more: object) -> Classifier:
        data = shapes("red disc", "blue box", "green disc", pictures=shots + 1)
        classifier = Classifier(method, clip, settings=more.pop("settings", None))
        masks = data / "masks" if needs_masks(classifier.method_name) else None
        recipe = {"epochs": 1, "batch_size": 3}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of so short a training
            return classifier.fit(data / "photos", masks=masks, shots=shots, recipe=recipe, **more)

    return make


@pytest.fixture(scope="module")
def kept_exports() -> dict[str, tuple[Classifier, ExportReport]]:
    """Exports with the default settings, by method; no test changes them."""
    return {}


@pytest.fixture
def exported(
    tuned: Callable[..., Classifier],
    kept_exports: dict[str, tuple[Classifier, ExportReport]],
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
) -> Callable[..., tuple[Classifier, Exported, ExportReport]]:
    """A tuned model, its export loaded from `tmp_path / "export"`, and the report."""

    def make(method: str, **more: object) -> tuple[Classifier, Exported, ExportReport]:
        if more:
            classifier = tuned(method, **more)
            report = export(classifier, tmp_path / "export")
        else:
            if method not in kept_exports:
                classifier = tuned(method)
                kept_exports[method] = (
                    classifier,
                    export(classifier, tmp_path_factory.mktemp("kept") / "export"),
                )
            classifier, report = kept_exports[method]
            shutil.copytree(report.folder, tmp_path / "export")
        return copy.copy(classifier), foveate.run.load(tmp_path / "export"), report

    return make


def spaces(takes_new_names: bool) -> list[tuple[list[str] | None, bool]]:
    return [(None, False), (NEW, False), (NEW, True)] if takes_new_names else [(None, False)]


@pytest.mark.filterwarnings("ignore:it has learned nothing of")
@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=pytest.mark.slow) for m in [*backbones(), *PLUGGED] if m not in FEW]
)
def test_every_method_is_exported_and_proved(
    method: str, exported: Callable[..., tuple[Classifier, Exported, ExportReport]]
):
    classifier, model, report = exported(method)
    assert report.proved.same == report.proved.answers > 60
    assert report.proved.largest <= 1e-5
    assert list(model.manifest.names) == list(classifier.config.names)


@pytest.mark.filterwarnings("ignore:it has learned nothing of")
@pytest.mark.parametrize("method", FEW)
def test_an_export_answers_as_its_model(
    method: str, exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path]
):
    classifier, model, report = exported(method)
    assert report.proved.same == report.proved.answers > 60
    for classes, only in [*spaces(True), (["Blue_Box", "green disc"], True)]:
        asked = {"classes": classes, "only": only, "batch_size": 9}
        for was, now in zip(
            classifier.predict(pictures, **asked), model.predict(pictures, **asked), strict=True
        ):
            assert (now.photo, now.label, now.branch) == (was.photo, was.label, was.branch)
            assert list(now.scores) == list(was.scores)
            np.testing.assert_allclose([*now.scores.values()], [*was.scores.values()], rtol=0, atol=1e-5)
            assert (now.trust is None) == (was.trust is None)
            assert now.trust is None or abs(now.trust - was.trust) < 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"fvgpt": {"prior_branch": False}, "coop": {"position": "middle"}},
        {"fvgpt": {"entropy": "normalised", "mixed_weight": 0.4, "prior_template": "dataset"}},
        {"fvgpt": {"adapters": "image", "prior_trust": 0.25, "prior_templates": ("a {}.", "the {}.")}},
        {"exchange": {"prior": 0.5, "prior_templates": ("a {}.", "the {}."), "mixed_weight": 0.2}},
        {"exchange": {"prior": 0.0, "where": 0.0}},
    ],
)
def test_settings_that_change_an_answer_change_the_exports(
    settings: dict[str, dict[str, object]], exported: Callable[..., tuple[Classifier, Exported, ExportReport]]
):
    *_, report = exported(f"{next(iter(settings))}+coop", settings=settings)
    assert report.proved.largest <= 1e-5


def test_vectors_of_each_class_serve_these_classes_alone(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path]
):
    classifier, model, _ = exported("coop", settings={"coop": {"class_specific": True}})
    few = {"classes": ["red disc", "green disc"], "only": True}
    was, now = classifier.predict(pictures[:2], **few), model.predict(pictures[:2], **few)
    assert [one.label for one in now] == [one.label for one in was]
    with pytest.raises(InputError, match="'tree frog' was not trained on, and this model has vectors for"):
        model.predict(pictures[:1], NEW)


def test_any_number_of_names_and_pictures_follows(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path]
):
    classifier, model, _ = exported("fvgpt+mmrl")
    many = [f"thing {number}" for number in range(300)]
    was, now = classifier.predict(pictures[:3], many), model.predict(pictures[:3], many)
    assert [one.label for one in now] == [one.label for one in was]
    alone = [model.predict(path, many)[0] for path in pictures[:3]]
    assert [one.label for one in alone] == [one.label for one in now]


def test_names_are_added_and_kept(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path], tmp_path: Path
):
    classifier, model, _ = exported("fvgpt+coop")
    model.add_classes(NEW)
    model.save(tmp_path / "more")
    again = foveate.run.load(tmp_path / "more")
    assert again.names == [*classifier.config.names, *NEW]
    wanted = classifier.predict(pictures, NEW)
    for one in (model, again):
        answers = one.predict(pictures)
        assert [answer.label for answer in answers] == [answer.label for answer in wanted]
        assert {answer.branch for answer in answers} == {"mixed"}
    assert model.predict(pictures, ["red disc"], only=True)[0].branch == "base"
    with pytest.raises(InputError, match="more is there already: choose another folder"):
        model.save(tmp_path / "more")


# --- when to believe it ---


def strange(photos: Path) -> list[Path | Image.Image]:
    """Pictures like the shots, noise, and nothing at all."""
    pixels = torch.randint(256, (6, 32, 32, 3), generator=torch.Generator().manual_seed(3))
    return [
        *sorted(photos.rglob("*.png")),
        *(Image.fromarray(one.byte().numpy()) for one in pixels),
        Image.new("RGB", (32, 32)),
    ]


@pytest.mark.filterwarnings("ignore:it has learned nothing of")
@pytest.mark.parametrize(
    ("method", "folds"),
    [("coop", 2), ("mmrl", None), pytest.param("linear_probe", 2, marks=pytest.mark.slow)],
)
def test_an_export_says_what_its_model_says_of_its_answers(
    method: str,
    folds: int | None,
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]],
    tmp_path: Path,
):
    classifier, model, report = exported(method, shots=14, folds=folds)
    assert report.proved.largest <= 1e-5
    assert model.manifest.calibration == classifier.trust.calibration
    assert bool(model.manifest.calibration.sure) == bool(folds)  # 42 held-back shots make two groups
    asked = {"abstain": True, "risk": 0.2 if folds else None}
    seen, refused = strange(tmp_path / "data" / "photos"), set[bool]()
    model.add_classes(NEW)
    model.save(tmp_path / "more")
    more = foveate.run.load(tmp_path / "more")
    for ask, classes, only in (
        *((foveate.run.load(tmp_path / "export"), *space) for space in spaces(True)),
        (more, NEW, False),
    ):
        own = None if ask is more else classes
        was, now = (
            classifier.predict(seen, classes, only=only, **asked),
            ask.predict(seen, own, only=only, **asked),
        )
        assert [one.novelty for one in now] == [one.novelty for one in was]
        assert [one.refused for one in now] == [one.refused for one in was]
        assert [one.names for one in now] == [one.names for one in was]
        assert (now[0].doubt is None) == (was[0].doubt is None) == (folds is None)
        assert all(one.doubt == pytest.approx(1 - one.probability) for one in now if folds)
        refused |= {one.refused for one in now}
    assert refused == {True, False}
    unasked = classifier.predict(seen[:1])[0], model.predict(seen[:1], classifier.config.names, only=True)[0]
    assert unasked[0].novelty == unasked[1].novelty


def test_an_export_refuses_promises_as_its_model_does(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path], tmp_path: Path
):
    classifier, model, _ = exported("coop")
    for asked in ({"risk": 0.1}, {"risk": 2.0}, {"abstain": True}):
        with pytest.raises(InputError) as was:
            classifier.predict(pictures[:1], **asked)
        with pytest.raises(InputError) as now:
            model.predict(pictures[:1], **asked)
        assert str(now.value) == str(was.value)
    classifier.trust = None
    report = export(classifier, tmp_path / "unknowing")
    assert report.proved.same == report.proved.answers
    unknowing = foveate.run.load(report.folder)
    assert unknowing.predict(pictures[:1])[0].novelty is None
    with pytest.raises(InputError, match=r"does not know the model's shots .*: fit and export again"):
        unknowing.predict(pictures[:1], abstain=True)


def test_what_it_says_of_its_answers_is_proved(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    classifier, model, _ = exported("coop", shots=7, folds=2)
    seen = sorted((tmp_path / "data" / "photos").rglob("*.png"))
    assert compare(classifier, model, seen, ["base", "new"]).largest <= 1e-5
    trust = model.trust
    for part, other in (
        ("novelty", replace(trust, distances=trust.distances * np.float32(0.5))),
        ("doubt", None),
    ):
        model.trust = other
        model.manifest = replace(model.manifest, calibrated=other is not None)
        found = compare(classifier, model, seen, ["base"])
        assert found.same == found.answers
        assert found.largest > 1e-5
        assert found.where.endswith(part)
    odd = ExportedTrust.refused
    monkeypatch.setattr(ExportedTrust, "refused", lambda *given: ~odd(*given))
    with pytest.raises(InputError, match=r"0 of \d+ labels differ, and numbers by up to inf, .*, refused\)"):
        export(classifier, tmp_path / "second")


# --- it cannot lie ---


def test_other_pixels_are_refused_with_the_number(
    tuned: Callable[..., Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = foveate.run.model.normalised
    monkeypatch.setattr(foveate.run.model, "normalised", lambda *given: before(*given) * np.float32(1.02))
    with pytest.raises(InputError, match=r"not kept: \d+ of \d+ labels differ, and numbers by up to \d"):
        export(tuned("coop"), tmp_path / "export")
    assert not (tmp_path / "export").exists()
    assert not list(tmp_path.glob(".export*"))


def test_what_differs_is_counted(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path]
):
    classifier, model, _ = exported("coop")
    texts = list(model._texts.values())
    model._texts = dict(zip(model.names, [*texts[1:], texts[0]], strict=True))  # each under another's name
    found = compare(classifier, model, pictures, ["base"])
    assert found.same < found.answers == len(pictures)
    assert found.largest > 1e-5
    assert " became " in found.where
    with pytest.raises(InputError, match=f"{found.answers - found.same} of {found.answers} labels differ"):
        demand_equal(found)


@pytest.mark.parametrize("hook", ["logits", "encode_text"])
@pytest.mark.usefixtures("own_registry")
def test_a_method_that_is_not_known_is_refused_by_name(
    hook: str, tuned: Callable[..., Classifier], tmp_path: Path
):
    def logits(self: ZeroShot, features: Features, branch: Branch = "base") -> Tensor:
        return 2 * super(ZeroShot, self).logits(features, branch)

    def encode_text(self: ZeroShot) -> Tensor:
        return -super(ZeroShot, self).encode_text()

    config = type("OddConfig", (ZeroShot.config_type,), {"__annotations__": {}})
    body = {
        "name": "odd",
        "title": "Odd",
        "config_type": config,
        hook: {"logits": logits}.get(hook, encode_text),
    }
    register_method(type("Odd", (ZeroShot,), body))
    with pytest.raises(
        InputError, match=rf"odd cannot be exported: it .* in a way of its own \(Odd\.{hook}\)"
    ):
        export(tuned("odd"), tmp_path / "export")


def test_every_method_is_exported_above():
    exported = {part for method in [*backbones(), *PLUGGED] for part in method.split("+")}
    refused = {name for name, kind in methods().items() if issubclass(kind, RegionEncoder)}
    assert exported | refused == set(methods())  # tests/test_regions.py has these


# --- sizes ---


def test_weights_of_several_graphs_stand_there_once(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], tmp_path: Path
):
    classifier, *_ = exported(
        "fvgpt+coop"
    )  # its prior reads with the text tower that its prompts are read with
    numbers = sum(tensor.numel() for tensor in classifier.clip.parameters())
    assert (tmp_path / "export" / WEIGHTS).stat().st_size < 4.5 * numbers


def test_int8_weights_are_tried_on_pictures(tuned: Callable[..., Classifier], tmp_path: Path):
    classifier = tuned("coop", Path("tiny"))
    photos = sorted((tmp_path / "data" / "photos").rglob("*.png"))
    with pytest.raises(InputError, match="int8 weights are tried on pictures of your own: give some"):
        export(classifier, tmp_path / "small", int8=True)
    report = export(classifier, tmp_path / "small", int8=True, photos=photos)
    assert report.int8.agreement >= 0.99
    assert report.megabytes < 4.5  # of 10.3 with 32 bits
    assert foveate.run.load(tmp_path / "small").manifest.proof["int8_agreement"] == report.int8.agreement


def test_int8_graphs_that_do_not_run_are_refused(tuned: Callable[..., Classifier], tmp_path: Path):
    classifier = tuned("hicropl")
    photos = sorted((tmp_path / "data" / "photos").rglob("*.png"))
    with pytest.raises(InputError, match=r"onnxruntime cannot run hicropl with int8 weights \(.*--int8"):
        export(classifier, tmp_path / "small", int8=True, photos=photos)
    assert not (tmp_path / "small").exists()


def test_int8_that_changes_answers_is_refused_with_the_number():
    with pytest.raises(
        InputError, match=r"98\.90 % of 1000 answers are the same, less than 99 %: leave out --int8"
    ):
        demand_agreement(Compared(answers=1000, same=995, alike=989, largest=0.1, where="a.jpg"))
    demand_agreement(Compared(answers=1000, same=990, alike=990, largest=0.1, where="a.jpg"))


# --- elsewhere ---

ELSEWHERE = """
import sys
allowed = {"pillow_heif", "onnxruntime", "numpy", "PIL", "tokenizers", "foveate"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in allowed and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import json
import foveate.run
model = foveate.run.load(sys.argv[1])
answers = model.predict(sys.argv[2:], ["tree frog"])
print(json.dumps([[one.label, one.probability] for one in answers]))
"""


def test_it_runs_where_four_packages_are_installed(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path], tmp_path: Path
):
    classifier, *_ = exported("fvgpt+coop")
    words = [sys.executable, "-c", ELSEWHERE, tmp_path / "export", *pictures]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = classifier.predict(pictures, ["tree frog"])
    said = json.loads(done.stdout)
    assert [label for label, _ in said] == [one.label for one in wanted]
    np.testing.assert_allclose([p for _, p in said], [one.probability for one in wanted], rtol=0, atol=1e-5)


# --- bad input ---


def test_a_folder_that_is_not_whole_is_one_line(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], tmp_path: Path
):
    exported("coop")
    folder, other = tmp_path / "export", tmp_path / "other"

    def changed(change: Callable[[], object]) -> str:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(folder, other)
        change()
        with pytest.raises(InputError) as raised:
            foveate.run.load(other)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    told = json.loads((folder / MANIFEST).read_text())
    assert "image.onnx is missing: export the model again" in changed((other / "image.onnx").unlink)
    assert "is not what was exported" in changed(lambda: (other / WEIGHTS).write_bytes(b"x"))
    (tmp_path / "secret").write_bytes(b"x")
    for name in ("../secret", str(tmp_path / "secret"), "..\\secret"):
        outside = json.dumps({**told, "files": {**told["files"], name: seal(tmp_path / "secret")}})
        message = changed(lambda outside=outside: (other / MANIFEST).write_text(outside))
        assert f"it names {name!r}, outside its folder" in message
    newer = json.dumps({**told, "format_version": 4})
    assert "its format is 4, and this foveate reads 3" in changed(
        lambda: (other / MANIFEST).write_text(newer)
    )
    less = json.dumps({key: value for key, value in told.items() if key != "names"})
    assert "names is missing" in changed(lambda: (other / MANIFEST).write_text(less))
    assert "cannot be used" in changed(lambda: (other / MANIFEST).write_text("[" * 5000))
    assert "has no export.json: give a folder that" in changed((other / MANIFEST).unlink)


def test_bad_pictures_and_names_are_one_line(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]], pictures: list[Path], tmp_path: Path
):
    _, model, _ = exported("coop")
    assert model.predict([]) == []
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[0].read_bytes()[:300])
    with pytest.raises(InputError, match=r"broken\.jpg: is cut off before its end"):
        model.predict([pictures[0], broken])
    with pytest.warns(UserWarning, match=r"left out .*broken\.jpg: is cut off"):
        assert len(model.predict([pictures[0], broken], on_bad="skip")) == 1
    for names, why in (("owl", "give a list"), (["x " * 90], "shorten the name"), ([" "], "no word")):
        with pytest.raises(InputError, match=why):
            model.predict(pictures[:1], names)
    with pytest.raises(InputError, match="there are no names to choose from"):
        model.predict(pictures[:1], only=True)


def test_what_cannot_be_exported_is_one_line(
    exported: Callable[..., tuple[Classifier, Exported, ExportReport]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    classifier, *_ = exported("coop")
    folder = tmp_path / "export"
    with pytest.raises(InputError, match="export is there already, and not empty"):
        export(classifier, folder)
    with pytest.raises(InputError, match="has learned nothing yet"):
        export(Classifier("coop"), tmp_path / "none")
    half = Classifier("zeroshot", clip="tiny", dtype=torch.float16)
    half.config = classifier.config
    with pytest.raises(InputError, match=r"towers in float32 on the CPU, and these are in torch\.float16"):
        export(half, tmp_path / "none")
    for absent, needs in (
        ("onnxruntime", lambda: foveate.run.load(folder)),
        ("onnx", lambda: export(classifier, tmp_path / "none")),
    ):
        monkeypatch.setitem(sys.modules, absent, None)
        with pytest.raises(InputError, match=rf"^{absent} is not installed.*pip install 'foveate\[export\]'"):
            needs()
    assert not (tmp_path / "none").exists()


# --- the command ---


def test_the_command_proves_it_on_the_runs_pictures(
    foveate: Callable, shapes: Callable[..., Path], clip_folder: Path, tmp_path: Path
):
    data = shapes("red disc", "blue box", pictures=4)
    words = [
        "--method",
        "coop",
        "--clip",
        clip_folder,
        "--shots",
        2,
        "--epochs",
        1,
        "--out",
        tmp_path / "run",
    ]
    assert foveate("fit", data / "photos", *words).code == 0
    said = foveate("export", tmp_path / "run", "--out", tmp_path / "export", "--licence", "MIT")
    assert said.code == 0, said.err
    assert "about 4 of your pictures and awkward ones are the model's: all labels" in said.out
    card = (tmp_path / "export" / "README.md").read_text()
    assert "license: mit" in card
    assert "Data: 4 pictures of 2 classes (up to 2 each, seed 1). Their hash: " in card
    shutil.move(data, tmp_path / "moved")
    said = foveate("export", tmp_path / "run", "--out", tmp_path / "second")
    assert said.code == 0, said.err
    assert "proved on drawn pictures alone" in said.err
    said = foveate("export", tmp_path / "run", "--out", tmp_path / "third", "--clip", tmp_path / "gone")
    assert said.code == 2
    assert said.err.count("\n") == 1


def test_predict_and_evaluate_answer_from_an_export_as_from_its_model(
    foveate: Callable, shapes: Callable[..., Path], clip_folder: Path, tmp_path: Path
):
    data = shapes("red disc", "blue box", "green disc", "blue disc", pictures=4) / "photos"
    words = ["--method", "coop", "--clip", clip_folder, "--shots", 2, "--epochs", 1, "--classes", "base"]
    run, folder = tmp_path / "run", tmp_path / "export"
    assert foveate("fit", data, *words, "--folds", 2, "--out", run).code == 0
    assert foveate("export", run, "--out", folder).code == 0
    broken = data / "red disc" / "broken.png"
    broken.write_bytes(b"no picture")
    for more in (
        [],
        ["--classes", "owl, heron"],
        ["--classes", "owl", "--only", "--json"],
        ["--risk", "0.3"],
    ):
        own, other = (foveate("predict", model, data, *more, "--on-bad", "skip") for model in (run, folder))
        assert (own.code, other.code) == (0, 0), other.err
        assert re.sub(r"0\.\d+", "", other.out) == re.sub(r"0\.\d+", "", own.out)
        assert other.err == own.err
    broken.unlink()
    light = "import sys; sys.modules['torch'] = None; from foveate.cli import main; main(sys.argv[1:])"
    words = [sys.executable, "-c", light, "predict", folder, data]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.stdout == foveate("predict", folder, data).out, done.stderr
    own, other = (foveate("evaluate", model, "--data", data) for model in (run, folder))
    assert other.out == own.out
    assert "all: " in own.out
    for command, wrong in {
        "predict": [[data, "--clip", clip_folder], [data, "--device", "cuda"]],
        "evaluate": [[], ["--data", data, "--compare"], ["--data", data, "--clip", clip_folder]],
    }.items():
        for options in wrong:
            said = foveate(command, folder, *options)
            assert (said.code, said.err.count("\n")) == (2, 1), said.err
            assert "is an export, which " in said.err
