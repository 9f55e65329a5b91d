"""The command line as people meet it: help, options, output; runs that are killed, resumed, repeated."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module, resources
from pathlib import Path
from typing import Literal

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from foveate.classifier import Classifier
from foveate.cli import _SKIPS, COMMANDS, python_name
from foveate.clip.model import Vision
from foveate.commands.options import fields_of, options_of, parse
from foveate.errors import InputError
from foveate.methods.registry import methods
from foveate.train.config import RunConfig
from foveate.train.folder import read_run
from foveate.train.recipe import recipe_for

Call = Callable[..., object]
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture
def fitted(foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path) -> Path:
    """FVG-PT over CoOp, trained on two of four classes: `out`, on `data`."""
    data = shapes("blue box", "blue disc", "red box", "red disc", pictures=4)
    words = ("--masks", data / "masks", "--clip", clip_folder, "--epochs", 1, "--shots", 2)
    said = foveate("fit", data / "photos", "--classes", "base", "--out", tmp_path / "out", *words)
    assert said.code == 0, said.err
    return tmp_path / "out"


def _photo(fitted: Path, name: str = "red disc/0.png") -> Path:
    return fitted.parent / "data/photos" / name


# --- help ---


def test_torch_waits_until_it_is_needed():
    code = (
        "import sys, foveate; assert 'torch' not in sys.modules, 'import';"
        "from foveate.cli import main; assert main(['--help']) == 0;"
        "assert 'torch' not in sys.modules, 'help'; assert main(['fitt']) == 2;"
        "assert 'torch' not in sys.modules, 'typo'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "foveate fit photos/" in done.stdout


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",)])
def test_the_first_page_lists_every_command(foveate: Call, words: tuple[str, ...]):
    said = foveate(*words)
    assert (said.code, said.err) == (0, "")
    for name, summary in COMMANDS.items():
        assert f"  {name} " in said.out
        assert summary in said.out


def test_the_version(foveate: Call):
    assert foveate("--version").out == foveate("-V").out == "foveate 0.1.0\n"


def test_an_unknown_command(foveate: Call):
    said = foveate("pedict", "x")
    assert (said.code, said.out) == (2, "")
    assert said.err == "foveate: there is no command 'pedict'; did you mean 'predict'?\n"
    assert "fit, predict" in foveate("xyzzy").err


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_in_the_help_with_a_sentence(foveate: Call, name: str):
    said = foveate(name, "--help")
    assert (said.code, said.err) == (0, "")
    usage, rest = said.out.split("\n\n", 1)
    assert usage.startswith(f"Usage: foveate {name} ")
    assert len(usage) < 90
    assert usage.endswith("[options]")
    if name == "data":
        return
    assert "Examples:\n" in rest
    called = python_name(name)
    function = getattr(import_module(f"foveate.commands.{called}"), called, None)
    own = (
        fields_of(RunConfig, exclude=("columns", "recipe", "settings"))
        if function is None
        else options_of(function)
    )
    for option in own:
        flag = "--" + option.name.replace("_", "-")
        assert re.search(rf" {flag} .*\w", rest), option
        assert option.text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_bad_picture_can_be_skipped_where_a_command_says_so(foveate: Call, name: str):
    assert ("--on-bad" in foveate(name, "--help").out) == (name in _SKIPS)


@pytest.mark.parametrize("method", ["mmrl", "fvgpt+coop", "clip_lora"])
def test_the_help_of_fit_has_the_settings_of_the_method_asked_for(
    foveate: Call, method: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "100")  # no option's name is broken there
    pytest.importorskip("pydantic")  # cyclopts would validate words with it, wherever it is imported
    text, _ = foveate("fit", "--method", method, "--help").out.split("Examples:")
    for part, known in methods().items():
        for field in fields(known.config_type):
            flag = f" --{part}.{field.name} ".replace("_", "-")
            assert (flag in text) == (part in method.split("+")), flag
    assert f"[default: {recipe_for(method).lr}]" in text


# --- options ---


def _toy(
    model: str,
    photos: list[str],
    *,
    out: str,
    shots: int = 16,
    kind: Literal["all", "base"] = "all",
    dry_run: bool = False,
    clip_grad: float | None = None,
) -> None:
    """Do nothing.

    Args:
        model: First.
        photos: Rest.
        out: Where.
        shots: How many.
        kind: Which.
        dry_run: Whether.
        clip_grad: How much.
    """


def _read(*words: str) -> dict[str, object]:
    return parse("toy", _toy, words)


@pytest.mark.parametrize(
    "words",
    [
        ("m", "a.jpg", "b.jpg", "--out", "x", "--dry-run", "--shots", "3", "--clip-grad", "0.5"),
        ("--out=x", "--dry_run", "m", "--shots=3", "a.jpg", "--clip_grad=0.5", "b.jpg"),
        ("m", "--dry-run=true", "a.jpg", "--clip-grad", "5e-1", "b.jpg", "--out", "x", "--shots", "3"),
        ("--dry-run", "--out", "x", "--shots", "3", "--clip-grad", "0.5", "--", "m", "a.jpg", "b.jpg"),
    ],
)
def test_options_stand_anywhere_with_dashes_or_underscores(words: tuple[str, ...]):
    expected = {"model": "m", "photos": ["a.jpg", "b.jpg"], "out": "x", "shots": 3, "kind": "all"}
    assert _read(*words) == {**expected, "dry_run": True, "clip_grad": 0.5}


def test_values_stay_what_was_typed():
    read = _read("--out", "a: b", "--dry-run=FALSE", "--", "007", "-5.jpg")
    assert (read["model"], read["photos"], read["out"], read["dry_run"]) == ("007", ["-5.jpg"], "a: b", False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("m",), "missing: --out, PHOTOS"),
        (("m", "a", "--out"), "--out needs a value"),
        (("m", "a", "--out", "--shots"), "--out needs a value"),
        (("m", "a", "--out", "x", "--kind"), "--kind needs a value: one of all, base"),
        (("m", "a", "--out", "x", "--kind", "new"), "--kind is 'new': give one of all, base"),
        (("m", "a", "--out", "x", "--shot", "3"), "there is no option --shot; did you mean --shots?"),
        (("m", "a", "--out", "x", "--clip-grad", "lots"), "--clip-grad is 'lots': give a number or none"),
    ],
)
def test_a_mistake_is_explained_in_the_words_it_was_made_in(words: tuple[str, ...], says: str):
    with pytest.raises(InputError) as caught:
        _read(*words)
    said = str(caught.value).removesuffix(" (see foveate toy --help)")
    assert sorted(said) == sorted(says) if "missing" in says else said == says


def test_a_tilde_is_the_home_folder(
    foveate: Call, fitted: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    home = fitted.parent
    monkeypatch.setenv("HOME", str(home))
    (home / "fit.yaml").write_text("epochs: 1\nshots: 2\nclasses: base\n")
    (home / "names.txt").write_text("barn owl\nheron\n")
    words = ("--masks", home / "data/masks", "--clip", clip_folder, "--config", "~/fit.yaml")
    said = foveate("fit", home / "data/photos", "--out", "~/out", *words)
    assert "had finished before, in ~/out" in said.out, said.err
    photo = "~/data/photos/red disc/0.png"
    said = foveate("predict", "~/out", photo, "--classes", "~/names.txt", "--only", "--json")
    assert json.loads(said.out)[0]["scores"].keys() == {"barn owl", "heron"}
    assert foveate("evaluate", "~/out", "--json").code == 0
    assert not Path("~").exists()


def test_a_printed_config_runs_the_same_run(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    words = [
        "fit",
        shapes(pictures=2) / "photos",
        "--method",
        "coop",
        "--coop.tokens",
        2,
        "--out",
        tmp_path / "out",
    ]
    words += ["--clip", clip_folder, "--epochs", 2, "--shots", 1]
    printed = foveate(*words, "--print-config")
    assert printed.code == 0
    assert not (tmp_path / "out").exists()
    (tmp_path / "run.yaml").write_text(printed.out)
    assert foveate(*words).code == 0
    before = _state(tmp_path / "out")
    assert foveate("fit", "--config", tmp_path / "run.yaml").code == 0
    assert _state(tmp_path / "out") == before  # it was the same run, so it had finished
    said = foveate("fit", "--epochs", 3, "--config", tmp_path / "run.yaml")  # what is typed wins
    assert "recipe.epochs was 2, now 3" in said.err


def _state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# --- fit, predict, evaluate ---


def test_the_same_command_on_a_finished_run_changes_nothing(
    foveate: Call, fitted: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    before = _state(fitted)
    monkeypatch.setattr("foveate.train.run.fit", None)  # nothing is trained
    data = fitted.parent / "data"
    words = ("--masks", data / "masks", "--clip", clip_folder, "--epochs", 1, "--shots", 2)
    said = foveate("fit", data / "photos", "--classes", "base", "--out", fitted, *words)
    assert said.code == 0
    sizes = "learned 8,962 numbers from 4 pictures of 2 classes"
    assert said.out == f"fvgpt+coop: {sizes}; had finished before, in {fitted}\n"
    assert _state(fitted) == before


def test_every_kind_of_list_trains_the_same_classifier(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes(pictures=3)
    pictures = sorted((data / "photos").rglob("*.png"))
    names = sorted({path.parent.name for path in pictures})
    rows = [
        (str(path.relative_to(data)), path.parent.name, str(path.relative_to(data / "photos")))
        for path in pictures
    ]
    masks = [f"masks/{inner}" for *_, inner in rows]
    (data / "l.csv").write_text(
        "image,label,mask\n"
        + "".join(f"{image},{name},{mask}\n" for (image, name, _), mask in zip(rows, masks, strict=True))
    )
    lines = [
        {"image": image, "label": name, "mask": mask}
        for (image, name, _), mask in zip(rows, masks, strict=True)
    ]
    (data / "l.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    split = {"train": [[inner, names.index(name), name] for _, name, inner in rows], "val": [], "test": []}
    (data / "split_zhou_Shapes.json").write_text(json.dumps(split))
    tree = ("--masks", data / "masks")
    sources = {
        "folder": (data / "photos", *tree),
        "csv": (data / "l.csv",),
        "jsonl": (data / "l.jsonl",),
        "split": (data / "split_zhou_Shapes.json", "--images", data / "photos", *tree),
    }
    for kind, words in sources.items():
        common = ("--out", tmp_path / kind, "--clip", clip_folder, "--epochs", 2, "--shots", 2)
        said = foveate("fit", *words, *common)
        assert said.code == 0, said.err
    trained = {kind: (tmp_path / kind / "model.safetensors").read_bytes() for kind in sources}
    assert len(set(trained.values())) == 1
    for kind in sources:  # and each run finds its own pictures again, three classes with one left each
        said = foveate("evaluate", tmp_path / kind, "--shift", "--json")
        assert json.loads(said.out)["fvgpt+coop"]["base"]["pictures"] == 3, said


def test_predict_for_programs_and_for_people(foveate: Call, fitted: Path, monkeypatch: pytest.MonkeyPatch):
    photos = (_photo(fitted), _photo(fitted, "blue box"))
    listed = foveate("predict", fitted, *photos, "--classes", "barn owl,", "--json")
    answers = json.loads(listed.out)
    assert [Path(answer["photo"]).name for answer in answers] == ["0.png", "0.png", "1.png", "2.png", "3.png"]
    for answer in answers:
        assert list(answer["scores"]) == ["blue box", "blue disc", "barn owl"]
        assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)
        assert answer["scores"][answer["label"]] == max(answer["scores"].values()) == answer["probability"]
        assert 0 <= answer["trust"] <= 1
        assert answer["branch"] == "mixed"
    table = foveate("predict", fitted, *photos, "--classes", "barn owl").out.splitlines()
    assert table[0].split("\t") == ["photo", "label", "probability", "next", "trust in CLIP"]
    for line, answer in zip(table[1:], answers, strict=True):
        cells = line.split("\t")
        assert cells[:3] == [answer["photo"], answer["label"], f"{answer['probability']:.2f}"]
    odd = _photo(fitted).with_name("[red]a[b].png")
    _photo(fitted).rename(odd)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    shown = foveate("predict", fitted, odd).out
    assert "┃" in shown
    assert "[red]a[b].png" in shown


def test_names_in_another_writing_are_the_trained_ones(foveate: Call, fitted: Path):
    def scores(*words: str) -> list[str]:
        said = foveate("predict", fitted, _photo(fitted), "--json", *words)
        assert said.code == 0, said.err
        return list(json.loads(said.out)[0]["scores"])

    assert scores("--classes", "Blue_Box,BLUE  disc") == ["blue box", "blue disc"]
    assert scores("--classes", "Blue_Box,Barn_Owl,barn owl") == ["blue box", "blue disc", "barn owl"]
    assert scores("--classes", "Blue_Disc,heron", "--only") == ["blue disc", "heron"]
    assert scores("--classes", "heron", "--only") == ["heron"]


def test_the_card_shows_what_evaluate_measured(foveate: Call, fitted: Path, tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(fitted, model)
    before = (model / "README.md").read_text()
    assert "`foveate evaluate` measures it" in before
    said = json.loads(foveate("evaluate", model, "--json").out)
    card = (model / "README.md").read_text()
    head = ModelCard(card).data
    (row,) = said.values()
    for split, cell in row.items():
        found = {one.metric_type: one for one in head.eval_results if one.dataset_split == split}
        right, ece = cell["judged"]["accuracy"], cell["judged"]["ece"]
        assert found["accuracy"].metric_value == pytest.approx(right["value"], abs=0.01)
        ends = [right["low"], right["high"]]
        assert found["accuracy"].metric_args["interval"] == pytest.approx(ends, abs=0.01)
        assert found["ece"].metric_value == pytest.approx(ece["value"], abs=0.01)
        assert found["accuracy"].dataset_name == read_run(model).config.photos.rpartition("/")[2]
        assert f"{split} classes: {right['value']:.1f} % right of {cell['pictures']} pictures" in card
    assert str(tmp_path.parent) not in head.to_yaml()
    foveate("evaluate", model)
    assert (model / "README.md").read_text() == card  # once, not twice
    copied = tmp_path / "copied"
    Classifier.from_pretrained(model).save_pretrained(copied)
    assert (copied / "README.md").read_text() == card
    (model / "evaluated.json").write_text("[]")
    said = foveate("evaluate", model)
    assert (said.code, said.err.count("\n"), "delete it, and evaluate again" in said.err) == (2, 1, True)


def test_evaluate_measures_what_was_not_drawn(foveate: Call, fitted: Path):
    said = foveate("evaluate", fitted, "--compare", "--shift", "--json")
    results = json.loads(said.out)
    assert list(results) == ["zeroshot", "coop", "fvgpt+coop"]
    for row in results.values():
        assert {split: (row[split]["pictures"], row[split]["classes"]) for split in row} == {
            "base": (4, 2),
            "new": (4, 2),
            "all": (8, 4),
        }
        assert all(row[split]["shift"] >= 0 for split in row)
    table, *judged = foveate("evaluate", fitted, "--compare").out.split("\n\n")
    assert [said.split(":")[0] for said in judged] == ["base", "new", "all"]
    header, *lines = (line.split("\t") for line in table.splitlines())
    assert header == ["method", "base", "new", "all", "HM"]
    for line, (method, row) in zip(lines, results.items(), strict=True):
        base, new = row["base"]["accuracy"], row["new"]["accuracy"]
        mean = 2 * base * new / (base + new) if base + new else 0
        expected = [method, *(f"{value:.2f}" for value in (base, new, row["all"]["accuracy"], mean))]
        assert line == expected
    one = json.loads(foveate("evaluate", fitted, "--split", "new", "--json").out)
    assert list(one["fvgpt+coop"]) == ["new"]
    assert one["fvgpt+coop"]["new"]["accuracy"] == results["fvgpt+coop"]["new"]["accuracy"]


def test_pictures_that_were_learned_from_are_told_of(foveate: Call, fitted: Path, tmp_path: Path):
    photos = fitted.parent / "data/photos"
    told = "4 of 16 pictures were learned from, so the figures are too good"
    assert told in foveate("evaluate", fitted, "--data", photos).err
    assert "learned from" not in foveate("evaluate", fitted).err
    shutil.copytree(photos, tmp_path / "others")
    assert "learned from" not in foveate("evaluate", fitted, "--data", tmp_path / "others").err
    (photos / "blue box" / "0.png").unlink()  # another draw would come out now
    assert "learned from" not in foveate("evaluate", fitted, "--data", photos).err


def test_the_shift_is_over_pictures_with_masks(foveate: Call, fitted: Path, tmp_path: Path):
    data = fitted.parent / "data"

    def shift() -> dict[str, float]:
        said = foveate("evaluate", fitted, "--data", data / "photos", "--masks", data / "masks", *options)
        assert ("shift base: over the 6 of 8 pictures" in said.err) == ("over the" in said.err)
        return json.loads(said.out)["fvgpt+coop"]["base"]

    options = ("--split", "base", "--shift", "--json")
    whole = shift()
    for name in ("blue box", "blue disc"):
        (data / "masks" / name / "0.png").unlink()
    part = shift()
    assert (whole["masks"], part["masks"]) == (8, 6)
    for name in ("blue box", "blue disc"):
        (data / "photos" / name / "0.png").unlink()
    alone = shift()
    assert part["shift"] == pytest.approx(alone["shift"], rel=1e-4)
    assert part["shift"] != pytest.approx(whole["shift"], rel=1e-4)
    assert part["pictures"] == whole["pictures"] == 8


def test_a_run_on_test_pictures_in_another_writing(foveate: Call, fitted: Path, shapes: Callable[..., Path]):
    data = shapes("Blue_Box", "blue_disc", "heron", pictures=2, where="more")
    said = foveate("evaluate", fitted, "--data", data / "photos", "--json")
    row = json.loads(said.out)["fvgpt+coop"]
    assert {split: (row[split]["pictures"], row[split]["classes"]) for split in row} == {
        "base": (4, 2),
        "new": (2, 1),
        "all": (6, 3),
    }


# --- killed and resumed ---


HEARING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from foveate.cli import script
script()
"""
"""The command, which hears Ctrl-C even where the tests were started in the background, and so deaf to it."""


class _Run:
    """The same fit, again and again, each time as a process of its own."""

    epochs = 80  # so many that a busy machine notices in time how far it is

    def __init__(self, data: Path, clip: Path, out: Path):
        words = ["fit", data / "photos", "--masks", data / "masks", "--clip", clip, "--out", out]
        words += ["--epochs", self.epochs, "--shots", 2, "--batch-size", 3, "--warmup-epochs", 2]
        self.out, self.words = out, [sys.executable, "-c", HEARING, *map(str, words)]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def whole(self) -> None:
        done = subprocess.run(self.words, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def kill(self, stage: str, how: signal.Signals) -> tuple[int, str]:
        """Kill it once a few epochs of a stage are on disk; return its exit code and what it said."""
        deadline = time.monotonic() + 1800
        with subprocess.Popen(self.words, env=self.environment, stderr=subprocess.PIPE, text=True) as running:
            while running.poll() is None and self.epoch(stage) < 4 and time.monotonic() < deadline:
                time.sleep(0.002)
            running.send_signal(how)
            said = running.communicate()[1]
        return running.returncode, said

    def in_the_middle(self, stage: str) -> bool:
        """Return whether a stage was left before its end."""
        return 4 <= self.epoch(stage) < self.epochs and not (self.out / "config.json").exists()

    def epoch(self, stage: str) -> int:
        path = self.out / "stages" / f"{stage}.safetensors"
        if not path.exists():
            return 0
        with safe_open(path, "pt") as file:
            return json.loads(file.metadata()["state"])["epoch"]

    def result(self) -> dict[str, object]:
        return {path.name: _content(path) for path in self.out.rglob("*") if path.is_file()}


def _content(path: Path) -> object:
    """Bytes; of a stage's state, whose header has no fixed order, what they mean."""
    if path.parent.name != "stages":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        return file.metadata(), {
            name: file.get_tensor(name).numpy().tobytes() for name in sorted(file.keys())
        }


def _disturbed(run: _Run) -> bool:
    """Stop a run in its first stage and kill it in its second; return whether both were in the middle."""
    code, said = run.kill("coop", signal.SIGINT)
    if not run.in_the_middle("coop"):
        return False
    assert code == 130
    assert said == "foveate: stopped; the same command goes on where it was\n"
    run.kill("fvgpt-coop", signal.SIGKILL)
    return run.in_the_middle("fvgpt-coop")


def test_a_killed_run_ends_as_an_uninterrupted_one(
    shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes("blue box", "red disc", pictures=3)
    undisturbed = _Run(data, clip_folder, tmp_path / "whole")
    undisturbed.whole()
    uninterrupted = undisturbed.result()
    runs = (_Run(data, clip_folder, tmp_path / f"out-{number}") for number in range(5))
    run = next(run for run in runs if _disturbed(run))  # a busy machine looks too late now and then
    first_stage = run.out / "stages" / "coop.safetensors"
    written = first_stage.stat().st_mtime_ns
    run.whole()
    assert first_stage.stat().st_mtime_ns == written  # stage one was not trained again
    result = run.result()
    assert result.keys() == uninterrupted.keys()
    assert {"model.safetensors", "log.jsonl", "config.json", "coop.safetensors"} < result.keys()
    for name, content in result.items():
        if name != "run.json":  # it says where the pictures lie
            assert content == uninterrupted[name], f"{name} differs"


def test_nobody_reads_the_output(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "foveate", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode in (0, 141)


# --- real photographs, the embedded CLIP ---


def test_real_photographs_on_the_embedded_clip(foveate: Call, tmp_path: Path):
    data = SHARED / "msrc10"
    if not (resources.files("foveate.clip") / "tiny" / "config.json").is_file():
        pytest.skip("the embedded CLIP is not in this checkout")
    if not data.is_dir():
        pytest.skip(f"no real pictures: {data} is not there")
    (tmp_path / "photos").mkdir()
    for name in ("cow", "sheep", "sign"):
        (tmp_path / "photos" / name).symlink_to(data / "images" / name)
    words = ("--masks", data / "masks", "--shots", 2, "--epochs", 1, "--out", tmp_path / "out")
    said = foveate("fit", tmp_path / "photos", *words)
    assert said.code == 0, said.err
    assert said.err == "note: the embedded CLIP has seen drawn shapes only; for photographs give --clip\n"
    asked = foveate("predict", tmp_path / "out", *sorted((data / "images/cow").iterdir())[:3], "--json")
    assert {answer["label"] for answer in json.loads(asked.out)} <= {"cow", "sheep", "sign"}


HALF = "the towers compute in bfloat16; --dtype float32 is exact and slower"


def test_towers_may_be_in_half_precision(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    out = tmp_path / "half"
    words = ("--method", "coop", "--shots", 2, "--epochs", 1, "--clip", clip_folder, "--dtype", "bfloat16")
    assert foveate("fit", shapes(pictures=2) / "photos", "--out", out, *words).code == 0
    assert json.loads((out / "config.json").read_text())["precision"] == "bfloat16"
    with safe_open(out / "model.safetensors", "pt") as file:
        assert str(file.get_tensor("ctx").dtype) == "torch.float32"
    asked = foveate("predict", out, shapes(pictures=1) / "photos")
    assert (asked.code, asked.err) == (0, f"note: {HALF}\n")
    assert foveate("predict", out, shapes(pictures=1) / "photos", "--dtype", "float32").err == ""


def test_a_run_knows_what_auto_was(
    foveate: Call,
    shapes: Callable[..., Path],
    tmp_path: Path,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    bank, made = tmp_path / "bank", list[int]()
    words = ("--method", "coop", "--shots", 2, "--epochs", 1, "--augment", "none", "--clip", clip_folder)
    words = (shapes(pictures=2) / "photos", *words, "--bank-dir", bank)
    pool = Vision.pool
    monkeypatch.setattr(Vision, "pool", lambda self, token: made.append(len(token)) or pool(self, token))
    for number, (has, dtype) in enumerate(((False, "float32"), (True, "bfloat16"))):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        made.clear()
        said = foveate("fit", *words, "--dtype", "auto", "--out", tmp_path / f"run{number}")
        assert said.code == 0, said.err
        assert (HALF in said.err) == has
        assert json.loads((tmp_path / f"run{number}/run.json").read_text())["identity"]["dtype"] == dtype
        assert sum(made) > 0  # features of the other precision are not taken
    made.clear()
    assert foveate("fit", *words, "--dtype", "bfloat16", "--folds", 0, "--out", tmp_path / "again").code == 0
    assert sum(made) == 0
