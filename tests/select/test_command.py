"""`foveate select` and `fit --select`, from photos to a tuned model."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveate.classifier import Classifier
from foveate.clip.weights import load_clip
from foveate.data.samples import Photos
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.methods.registry import build
from foveate.train.selecting import SelectionRequest, select
from foveate.world.photos import scene_photos

Call = Callable[..., object]
NAMES = ("red disc", "blue box", "green disc")


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    return shapes(*NAMES, pictures=10)


@pytest.fixture
def chosen(foveate: Call, clip_folder: Path, tmp_path: Path) -> Call:
    """Select as told, and return what was written."""

    def call(
        photos: Path, *words: object, name: str = "herding", out: str = "chosen.json"
    ) -> dict[str, object]:
        said = foveate(
            *("select", photos, "--select", name, "--fraction", 0.3, "--clip", clip_folder),
            *("--out", tmp_path / out, *words),
        )
        assert said.code == 0, said.err
        return json.loads((tmp_path / out).read_text())

    return call


@pytest.fixture
def split_file(data: Path) -> Path:
    """The pictures of `data` as a split file: of each class six to train, two to validate, two to test."""
    rows: dict[str, list[list[object]]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(NAMES):
        for number in range(10):
            split = "train" if number < 6 else "val" if number < 8 else "test"
            rows[split].append([f"{name}/{number}.png", label, name])
    path = data / "split_zhou_Shapes.json"
    path.write_text(json.dumps(rows))
    return path


def fit(foveate: Call, clip: Path, photos: Path, out: Path, *words: object) -> dict[str, torch.Tensor]:
    quick = ("--method", "coop", "--clip", clip, "--epochs", 2, "--warmup-epochs", 0)
    said = foveate("fit", photos, *quick, "--out", out, *words)
    assert said.code == 0, said.err
    return load_file(out / "model.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(one[name].equal(other[name]) for name in one | other)


# --- the command ---


def test_it_writes_a_split_file_with_what_was_chosen_and_how(
    foveate: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    out = tmp_path / "chosen.json"
    words = ("--select", "herding", "--fraction", 0.3, "--clip", clip_folder, "--seed", 5, "--out", out)
    said = foveate("select", data / "photos", *words, "--herding.deepcore")
    assert said.code == 0, said.err
    assert said.out == "class\tphotos\tchosen\nblue box\t10\t3\ngreen disc\t10\t3\nred disc\t10\t3\n"
    assert f"herding chose 9 of 30 photos: {out}" in said.err
    written = json.loads(out.read_text())
    photos = load_photos(data / "photos")
    record = written.pop("selection")
    assert record.pop("version")
    assert record == {
        "method": "herding",
        "settings": {"deepcore": True},
        "fraction": 0.3,
        "seed": 5,
        "chosen": 9,
        "pictures": 30,
        "pool": photos.digest()[:16],
        "weights": load_clip(clip_folder).fingerprint(),
        "template": "a photo of a {}.",
        "clip": str(clip_folder),
    }
    assert written["val"] == written["test"] == []
    assert [row[1:] for row in written["train"]] == [
        [n, name] for n, name in enumerate(sorted(NAMES)) for _ in "abc"
    ]
    assert all(
        (tmp_path / row[0]).is_file() and row[0].startswith("data/photos/") for row in written["train"]
    )


def test_what_it_wrote_is_what_fit_learns_from_whole(
    foveate: Call, data: Path, clip_folder: Path, chosen: Call, tmp_path: Path
):
    chosen(data / "photos", "--fraction", 0.8, name="uniform")
    apart = fit(foveate, clip_folder, tmp_path / "chosen.json", tmp_path / "a")
    at_once = ("--select", "uniform", "--fraction", 0.8)
    together = fit(foveate, clip_folder, data / "photos", tmp_path / "b", *at_once)
    assert equal(apart, together)
    configs = [json.loads((tmp_path / out / "config.json").read_text()) for out in "ab"]
    for config in configs:
        assert (config["pictures"], config["shots"]) == (24, 0)
        assert config["selection"] == "uniform, fraction 0.8"
    assert "24 pictures of 3 classes (chosen by uniform, fraction 0.8, seed 1)" in (
        tmp_path / "b/README.md"
    ).read_text().replace("\n", " ")


def test_more_than_sixteen_chosen_pictures_of_a_class_are_all_learned_from(
    foveate: Call, shapes: Callable[..., Path], clip_folder: Path, chosen: Call, tmp_path: Path
):
    photos = shapes("red disc", "blue box", pictures=20) / "photos"
    chosen(photos, "--fraction", 0.9, name="margin")
    fit(foveate, clip_folder, tmp_path / "chosen.json", tmp_path / "all")
    assert json.loads((tmp_path / "all/config.json").read_text())["pictures"] == 36
    fit(foveate, clip_folder, tmp_path / "chosen.json", tmp_path / "few", "--shots", 4)
    config = json.loads((tmp_path / "few/config.json").read_text())
    assert (config["pictures"], config["shots"], config["selection"]) == (8, 4, "")


def test_masks_are_found_for_chosen_pictures(
    foveate: Call, data: Path, clip_folder: Path, chosen: Call, tmp_path: Path
):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    for name in ("chosen.json", "lists/chosen.json"):  # relative paths, and absolute ones
        written = chosen(data / "photos", out=name)
        assert Path(written["train"][0][0]).is_absolute() == (name != "chosen.json")
        photos = load_photos(tmp_path / name, masks=data / "masks")
        for one in photos.samples:
            assert one.mask == data / "masks" / one.picture.parent.name / one.picture.name


def test_validation_and_test_pictures_stay_and_are_not_looked_at(
    chosen: Call, split_file: Path, tmp_path: Path
):
    images = ("--images", split_file.parent / "photos")
    first = chosen(split_file, *images, name="herding")
    given = json.loads(split_file.read_text())
    for split in ("val", "test"):
        assert [row[1:] for row in first[split]] == [row[1:] for row in given[split]]
        for path, *_ in given[split]:
            (split_file.parent / "photos" / path).write_bytes(b"no picture at all")
    trained = {path for path, *_ in given["train"]}
    assert all("/".join(Path(path).parts[-2:]) in trained for path, *_ in first["train"])
    for rows in (given["val"], given["test"]):  # other labels
        for row in rows:
            row[1] = (row[1] + 1) % 3
            row[2] = NAMES[row[1]]
    split_file.write_text(json.dumps(given))
    assert chosen(split_file, *images, name="herding", out="again.json")["train"] == first["train"]


@pytest.mark.parametrize(
    "name", ["kcenter", "entropy", "grand", "graphcut", "facility", "craig", "glister", "cal"]
)
def test_every_selector_runs_from_photos(chosen: Call, data: Path, name: str):
    first, second = (chosen(data / "photos", name=name) for _ in "ab")
    assert first["train"] == second["train"]
    assert len(first["train"]) == 9


def test_the_choice_is_made_on_what_zero_shot_clip_sees(chosen: Call, data: Path, clip_folder: Path):
    photos, method = load_photos(data / "photos"), build("zeroshot", load_clip(clip_folder))
    method.set_classes(photos.names)
    classifier = Classifier("zeroshot", clip_folder)
    answers = classifier.predict([s.picture for s in photos.samples], classes=photos.names)
    wanted: list[str] = []
    for label in range(3):
        own = [
            (a.probability, s.picture)
            for a, s in zip(answers, photos.samples, strict=True)
            if s.label == label
        ]
        wanted += [str(path) for _, path in sorted(own, key=lambda pair: pair[0])[:3]]
    written = chosen(data / "photos", name="confidence")
    assert {str(data.parent / row[0]) for row in written["train"]} == set(wanted)


def test_half_of_the_classes_can_be_chosen_from(
    foveate: Call, chosen: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    written = chosen(data / "photos", "--classes", "base")
    assert {name for *_, name in written["train"]} == {"blue box", "green disc"}
    fit(foveate, clip_folder, tmp_path / "chosen.json", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["names"] == ["blue box", "green disc"]


def test_features_made_before_give_the_same_choice(
    foveate: Call, chosen: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    kept = tmp_path / "features"
    assert foveate("features", data / "photos", "--clip", clip_folder, "--out", kept).code == 0
    written = chosen(data / "photos", name="facility")
    assert (
        chosen(data / "photos", "--features", kept, name="facility", out="b.json")["train"]
        == written["train"]
    )
    part = tmp_path / "part"
    shutil.copytree(data / "photos", part)
    shutil.copy(part / "red disc/0.png", part / "red disc/new.png")
    words = ("--select", "facility", "--fraction", 0.3, "--features", kept, "--out", tmp_path / "c.json")
    said = foveate("select", part, *words, "--clip", clip_folder)
    assert (said.code, said.out) == (2, "")
    assert "new.png: make them of the same photos" in said.err
    said = foveate("select", data / "photos", *words, "--clip", "tiny")
    assert said.code == 2
    assert "give the same --clip" in said.err


def test_bad_pictures_are_left_out_of_the_pool_if_that_is_asked_for(
    foveate: Call, chosen: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    bad = data / "photos/red disc/3.png"
    bad.write_bytes(b"")
    words = ("select", data / "photos", "--select", "herding", "--fraction", 0.5, "--clip", clip_folder)
    said = foveate(*words, "--out", tmp_path / "x.json")
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert f"{bad}: is empty" in said.err
    assert not (tmp_path / "x.json").exists()
    said = foveate(*words, "--out", tmp_path / "x.json", "--on-bad", "skip")
    assert said.code == 0
    assert "left out 1 of 30 pictures" in said.err
    assert "red disc\t9\t4" in said.out
    assert "red disc/3.png" not in (tmp_path / "x.json").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--select", "hearding"), "--select is 'hearding': give one of uniform, herding"),
        (("--fraction", "0"), "fraction is 0.0: give a number above 0, at most 1"),
        (("--fraction", "20"), "fraction is 20.0: give a number above 0, at most 1"),
        (("--cal.neighbours", "3"), "settings for 'cal', but --select is herding: leave them out"),
        (("--select", "cal", "--cal.neighbours", "0"), "cal: neighbours is 0: give at least 1"),
        (("--select", "forgetting"), "forgetting reads the log of a training"),
        (("--log", "out"), "--log is for forgetting, and --select is herding"),
        (("--out", "chosen.txt"), "chosen.txt: fit knows a split file by its ending: call it chosen.json"),
        (("--out", "nowhere/chosen.json"), "there is no folder nowhere"),
        (("--features", "nowhere"), "nowhere"),
        (("--template", "a photo"), "{}"),
    ],
)
def test_what_is_wrong_is_one_line(
    foveate: Call, data: Path, clip_folder: Path, tmp_path: Path, words: tuple[str, ...], says: str
):
    usual = {"--select": "herding", "--fraction": "0.3", "--out": str(tmp_path / "chosen.json")}
    usual |= dict(zip(words[::2], words[1::2], strict=True))
    given = [word for pair in usual.items() for word in pair]
    said = foveate("select", data / "photos", "--clip", clip_folder, *given)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("foveate: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not (tmp_path / "chosen.json").exists()


def test_a_file_of_somebody_else_is_not_written_over(foveate: Call, chosen: Call, split_file: Path):
    words = ("select", split_file, "--select", "uniform", "--fraction", 0.5, "--out", split_file)
    before = split_file.read_text()
    said = foveate(*words)
    assert said.code == 2
    assert "is there, and foveate select did not write it" in said.err
    assert split_file.read_text() == before


def test_pictures_in_memory_cannot_be_named_in_a_file(tmp_path: Path, clip_folder: Path):
    photos = scene_photos(["red star", "blue ring"], per_class=4, seed=1)
    clip = load_clip(clip_folder)
    picked = select(photos, clip, SelectionRequest("herding", 0.5))
    assert len(picked.photos) == 4
    from foveate.commands.select import _write

    with pytest.raises(InputError, match="fit --select"):
        _write(tmp_path / "x.json", photos, picked.photos, picked.record)


# --- fit --select ---


def test_pictures_without_files_are_refused_before_any_is_encoded(
    foveate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    photos = scene_photos(["red star", "blue ring"], per_class=3, seed=1)
    monkeypatch.setattr("foveate.commands.select.load_photos", lambda *_, **__: photos)
    words = (
        "--select",
        "herding",
        "--fraction",
        0.5,
        "--clip",
        "/nowhere",
        "--out",
        tmp_path / "chosen.json",
    )
    said = foveate("select", "hf:owner/name", *words)
    assert said.code == 2
    assert "take foveate fit --select" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--select", "herding", "--fraction", 0.5, "--shots", 4), "--select and --shots both say"),
        (("--select", "herding"), "say which share of each class with --fraction"),
        (("--fraction", 0.5), "--fraction is 0.5: say who chooses with --select"),
        (
            ("--select", "herding", "--fraction", 0.5, "--strict-shots"),
            "--select and --strict-shots both say",
        ),
        (("--select", "forgetting", "--fraction", 0.5), "foveate select --log"),
        (("--select", "herding", "--fraction", 2), "fraction is 2.0: give a number above 0, at most 1"),
    ],
)
def test_two_ways_or_half_of_one_are_refused(
    foveate: Call, data: Path, clip_folder: Path, tmp_path: Path, words: tuple[object, ...], says: str
):
    common = ("--method", "coop", "--clip", clip_folder, "--out", tmp_path / "out")
    said = foveate("fit", data / "photos", *common, *words)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not (tmp_path / "out").exists()


def test_a_run_with_a_selector_is_evaluated_on_what_was_not_chosen(
    foveate: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    words = ("--select", "kcenter", "--fraction", 0.3)
    fit(foveate, clip_folder, data / "photos", tmp_path / "out", *words)
    said = foveate("evaluate", tmp_path / "out", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["coop"]["base"]["pictures"] == 21
    assert len(json.loads((tmp_path / "out/run.json").read_text())["chosen"]) == 9


def test_another_selection_is_another_run(foveate: Call, data: Path, clip_folder: Path, tmp_path: Path):
    out, words = tmp_path / "out", ("--select", "uniform", "--fraction", 0.3)
    first = fit(foveate, clip_folder, data / "photos", out, *words)
    assert equal(fit(foveate, clip_folder, data / "photos", out, *words), first)  # had finished
    common = ("--method", "coop", "--clip", clip_folder, "--epochs", 2, "--warmup-epochs", 0, "--out", out)
    said = foveate("fit", data / "photos", *common, "--select", "uniform", "--fraction", 0.4)
    assert said.code == 2
    assert "fraction was 0.3, now 0.4" in said.err


def test_a_bank_keeps_the_pools_features(foveate: Call, data: Path, clip_folder: Path, tmp_path: Path):
    words, bank = ("--select", "herding", "--fraction", 0.3), tmp_path / "bank"
    first = fit(foveate, clip_folder, data / "photos", tmp_path / "a", *words, "--bank-dir", bank)
    files = sorted(path for path in bank.rglob("*") if path.is_file())
    assert any(load_file(path)["features"].shape[1] == 30 for path in files)
    stamps = [path.stat().st_mtime_ns for path in files]
    again = fit(foveate, clip_folder, data / "photos", tmp_path / "b", *words, "--bank-dir", bank)
    assert [path.stat().st_mtime_ns for path in files] == stamps
    assert sorted(path for path in bank.rglob("*") if path.is_file()) == files
    assert equal(first, again)


def test_masks_are_asked_of_chosen_pictures_alone(data: Path, clip_folder: Path):
    photos = load_photos(data / "photos", masks=data / "masks")
    classifier = Classifier("fvgpt+coop", clip_folder)
    options = {"select": "herding", "fraction": 0.3, "recipe": {"epochs": 1}}
    classifier.fit(photos, **options)
    chosen = select(photos, load_clip(clip_folder), SelectionRequest("herding", 0.3)).photos
    for one in photos.samples:
        if one not in chosen.samples:
            one.mask.write_bytes(b"no mask")
    Classifier("fvgpt+coop", clip_folder).fit(photos, **options)
    assert len(chosen) == 9


def test_a_pool_that_cannot_be_read_is_refused(data: Path, clip_folder: Path):
    (data / "photos/red disc/3.png").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        Classifier("coop", clip_folder).fit(data / "photos", select="herding", fraction=0.3)


# --- forgetting ---


def test_forgetting_reads_what_a_run_logged(
    foveate: Call, chosen: Call, data: Path, clip_folder: Path, tmp_path: Path
):
    words = ("--select", "uniform", "--fraction", 1, "--epochs", 4, "--lr", 0.5)
    logged = fit(foveate, clip_folder, data / "photos", tmp_path / "warm", *words, "--log-answers")
    assert equal(logged, fit(foveate, clip_folder, data / "photos", tmp_path / "plain", *words))
    lines = [json.loads(line) for line in (tmp_path / "warm/log.jsonl").read_text().splitlines()]
    right = [line["right"] for line in lines if "right" in line]
    assert [len(one) for one in right] == [30] * 4
    last = foveate("evaluate", tmp_path / "warm", "--data", data / "photos", "--json")
    accuracy = json.loads(last.out)["coop"]["base"]["accuracy"]
    assert sum(right[-1].values()) / 0.3 == pytest.approx(accuracy)
    written = chosen(data / "photos", "--log", tmp_path / "warm", name="forgetting")
    kept = {str(data.parent / row[0]) for row in written["train"]}

    def events(path: str) -> int:
        answers = [one[path] for one in right]
        forgotten = sum(a and not b for a, b in pairwise(answers))
        return forgotten if any(answers) else len(answers)

    for name in NAMES:
        own = sorted((str(p) for p in (data / "photos" / name).iterdir()), key=lambda p: (-events(p), p))
        assert kept & set(own) == set(own[:3])


def test_a_log_that_does_not_fit_is_refused(
    foveate: Call, data: Path, clip_folder: Path, tmp_path: Path, shapes: Callable[..., Path]
):
    def said(log: object) -> str:
        words = ("--select", "forgetting", "--fraction", 0.3, "--clip", clip_folder)
        answer = foveate("select", data / "photos", *words, "--out", tmp_path / "x.json", "--log", log)
        assert answer.code == 2
        assert answer.err.count("\n") == 1
        return answer.err

    assert "give the folder of a run as --log" in said(tmp_path / "nowhere")
    fit(foveate, clip_folder, data / "photos", tmp_path / "silent", "--shots", 2)
    assert "does not say which answers were right: fit with --log-answers" in said(tmp_path / "silent")
    fit(foveate, clip_folder, data / "photos", tmp_path / "few", "--shots", 2, "--log-answers")
    assert "has no answers about 24 of 30 pictures" in said(tmp_path / "few")
    log = tmp_path / "few/log.jsonl"
    lines = [line for line in log.read_text().splitlines() if '"right"' in line]
    log.write_text(lines[1] + "\n")
    assert "lacks the answers of some epochs" in said(log)
    log.write_text(lines[0][:50] + "\n")
    assert f"{log}, line 1 is damaged" in said(log)
    log.write_bytes(b"\xff\xfe\x00")
    assert "is no log of a run" in said(log)


def test_answers_can_only_be_logged_where_there_is_a_log(clip_folder: Path, data: Path):
    with pytest.raises(InputError, match="say where with out="):
        Classifier("coop", clip_folder).fit(data / "photos", shots=2, log_answers=True)


def test_what_is_chosen_in_python_is_what_the_command_chooses(chosen: Call, data: Path, clip_folder: Path):
    photos: Photos = load_photos(data / "photos")
    picked = select(
        photos, load_clip(clip_folder), SelectionRequest("glister", 0.3, seed=1, settings={"rounds": 2})
    )
    written = chosen(data / "photos", "--glister.rounds", 2, name="glister")
    assert [str(data.parent / row[0]) for row in written["train"]] == [s.name for s in picked.photos.samples]
