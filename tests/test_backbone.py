"""A plug-in over a backbone that was tuned before."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foveate.classifier import Classifier
from foveate.clip.weights import load_clip, save_clip
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.train import run as run_module
from foveate.train.journal import Reporter

Call = Callable[..., object]
QUICK = {"epochs": 2, "warmup_epochs": 0, "batch_size": 2}


def telling(**heard: Callable[..., None]) -> Reporter:
    """Return a reporter that hands on what it hears: telling(step=...)."""
    reporter = Reporter()
    vars(reporter).update(heard)
    return reporter


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    return shapes(pictures=4)


@pytest.fixture
def tune(data: Path, clip_folder: Path, tmp_path: Path) -> Callable[..., Classifier]:
    """Fit into `tmp_path / out`; `method`, its `settings`, and whatever `fit` takes."""

    def call(method: str, out: str, settings: object = None, clip: object = None, **more: object):
        options = {"masks": data / "masks", "shots": 2, "recipe": QUICK, **more}
        classifier = Classifier(method, clip or clip_folder, settings=settings)
        return classifier.fit(data / "photos", out=tmp_path / out, **options)

    return call


@pytest.fixture
def coop(tune: Callable[..., Classifier], tmp_path: Path) -> Path:
    tune("coop", "coop")
    return tmp_path / "coop"


@pytest.mark.parametrize(
    ("method", "recipe"),
    [
        ("coop", {}),
        ("kgcoop", {}),
        ("promptsrc", {"average_mean": 1.0, "average_std": 0.5}),
        ("mmrl", {}),
        ("zeroshot", {}),
    ],
)
def test_two_fits_are_one_whole(
    tune: Callable[..., Classifier], tmp_path: Path, method: str, recipe: dict[str, float]
):
    settings = {} if method == "zeroshot" else {method: {"tokens": 3}}
    recipe = {**QUICK, **recipe}
    whole = tune(f"fvgpt+{method}", "whole", settings, recipe=recipe)
    tune(method, "inner", settings, recipe=recipe)
    over = tune(f"fvgpt+{method}", "over", recipe=recipe, backbone=tmp_path / "inner")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "over" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    stages = [json.loads(line)["stage"] for line in (tmp_path / "over/log.jsonl").read_text().splitlines()]
    assert set(stages) == {f"fvgpt+{method}"}
    assert [path.stem for path in (tmp_path / "over/stages").iterdir()] == [f"fvgpt-{method}"]
    assert over.settings == whole.settings  # the three tokens came from the folder


def test_the_run_is_named_by_the_bits_of_its_backbone(
    tune: Callable[..., Classifier], tmp_path: Path, coop: Path, monkeypatch: pytest.MonkeyPatch
):
    tune("fvgpt+coop", "over", backbone=coop)
    moved = shutil.copytree(coop, tmp_path / "moved")
    monkeypatch.setattr(run_module, "fit", None)  # nothing is trained again
    again = tune("fvgpt+coop", "over", backbone=moved)  # the same backbone, wherever it lies
    assert again.settings["coop"]["tokens"] == 4
    tensors = load_file(moved / "model.safetensors")
    tensors["ctx"].view(torch.int32)[0, 0] ^= 1  # the last bit of one number
    save_file(tensors, moved / "model.safetensors")
    for other in ({"backbone": moved}, {}):
        with pytest.raises(InputError, match=r"over holds another run \(another backbone\): choose another"):
            tune("fvgpt+coop", "over", **other)
    assert json.loads((tmp_path / "over/run.json").read_text())["run"]["backbone"] == str(coop)


def test_a_stopped_run_over_a_backbone_goes_on(
    tune: Callable[..., Classifier], tmp_path: Path, coop: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = tune("fvgpt+coop", "whole", backbone=coop)
    seen: list[int] = []

    def stop(stage: str, total: int, step: object) -> None:
        seen.append(step.step)
        if step.step == total // 2:  # the first epoch was saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune("fvgpt+coop", "out", backbone=coop, reporter=telling(step=stop))
    other = shutil.copytree(coop, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, other / "model.safetensors")
    with pytest.raises(InputError, match="another backbone"):
        tune("fvgpt+coop", "out", backbone=other)
    seen.clear()
    again = tune(
        "fvgpt+coop", "out", backbone=coop, reporter=telling(step=lambda _s, _t, step: seen.append(step.step))
    )
    assert seen == [3, 4, 5]  # three steps an epoch
    for name, tensor in whole.method.learned().items():
        assert torch.equal(tensor, again.method.learned()[name]), name
    assert (tmp_path / "out/log.jsonl").read_text() == (tmp_path / "whole/log.jsonl").read_text()


# --- what does not fit ---


def _refused(tune: Callable[..., Classifier], tmp_path: Path, message: str, *words: object, **more: object):
    with pytest.raises(InputError, match=message) as caught:
        tune(*words, **more)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_backbone_of_another_method(tune: Callable[..., Classifier], tmp_path: Path, coop: Path):
    wrong = rf"^backbone {coop} is 'coop', but method 'fvgpt\+kgcoop' stands on 'kgcoop': give another"
    _refused(tune, tmp_path, wrong, "fvgpt+kgcoop", "out", backbone=coop)
    _refused(tune, tmp_path, "^method 'coop' stands on no backbone", "coop", "out", backbone=coop)
    tune("fvgpt+coop", "over", backbone=coop)
    _refused(tune, tmp_path, r"is 'fvgpt\+coop', but", "fvgpt+coop", "out", backbone=tmp_path / "over")


def test_a_backbone_that_is_none(tune: Callable[..., Classifier], tmp_path: Path, coop: Path):
    _refused(tune, tmp_path, "nowhere: no such folder", "fvgpt+coop", "out", backbone=tmp_path / "nowhere")
    (coop / "config.json").unlink()
    _refused(tune, tmp_path, "its fit has not finished", "fvgpt+coop", "out", backbone=coop)


def test_a_backbone_on_other_towers(
    tune: Callable[..., Classifier], tmp_path: Path, coop: Path, clip_folder: Path
):
    clip = load_clip(clip_folder)
    with torch.no_grad():
        next(clip.vision.parameters()).mul_(1.01)
    save_clip(clip, tmp_path / "other")
    wrong = rf"^backbone {coop} was tuned on {clip_folder} with weights \w+, but {tmp_path}/other has \w+: "
    _refused(tune, tmp_path, wrong, "fvgpt+coop", "out", backbone=coop, clip=tmp_path / "other")
    half = load_clip(clip_folder, dtype=torch.bfloat16)
    wrong = "was tuned on towers in float32, and these are in bfloat16: give --dtype float32"
    _refused(tune, tmp_path, wrong, "fvgpt+coop", "out", backbone=coop, clip=half)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["blue box", "green disc"], "'red disc' is not among those drawn here"),
        (["blue box", "green disc", "red disc", "hat"], "it was not tuned on 'hat'"),
        (
            ["blue box", "grey disc", "red disc"],
            "'green disc' is not among those drawn here and it was not tuned on 'grey disc'",
        ),
    ],
)
def test_a_backbone_of_other_classes(
    tune: Callable[..., Classifier],
    tmp_path: Path,
    coop: Path,
    data: Path,
    clip_folder: Path,
    labels: list[str],
    says: str,
):
    photos = load_photos(data / "photos", masks=data / "masks")
    sample = photos.samples[0]
    rows = [sample.__class__(sample.picture, row, sample.mask) for row in range(len(labels))]
    other = photos.__class__(tuple(labels), tuple(rows))
    with pytest.raises(InputError, match=f"^backbone {coop} was tuned on other classes: {says}; take the"):
        Classifier("fvgpt+coop", clip_folder).fit(other, shots=1, backbone=coop, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("own", [False, True])
def test_the_same_classes_in_another_order(
    tune: Callable[..., Classifier], tmp_path: Path, data: Path, clip_folder: Path, own: bool
):
    settings = {"coop": {"class_specific": own}}
    coop = tune("coop", "own", settings=settings)
    photos = load_photos(data / "photos", masks=data / "masks")
    order = [2, 0, 1]
    moved = tuple(replace(s, label=order.index(s.label)) for s in photos.samples)
    other = replace(photos, names=tuple(photos.names[i] for i in order), samples=moved)
    over = Classifier("fvgpt+coop", clip_folder)
    with pytest.warns(UserWarning, match="tuned on other pictures"):
        over.fit(other, shots=2, backbone=tmp_path / "own", recipe={"epochs": 1})
    assert torch.equal(over.method.backbone.ctx, coop.method.ctx)
    coop.method.set_classes(other.names)
    torch.testing.assert_close(over.method.encode_text(), coop.method.encode_text())


def test_names_in_another_writing_are_the_same_classes(
    tune: Callable[..., Classifier], coop: Path, tmp_path: Path
):
    config = json.loads((coop / "config.json").read_text())
    config["names"] = ["Blue_Box", "green  disc", "RED disc"]
    (coop / "config.json").write_text(json.dumps(config))
    over = tune("fvgpt+coop", "over", backbone=coop)
    assert over.config.names == ["blue box", "green disc", "red disc"]


def test_settings_that_contradict_the_backbone(tune: Callable[..., Classifier], tmp_path: Path, coop: Path):
    wrong = rf"^coop.tokens is 5, but backbone {coop} was tuned with 4: leave it out, or"
    _refused(tune, tmp_path, wrong, "fvgpt+coop", "out", {"coop": {"tokens": 5}}, backbone=coop)
    over = tune("fvgpt+coop", "over", {"coop": {"tokens": 4}, "fvgpt": {"tau": 3.0}}, backbone=coop)
    assert over.settings["fvgpt"]["tau"] == 3.0


def test_a_typed_default_contradicts_too(
    foveate: Call, tune: Callable[..., Classifier], tmp_path: Path, data: Path, clip_folder: Path
):
    tune("coop", "five", {"coop": {"tokens": 5}})
    words = ("fit", data / "photos", "--masks", data / "masks", "--clip", clip_folder, "--shots", 2)
    words += ("--epochs", 1, "--out", tmp_path / "out", "--backbone", tmp_path / "five")
    said = foveate(*words, "--coop.tokens", 4)
    assert said.code == 2
    assert said.err.startswith("foveate: coop.tokens is 4, but backbone")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert foveate(*words, "--coop.tokens", 5).code == 0


def test_the_template_is_the_backbones(tune: Callable[..., Classifier], tmp_path: Path, coop: Path):
    wrong = r"was tuned with template None, not 'a {} here\.': leave it out"
    _refused(tune, tmp_path, wrong, "fvgpt+coop", "out", backbone=coop, template="a {} here.")
    tune("coop", "said", template="a {} here.")
    over = tune("fvgpt+coop", "over", backbone=tmp_path / "said")
    assert over.config.template == over.method.template == "a {} here."


def test_tensors_of_another_size(tune: Callable[..., Classifier], tmp_path: Path, coop: Path):
    save_file({"ctx": torch.zeros(4, 3)}, coop / "model.safetensors")
    _refused(tune, tmp_path, f"^backbone {coop}: ctx in the", "fvgpt+coop", "out", backbone=coop)


def test_pictures_that_the_backbone_saw_may_be_held_out_now(tune: Callable[..., Classifier], coop: Path):
    with pytest.warns(UserWarning, match=f"^backbone {coop} was tuned on other pictures than those drawn"):
        tune("fvgpt+coop", "over", backbone=coop, seed=2)


def test_what_failed_changes_nothing(tune: Callable[..., Classifier], data: Path, coop: Path, tmp_path: Path):
    classifier = tune("fvgpt+coop", "whole")
    before = classifier.settings, classifier.config
    tune("coop", "five", {"coop": {"tokens": 5}})

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    options = {"masks": data / "masks", "shots": 2, "recipe": QUICK, "reporter": telling(step=stop)}
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(data / "photos", backbone=tmp_path / "five", **options)
    assert (classifier.settings, classifier.config) == before


def test_a_checkpoint_of_the_authors_serves_as_a_backbone(
    tune: Callable[..., Classifier], tmp_path: Path, coop: Path, clip_folder: Path
):
    state = {"state_dict": load_file(coop / "model.safetensors"), "epoch": 10}
    official = Classifier.from_official(
        state, clip_folder, method="coop", names=["blue box", "green disc", "red disc"]
    )
    official.save_pretrained(tmp_path / "brought")
    over = tune("fvgpt+coop", "over", backbone=tmp_path / "brought")  # no note: its pictures are unknown
    own = tune("fvgpt+coop", "own", backbone=coop)
    for name, tensor in own.method.learned().items():
        assert torch.equal(tensor, over.method.learned()[name]), name
