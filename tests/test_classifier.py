"""`Classifier`, as a program uses it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file

from foveate.classifier import Classifier
from foveate.clip.weights import load_clip
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.train.journal import Reporter
from foveate.world.photos import scene_photos

Call = Callable[..., object]
QUICK = {"epochs": 2, "warmup_epochs": 0}


def telling(**heard: Callable[..., None]) -> Reporter:
    """Return a reporter that hands on what it hears: telling(step=...)."""
    reporter = Reporter()
    vars(reporter).update(heard)
    return reporter


@pytest.fixture
def fit(shapes: Callable[..., Path], clip_folder: Path) -> Callable[..., Classifier]:
    """Fit on three classes; `method`, and whatever `fit` takes."""

    def call(method: str = "fvgpt+coop", settings: object = None, **more: object) -> Classifier:
        data = shapes(pictures=4)
        options = {"masks": data / "masks", "shots": 2, "recipe": QUICK, **more}
        return Classifier(method, clip_folder, settings=settings).fit(data / "photos", **options)

    return call


@pytest.fixture
def pictures(shapes: Callable[..., Path]) -> list[Path]:
    return sorted((shapes(pictures=4) / "photos").rglob("3.png"))


@pytest.mark.parametrize("method", ["zeroshot", "coop", "fvgpt+coop", "fvgpt+zeroshot"])
def test_what_is_saved_answers_as_what_was_trained(
    fit: Callable[..., Classifier], pictures: list[Path], tmp_path: Path, method: str
):
    trained = fit(method)
    trained.save_pretrained(tmp_path / "saved")
    read = Classifier.from_pretrained(tmp_path / "saved")
    for names in ([], ["barn owl"]):
        assert read.predict(pictures, names) == trained.predict(pictures, names)
    assert read.config == trained.config
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        "trust.safetensors",
        "README.md",
    }


def test_a_saved_folder_may_move(fit: Callable[..., Classifier], pictures: list[Path], tmp_path: Path):
    trained = fit("coop", out=tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Classifier.from_pretrained(tmp_path / "there").predict(pictures) == trained.predict(pictures)


def test_the_same_seed_is_the_same_model(fit: Callable[..., Classifier]):
    def learned(seed: int, **more: object) -> dict[str, torch.Tensor]:
        return {
            name: tensor.detach().clone() for name, tensor in fit(seed=seed, **more).method.learned().items()
        }

    first, again, other = learned(1), learned(1), learned(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_folder_holds_what_was_trained(fit: Callable[..., Classifier], tmp_path: Path):
    trained = fit(out=tmp_path / "out")
    kept = load_file(tmp_path / "out/model.safetensors")
    learned = trained.method.learned()
    assert kept.keys() == learned.keys()
    assert all(torch.equal(kept[name], learned[name]) for name in kept)
    lines = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    # 3 classes x 2 shots in batches of 4, a smaller last batch left out: 1 step an epoch
    steps = [line for line in lines if "loss" in line]
    assert [(line["stage"], line["epoch"]) for line in steps] == [
        ("coop", 0),
        ("coop", 1),
        ("fvgpt+coop", 0),
        ("fvgpt+coop", 1),
    ]
    card = (tmp_path / "out/README.md").read_text()
    assert "6 pictures of 3 classes (up to 2 each, seed 1)" in card
    assert "blue box, green disc, red disc" in card


def test_photos_come_in_any_form(fit: Callable[..., Classifier], pictures: list[Path]):
    trained = fit("coop")
    by_path = trained.predict(pictures)
    opened = [Image.open(path).convert("RGB") for path in pictures]
    assert [answer.scores for answer in trained.predict(opened)] == [answer.scores for answer in by_path]
    assert [answer.photo for answer in trained.predict(opened)] == ["picture 0", "picture 1", "picture 2"]
    for one in (str(pictures[0]), pictures[0], [pictures[0]], opened[0]):
        (answer,) = trained.predict(one)
        assert answer.scores == pytest.approx(by_path[0].scores, abs=1e-5)
    assert trained.predict([]) == []


def test_the_label_space_is_told(fit: Callable[..., Classifier], pictures: list[Path]):
    trained = fit()
    names = ["blue box", "green disc", "red disc"]
    base = trained.predict(pictures[0])[0]
    assert (list(base.scores), base.branch, base.trust) == (names, "base", None)
    mixed = trained.predict(pictures[0], ["barn owl"])[0]
    assert (list(mixed.scores), mixed.branch) == ([*names, "barn owl"], "mixed")
    new = trained.predict(pictures[0], ["barn owl", "heron"], only=True)[0]
    assert (list(new.scores), new.branch) == (["barn owl", "heron"], "new")
    assert 0 <= mixed.trust <= 1
    assert 0 <= new.trust <= 1
    for answer in (base, mixed, new):
        assert sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
        assert answer.label == max(answer.scores, key=answer.scores.get)
    assert trained.predict(pictures[0])[0] == base  # asking about others leaves nothing behind


@pytest.mark.parametrize("written", ["Red_Disc", "RED DISC", " red   disc ", "red disc"])
def test_a_trained_name_however_written(fit: Callable[..., Classifier], pictures: list[Path], written: str):
    trained = fit("coop")
    assert trained.predict(pictures, [written]) == trained.predict(pictures)
    assert list(trained.predict(pictures[0], [written, "heron"], only=True)[0].scores) == [
        "red disc",
        "heron",
    ]


def test_progress_is_told(fit: Callable[..., Classifier], pictures: list[Path]):
    steps: list[tuple[str, int, int]] = []
    counts: list[tuple[str, int, int]] = []
    trained = fit(
        reporter=telling(
            step=lambda stage, total, step: steps.append((stage, total, step.step)),
            count=lambda *told: counts.append(told),
        )
    )
    assert steps == [("coop", 2, 0), ("coop", 2, 1), ("fvgpt+coop", 2, 0), ("fvgpt+coop", 2, 1)]
    assert counts[:6] == [("checking pictures", done, 6) for done in range(1, 7)]
    assert counts[6:] == [
        (f"encoding views, {stage}", done, 12) for stage in ("coop", "fvgpt+coop") for done in (6, 12)
    ]
    counts.clear()
    trained.predict(pictures, batch_size=2, reporter=telling(count=lambda *told: counts.append(told)))
    assert counts == [("photos", 2, 3), ("photos", 3, 3)]


def test_base_classes_are_the_first_half(fit: Callable[..., Classifier]):
    assert fit("coop", classes="base").config.names == ["blue box", "green disc"]
    assert fit("coop").config.names == ["blue box", "green disc", "red disc"]


def test_what_it_is_compared_with(fit: Callable[..., Classifier]):
    assert [one.method_name for one in fit().simpler()] == ["coop", "zeroshot"]
    assert [one.method_name for one in fit("coop").simpler()] == ["zeroshot"]
    assert [one.method_name for one in fit("zeroshot").simpler()] == []


def test_short_classes_are_named_once(
    shapes: Callable[..., Path], clip_folder: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
):
    data = shapes(pictures=3)
    (data / "photos/red disc/2.png").unlink()
    options = {"shots": 3, "recipe": QUICK, "out": tmp_path / "out"}
    with pytest.warns(
        UserWarning, match=r"^fewer than 3 pictures: 'red disc' \(2\); all they have are used$"
    ):
        Classifier("coop", clip_folder).fit(data / "photos", **options)
    Classifier("coop", clip_folder).fit(data / "photos", **options)  # finished: nothing new to say
    with pytest.raises(InputError, match=r"'red disc' \(2\); add some"):
        Classifier("coop", clip_folder).fit(data / "photos", strict_shots=True, shots=3)
    # A short class among those that are not trained is nobody's business.
    half = Classifier("coop", clip_folder).fit(
        data / "photos", strict_shots=True, shots=3, classes="base", recipe=QUICK
    )
    assert half.config.pictures == 6


def test_a_class_with_test_pictures_alone_is_new(
    shapes: Callable[..., Path], clip_folder: Path, tmp_path: Path
):
    data = shapes(pictures=2)
    rows = [
        f"photos/{name}/{i}.png,{name},{'test' if i or name == 'red disc' else 'train'}"
        for name in ("blue box", "green disc", "red disc")
        for i in range(2)
    ]
    (data / "list.csv").write_text("image,label,split\n" + "\n".join(rows) + "\n")
    classifier = Classifier("coop", clip_folder)
    with pytest.warns(UserWarning, match="no training pictures of 'red disc': new classes then"):
        classifier.fit(data / "list.csv", shots=1, recipe=QUICK)
    assert classifier.config.names == ["blue box", "green disc"]
    test = load_photos(data / "list.csv").split("test")
    assert classifier.splits(test) == ["base", "new", "all"]
    assert [len(classifier.evaluate(test, split).labels) for split in ("base", "new", "all")] == [2, 2, 4]


def test_accuracy_is_counted_right(fit: Callable[..., Classifier], shapes: Callable[..., Path]):
    trained = fit("coop")
    data = load_photos(shapes(pictures=4) / "photos")
    answers = trained.evaluate(data, "base")
    labels = [answer.label for answer in trained.predict([sample.picture for sample in data.samples])]
    right = sum(label == data.names[sample.label] for label, sample in zip(labels, data.samples, strict=True))
    assert answers.accuracy == pytest.approx(100 * right / len(labels))


def test_class_specific_vectors_take_no_new_name(fit: Callable[..., Classifier], pictures: list[Path]):
    trained = fit("coop", settings={"coop": {"class_specific": True}})
    assert list(trained.predict(pictures[0])[0].scores) == ["blue box", "green disc", "red disc"]
    with pytest.raises(InputError, match="heron"):
        trained.predict(pictures[0], ["heron"])
    assert list(trained.predict(pictures[0])[0].scores) == ["blue box", "green disc", "red disc"]


def test_a_clip_in_memory_is_asked_for_again(
    shapes: Callable[..., Path], clip_folder: Path, pictures: list[Path], tmp_path: Path
):
    clip = load_clip(clip_folder)
    photos = load_photos(shapes(pictures=4) / "photos")
    trained = Classifier("coop", clip).fit(photos, shots=2, recipe=QUICK, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"a CLIP in memory.*--clip"):
        Classifier.from_pretrained(tmp_path / "out")
    read = Classifier.from_pretrained(tmp_path / "out", clip=clip)
    assert read.predict(pictures) == trained.predict(pictures)


def test_a_run_on_photos_in_memory_cannot_find_them_again(
    foveate: Call, shapes: Callable[..., Path], clip_folder: Path, tmp_path: Path
):
    data = shapes(pictures=4) / "photos"
    Classifier("coop", clip_folder).fit(load_photos(data), shots=2, recipe=QUICK, out=tmp_path / "out")
    said = foveate("evaluate", tmp_path / "out")
    assert said.code == 2
    assert "pictures in memory" in said.err
    assert "--data" in said.err
    assert foveate("evaluate", tmp_path / "out", "--data", data).code == 0


class _Hub:
    """Stands for the hub: keeps what is sent in a folder, gives what is asked for, or refuses."""

    home: Path
    repositories: dict[str, bool]

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        self.repositories[repository] = private

    def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
        assert repo_id in self.repositories
        shutil.copytree(folder_path, self.home / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}"

    @classmethod
    def download(cls, repository: str, *, allow_patterns: list[str]) -> str:
        if repository not in cls.repositories:
            raise LocalEntryNotFoundError(f"there is no {repository}")
        found = cls.home / "downloaded" / repository
        found.mkdir(parents=True)
        for path in (cls.home / repository).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, found)
        return str(found)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[_Hub]:
    _Hub.home, _Hub.repositories = tmp_path / "hub", {}
    monkeypatch.setattr("huggingface_hub.HfApi", _Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", _Hub.download)
    return _Hub


def test_what_is_pushed_to_the_hub_comes_back(
    fit: Callable[..., Classifier], pictures: list[Path], hub: type[_Hub]
):
    trained = fit("coop")
    assert trained.push_to_hub("me/shapes", private=True) == "https://hub/me/shapes"
    assert hub.repositories == {"me/shapes": True}
    sent = hub.home / "me" / "shapes"
    assert sorted(path.name for path in sent.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "trust.safetensors"),
    ]
    assert 'from_pretrained("me/shapes")' in (sent / "README.md").read_text()
    (sent / "pytorch_model.bin").write_bytes(b"a stranger's")
    again = Classifier.from_pretrained("me/shapes")
    assert not (hub.home / "downloaded" / "me" / "shapes" / "pytorch_model.bin").exists()
    for asked in ({}, {"classes": ["heron"]}):
        assert again.predict(pictures, **asked) == trained.predict(pictures, **asked)


def test_what_the_hub_refuses_is_one_line(
    fit: Callable[..., Classifier], hub: type[_Hub], monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no\nnetwork")  # the HTTP client's own errors are no OSError

    trained = fit("coop")
    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(InputError, match=r"^cannot push to me/shapes: no network$"):
        trained.push_to_hub("me/shapes")
    with pytest.raises(InputError, match=r"^me/birds: no such folder here, and the hub does not have it"):
        Classifier.from_pretrained("me/birds")


def test_nothing_is_saved_before_anything_is_learned(clip_folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="learned nothing yet"):
        Classifier("coop", clip_folder).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# --- what a program gets wrong ---


def test_names_to_predict_are_a_list(pictures: list[Path]):
    with pytest.raises(InputError, match="give a list of names, not one string"):
        Classifier("zeroshot").predict(pictures, "cat")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"classes": "Base"}, r"^classes is 'Base': give one of all, base \(did you mean 'base'\?\)$"),
        ({"on_bad": "ignore"}, r"^on_bad is 'ignore': give one of error"),
        ({"recipe": {"epochs": 1.5}}, "^epochs is 1.5: give a whole number$"),
        ({"recipe": {"epochs": "2"}}, "^epochs is '2': give a whole number$"),
        ({"recipe": {"batch_size": True}}, "^batch_size is True: give a whole number$"),
        ({"recipe": {"clip_grad": "1"}}, "^clip_grad is '1': give a number or none$"),
    ],
)
def test_a_wrong_argument_of_fit_is_one_line(
    fit: Callable[..., Classifier], wrong: dict[str, object], message: str
):
    with pytest.raises(InputError, match=message):
        fit("coop", **wrong)


def test_photos_to_evaluate_are_whatever_is_read(fit: Callable[..., Classifier], shapes: Callable[..., Path]):
    trained, data = fit("coop"), shapes(pictures=4) / "photos"
    assert trained.evaluate(data).accuracy == trained.evaluate(load_photos(data)).accuracy
    with pytest.raises(
        InputError, match=r"^split is 'bas': give one of base, new, all \(did you mean 'base'"
    ):
        trained.evaluate(data, "bas")


def test_class_specific_vectors_are_learned_anew_for_other_classes(
    fit: Callable[..., Classifier], shapes: Callable[..., Path], pictures: list[Path]
):
    photos = load_photos(shapes(pictures=4) / "photos")
    trained = fit("coop", settings={"coop": {"class_specific": True}})
    before, config = trained.predict(pictures), trained.config
    with pytest.raises(InputError, match="two to tell apart"):
        trained.fit(photos.only([0]), shots=1, recipe=QUICK)
    assert trained.config is config
    assert trained.predict(pictures) == before
    trained.fit(photos.only([0, 1]), shots=1, recipe=QUICK)
    assert list(trained.predict(pictures[0])[0].scores) == ["blue box", "green disc"]


def test_a_tilde_is_the_home_folder(
    fit: Callable[..., Classifier], pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(pictures[0], tmp_path / "one.png")
    trained = fit("coop")
    trained.save_pretrained("~/saved")
    assert (tmp_path / "saved/config.json").is_file()
    read = Classifier.from_pretrained("~/saved")
    assert read.predict("~/one.png")[0].scores == trained.predict(tmp_path / "one.png")[0].scores


def test_guidance_that_loses_its_way_is_told_of():
    names = ["red star", "blue ring", "green heart", "yellow star", "pink ring"]
    photos = scene_photos(names, per_class=4, seed=1)
    lost = {"epochs": 2, "lr": 0.3, "crop_scale": 0.5}
    classifier = Classifier("fvgpt+zeroshot", settings={"fvgpt": {"adapter_input": "unit"}})
    with pytest.warns(
        UserWarning, match=r"adapted features are below their backbone .* against 100.0 % right"
    ):
        classifier.fit(photos, shots=4, recipe=lost)
    steady = lost | {"lr": 0.0035}
    Classifier("fvgpt+zeroshot").fit(photos, shots=4, recipe=steady)  # a warning would be an error


def test_a_model_with_vectors_of_each_class_is_asked_about_these_alone():
    photos = scene_photos(["red star", "blue ring", "green heart", "pink star"], per_class=3, seed=1)
    classifier = Classifier("coop", settings={"coop": {"class_specific": True}})
    classifier.fit(photos, shots=2, classes="base", recipe={"epochs": 1})
    assert classifier.splits(photos) == ["base"]
    assert classifier.evaluate(photos, "base").logits.shape == (6, 2)


WRONG = """
import sys
import numpy as np
from foveate import Classifier
from foveate.errors import InputError

clip, photos, picture = sys.argv[1:]
fitted = Classifier("zeroshot", clip).fit(photos, shots=np.int64(1), seed=np.int64(2))
calls = {
    "method": lambda: Classifier(None, clip),
    "clip": lambda: Classifier("coop", 5),
    "clip is empty": lambda: Classifier("coop", ""),
    "no photos": lambda: Classifier("coop", clip).fit(None),
    "type list": lambda: Classifier("coop", clip).fit([]),
    "type bytes": lambda: Classifier("coop", clip).fit(b"photos"),
    "empty path": lambda: Classifier("coop", clip).fit(""),
    "shots is 1.5": lambda: Classifier("coop", clip).fit(photos, shots=1.5),
    "seed is 1.5": lambda: Classifier("coop", clip).fit(photos, seed=1.5),
    "recipe is 5": lambda: Classifier("coop", clip).fit(photos, recipe=5),
    "on_bad": lambda: Classifier("coop", clip).fit(photos, on_bad=3),
    "learned nothing": lambda: Classifier("coop", clip).evaluate(photos),
    "picture 0 is of type NoneType": lambda: fitted.predict(None),
    "picture 1 is of type int": lambda: fitted.predict([picture, 3]),
    "picture 0 is of type list": lambda: fitted.predict([[picture]]),
    "is not a picture": lambda: fitted.predict(b"abc"),
    "batch_size is 0": lambda: fitted.predict([picture], batch_size=0),
    "batch_size is 2.0": lambda: fitted.predict([picture], batch_size=2.0),
    "class name None": lambda: fitted.predict([picture], classes=[None]),
    "class name 3": lambda: fitted.predict([picture], classes=[3, 4]),
    "class names are 5": lambda: fitted.predict([picture], classes=5),
    "on_bad is": lambda: fitted.predict([picture], on_bad="never"),
    "same to CLIP": lambda: fitted.predict([picture], classes=["AT&T", "AT&amp;T"]),
    "data is of type int": lambda: fitted.evaluate(5),
    "risk is '0.1': give a number": lambda: fitted.predict([picture], risk="0.1"),
    "3 is of type int: give a path": lambda: Classifier("tip_adapter", clip).fit(photos, shots=1, out=3),
    "4 is of type int: give a path": lambda: Classifier.from_pretrained(4),
    "there is no device 'None'": lambda: Classifier("coop", clip, device=None),
    "a label is of type NoneType": lambda: Classifier("tip_adapter", clip).fit([picture] * 2, [None, "a"]),
    "a label is of type list": lambda: Classifier("tip_adapter", clip).fit([picture] * 2, [["a"], ["b"]]),
    "some labels are names and some": lambda: Classifier("tip_adapter", clip).fit([picture] * 2, [1, "b"]),
}
for says, call in calls.items():
    try:
        call()
        print("no error:", says)
    except InputError as error:
        if says not in str(error) or "\\n" in str(error):
            print(repr(says), "is not in", error)
"""


def test_arguments_of_wrong_types_are_told_in_one_line(shapes: Callable[..., Path], clip_folder: Path):
    """Outside of the tests, in which the types of all arguments are checked."""
    photos = shapes("cat", "dog", pictures=1) / "photos"
    words = [str(clip_folder), str(photos), str(photos / "cat" / "0.png")]
    done = subprocess.run([sys.executable, "-c", WRONG, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_bad_photos_can_be_left_out(fit: Callable[..., Classifier], pictures: list[Path], tmp_path: Path):
    trained = fit("zeroshot")
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r'bad.png: is not a picture.*on_bad="skip"'):
        trained.predict([tmp_path / "bad.png", *pictures])
    with pytest.warns(UserWarning, match="left out .*bad.png: is not a picture"):
        answers = trained.predict([tmp_path / "bad.png", *pictures], on_bad="skip")
    assert [answer.photo for answer in answers] == [str(path) for path in pictures]


def test_names_that_are_nearly_trained_ones_are_told_of(fit: Callable[..., Classifier], tmp_path: Path):
    trained, data = fit("zeroshot"), load_photos(tmp_path / "data/photos")
    near = replace(data, names=tuple("blue boxes" if name == "blue box" else name for name in data.names))
    with pytest.warns(
        UserWarning, match="'blue boxes' is counted as a new class, and 'blue box' was trained"
    ):
        assert trained.splits(near) == ["base", "new", "all"]


def test_two_names_of_the_same_tokens_are_refused(shapes: Callable[..., Path], clip_folder: Path):
    data = shapes("AT&T", "AT&amp;T", pictures=1)
    with pytest.raises(InputError, match="class names 'AT&T' and 'AT&amp;T' are the same to CLIP"):
        Classifier("zeroshot", clip_folder).fit(data / "photos", shots=1)


def test_a_card_shows_names_and_runs_none(fit: Callable[..., Classifier], tmp_path: Path):
    trained = fit("zeroshot")
    trained.config = replace(trained.config, names=["<b>x</b>", "[a](http://b)", "c`d"])
    trained.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert r"\<b\>x\</b\>, \[a\](http://b), c\`d" in card
