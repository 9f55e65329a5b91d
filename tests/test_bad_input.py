"""Whatever is wrong with what a person gives: one line that names it and says what to do, exit code 2, and
nothing half-written.
"""

import ast
import errno
import inspect
import json
import os
import pickle
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from foveate import files
from foveate.classifier import Classifier
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.train.journal import Journal

Call = Callable[..., object]


@pytest.fixture
def refused(foveate: Call, tmp_path: Path, clip_folder: Path) -> Call:
    """Fit as told, and check that it is refused in one line with these words, and leaves nothing."""

    def check(data: Path, *words: object, says: tuple[str, ...], clip: object = clip_folder) -> str:
        out = tmp_path / "out"
        before = _listing(out)
        said = foveate("fit", data, "--out", out, "--clip", clip, "--shots", 2, "--epochs", 1, *words)
        assert said.code == 2, said
        assert said.out == ""
        _one_line(said.err, says)
        assert _listing(out) == before
        return said.err

    return check


def _one_line(text: str, says: tuple[str, ...]) -> None:
    assert text.startswith("foveate: ")
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    for part in says:
        assert part in text, (part, text)


def _listing(folder: Path) -> dict[str, bytes] | None:
    if not folder.exists() or folder.is_file():
        return None
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COOP = ("--method", "coop")


# --- classes ---


def test_an_empty_folder(refused: Call, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", *COOP, says=(str(tmp_path / "empty"), "no pictures", "one folder per class"))


def test_a_folder_that_is_not_there(refused: Call, tmp_path: Path):
    refused(tmp_path / "nowhere", *COOP, says=(str(tmp_path / "nowhere"), "no such file or folder"))


def test_one_class_only(refused: Call, shapes: Callable[..., Path]):
    refused(shapes("red disc") / "photos", *COOP, says=("one class only", "'red disc'", "needs two"))


def test_one_base_class_only(refused: Call, shapes: Callable[..., Path]):
    data = shapes("red disc", "blue box") / "photos"
    refused(data, *COOP, "--classes", "base", says=("first half", "'blue box'", "needs two"))


def test_a_class_without_pictures(refused: Call, shapes: Callable[..., Path]):
    data = shapes() / "photos"
    (data / "void").mkdir()
    refused(data, *COOP, says=(str(data / "void"), "has no pictures", "remove the folder"))


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [("red_disc", "red disc", "both called 'red disc'"), ("Red disc", "red disc", "are the same")],
)
def test_two_classes_of_one_name(refused: Call, shapes: Callable[..., Path], one: str, other: str, says: str):
    refused(shapes(one, other, "blue box") / "photos", *COOP, says=(says, "rename"))


def test_an_empty_class_name(refused: Call, shapes: Callable[..., Path]):
    refused(shapes("_", "blue box") / "photos", *COOP, says=("'_'", "empty"))


@pytest.mark.parametrize("method", ["zeroshot", "coop", "fvgpt+coop", "fvgpt+zeroshot"])
def test_a_name_longer_than_the_text_tower_reads(refused: Call, shapes: Callable[..., Path], method: str):
    data = shapes("blue box", "red disc")
    long = "wombat" * 50
    table = data / "list.csv"
    rows = [
        f"photos/{name}/{i}.png,{long if name == 'blue box' else name},masks/{name}/{i}.png"
        for name in ("blue box", "red disc")
        for i in range(6)
    ]
    table.write_text("\n".join(["image,label,mask", *rows]) + "\n")
    refused(table, "--method", method, says=("class name 'wombatwombat", "77", "shorten the name"))


def test_a_chinese_name_works_with_one_note(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes("猫头鹰", "blue box", pictures=2)
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 2, *COOP)
    said = foveate("fit", data / "photos", "--out", tmp_path / "out", *words)
    assert said.code == 0, said.err
    assert said.err == "note: CLIP has mostly read English; it may not understand '猫头鹰'\n"
    asked = foveate("predict", tmp_path / "out", data / "photos/猫头鹰/0.png", "--classes", "鹭", "--json")
    assert set(json.loads(asked.out)[0]["scores"]) == {"猫头鹰", "blue box", "鹭"}
    assert asked.err == "note: CLIP has mostly read English; it may not understand '鹭'\n"


def test_accents_are_no_foreign_script(shapes: Callable[..., Path], clip_folder: Path):
    data = shapes("crème brûlée", "Ærø's cake", pictures=1)
    Classifier("zeroshot", clip_folder).fit(data / "photos", shots=1)  # a warning would be an error


# --- settings ---


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--method", "cop"), ("no method 'cop'", "'coop'")),
        (("--method", "xyzzy"), ("no method 'xyzzy'", "clip_adapter, clip_lora, cocoop")),
        (("--method", "coop+fvgpt"), ("coop+fvgpt", "fvgpt+coop")),
        (("--shots", "0"), ("shots is 0", "at least 1")),
        (("--shots", "few"), ("--shots is 'few'", "a whole number")),
        (("--epochs", "0"), ("epochs is 0", "above zero")),
        (("--lr", "nan"), ("--lr is 'nan'", "a number")),
        (("--lr", "-1"), ("lr is -1.0", "above zero")),
        (("--batch-size", "0"), ("batch_size is 0", "above zero")),
        (("--crop-scale", "2"), ("crop_scale is 2.0", "up to 1")),
        (("--weight-decay", "-1"), ("weight_decay is -1.0", "zero or more")),
        (("--augment", "fuzzy"), ("--augment is 'fuzzy'", "rrc-flip, squash, none")),
        (("--device", "cuda:99"), ("device cuda:99", "--device cpu")),
        (("--device", "nonsense"), ("no device 'nonsense'", "--device cpu")),
        (("--device", "meta"), ("device meta", "--device cpu")),
        (("--template", "no place"), ("template 'no place'", "{}")),
        (("--epoch", "3"), ("no option --epoch", "did you mean --epochs?", "foveate fit --help")),
        (("--tokens", "3"), ("no option --tokens", "did you mean --coop.tokens?")),
        (("--frobnicate", "3"), ("no option --frobnicate", "foveate fit --help")),
        (("--coop.tokens", "0"), ("coop", "tokens is 0", "at least one")),
        (("--coop.tokens", "many"), ("--coop.tokens is 'many'", "a whole number")),
        (("--coop.tokens", "90"), ("90 learned", "77")),
        (("--coop.position", "top"), ("--coop.position is 'top'", "end, middle, front")),
        (("--fvgpt.tau", "3"), ("settings for 'fvgpt'", "the method is 'coop'")),
        (("--masks",), ("--masks needs a value",)),
        (("another",), ("too many words: another", "quotes")),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) and given[0].startswith("-") else None,
)
def test_a_wrong_setting(
    refused: Call, shapes: Callable[..., Path], words: tuple[str, ...], says: tuple[str, ...]
):
    method = () if "--method" in words else COOP
    refused(shapes(pictures=2) / "photos", *method, *words, says=says)


def test_cuda_without_a_gpu(refused: Call, shapes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(shapes(pictures=2) / "photos", *COOP, "--device", "cuda", says=("device cuda", "--device cpu"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--fvgpt.terms", "[]"),
            (
                "terms is ()",
                "at least one",
            ),
        ),
        (
            ("--fvgpt.foreground-indicators", "[]"),
            (
                "foreground_indicators is ()",
                "at least one",
            ),
        ),
        (("--fvgpt.terms", "base,gat"), ("--fvgpt.terms is 'gat'", "base, gate, distill")),
        (("--fvgpt.prior-template", "none"), ("template 'none'", "{}")),
        (("--fvgpt.adapter-hidden", "0"), ("adapter_hidden is 0", "at least 1")),
        (("--fvgpt.gate-depth", "9"), ("gate_depth is 9", "1, 2 or 3")),
        (("--fvgpt.tau", "0"), ("tau is 0.0", "above zero")),
        (("--fvgpt.prior-trust", "7"), ("prior_trust is 7.0", "between 0 and 1")),
        (("--fvgpt.min-area", "0.99"), ("min_area is 0.99", "max_area")),
    ],
    ids=lambda given: given[0] if given[0].startswith("--") else None,
)
def test_a_setting_of_fvgpt_out_of_range_is_known_before_any_stage(
    refused: Call, shapes: Callable[..., Path], words: tuple[str, ...], says: tuple[str, ...]
):
    data = shapes(pictures=2)
    refused(data / "photos", "--masks", data / "masks", *words, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: [", ("options.yaml", "parsing")),
        ("epoch: 3", ("options.yaml", "'epoch'", "--epochs")),
        ("epochs: many", ("--epochs is 'many'", "a whole number")),
    ],
)
def test_a_wrong_config_file(
    refused: Call, shapes: Callable[..., Path], tmp_path: Path, text: str, says: tuple[str, ...]
):
    (tmp_path / "options.yaml").write_text(text)
    # Above, --epochs was given: what is typed wins over the file, but the file is read all the same.
    refused(shapes(pictures=2) / "photos", *COOP, "--config", tmp_path / "options.yaml", says=says)


def test_a_config_file_that_is_not_there(refused: Call, shapes: Callable[..., Path]):
    refused(shapes(pictures=2) / "photos", "--config", "nowhere.yaml", says=("nowhere.yaml", "no such file"))


# --- pictures ---


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0")))


def _truncated(path: Path) -> None:
    whole = path.parent / "whole.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(whole)
    path.write_bytes(whole.read_bytes()[:900])
    whole.unlink()


BAD_PICTURES = {
    "truncated.jpg": (_truncated, "cut off"),
    "zero.jpg": (lambda path: path.write_bytes(b""), "0 bytes"),
    "text.jpg": (lambda path: path.write_text("my holiday"), "not a picture"),
    "dot.png": (lambda path: Image.new("RGB", (1, 1)).save(path), "1x1"),
    "bomb.png": (_bomb, "30000x30000"),
    "noise.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "cannot be decoded"),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_named_or_left_out(
    refused: Call, foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path, name: str
):
    data = shapes("blue box", "red disc", pictures=1)
    make, reason = BAD_PICTURES[name]
    make(data / "photos" / "red disc" / name)
    bad = str(data / "photos" / "red disc" / name)
    refused(data / "photos", *COOP, says=(bad, reason, "--on-bad skip"))
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 2, *COOP, "--on-bad", "skip")
    said = foveate("fit", data / "photos", "--out", tmp_path / "out", *words)
    assert said.code == 0
    assert f"note: left out 1 of 3 pictures: {bad}" in said.err
    assert reason in said.err
    assert json.loads((tmp_path / "out/config.json").read_text())["pictures"] == 2
    assert json.loads((tmp_path / "out/run.json").read_text())["left_out"][0][0] == bad


def test_several_bad_pictures_are_listed_and_counted(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes("blue box", "red disc", pictures=1)
    for number in range(7):
        (data / f"photos/red disc/zero{number}.jpg").write_bytes(b"")
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 8, *COOP, "--on-bad", "skip")
    said = foveate("fit", data / "photos", "--out", tmp_path / "out", *words)
    assert said.code == 0
    assert "left out 7 of 9 pictures" in said.err
    assert said.err.count("0 bytes") == 5
    assert "and 2 more" in said.err
    assert len(json.loads((tmp_path / "out/run.json").read_text())["left_out"]) == 7


def test_a_class_left_with_no_good_picture(refused: Call, shapes: Callable[..., Path]):
    data = shapes("blue box", "red disc", pictures=1) / "photos"
    (data / "red disc/0.png").write_bytes(b"")
    says = ("class 'red disc' has no good picture", "0.png", "remove the class")
    refused(data, *COOP, "--on-bad", "skip", says=says)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read(refused: Call, shapes: Callable[..., Path]):
    data = shapes("blue box", "red disc", pictures=1) / "photos"
    (data / "red disc/0.png").chmod(0)
    refused(data, *COOP, says=("0.png", "no permission"))


def test_no_permission_whoever_runs_the_tests(
    refused: Call, shapes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    data = shapes("blue box", "red disc", pictures=1) / "photos"
    opens = Path.open

    def guarded(path: Path, *args: object, **more: object) -> object:
        if path.name == "0.png" and path.parent.name == "red disc":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opens(path, *args, **more)

    monkeypatch.setattr(Path, "open", guarded)
    refused(data, *COOP, says=("red disc/0.png", "no permission", "--on-bad skip"))


def test_a_class_with_few_pictures_is_named(
    refused: Call, foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes("blue box", "red disc", pictures=2) / "photos"
    (data / "red disc/1.png").unlink()
    strict = ("--strict-shots",)
    refused(data, *COOP, *strict, says=("fewer than 2 pictures: 'red disc' (1)", "lower --shots"))
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 2, *COOP)
    said = foveate("fit", data, "--out", tmp_path / "out", *words)
    assert (said.code, said.err) == (
        0,
        "note: fewer than 2 pictures: 'red disc' (1); all they have are used\n",
    )


# --- masks ---


def _blank(path: Path, value: int) -> None:
    Image.new("L", (40, 32), value).save(path)


def _invert(path: Path) -> None:
    Image.open(path).point(lambda value: 255 - value).save(path)


BAD_MASKS = {
    "of another shape": (lambda path: Image.new("L", (20, 32), 255).save(path), ("20x32", "40x32")),
    "rotated": (lambda path: Image.new("L", (32, 40), 255).save(path), ("32x40", "rotated")),
    "missing": (lambda path: path.unlink(), ("1 missing", "0.png")),
    "empty": (lambda path: _blank(path, 0), ("1 empty", "0.png")),
    "full": (lambda path: _blank(path, 255), ("1 full", "0.png")),
    "no picture": (lambda path: path.write_text("mask"), ("not a picture", "0.png")),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_named_or_done_without(
    refused: Call, foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path, kind: str
):
    data = shapes("blue box", "red disc", pictures=2)
    make, says = BAD_MASKS[kind]
    make(data / "masks/red disc/0.png")
    masks = ("--masks", data / "masks", "--mask-values", "binary255")
    refused(data / "photos", *masks, says=(*says, "--on-bad skip"))
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 2, "--on-bad", "skip")
    said = foveate("fit", data / "photos", "--out", tmp_path / "out", *words, *masks)
    assert said.code == 0, said.err
    assert "note: without 1 of 4 masks: " in said.err
    assert "0.png" in said.err


def test_inverted_masks(refused: Call, shapes: Callable[..., Path]):
    data = shapes("blue box", "red disc", pictures=2)
    for path in (data / "masks").rglob("*.png"):
        _invert(path)
    refused(data / "photos", "--masks", data / "masks", says=("cover the border", "--invert-masks"))


def test_most_masks_empty(refused: Call, shapes: Callable[..., Path]):
    data = shapes("blue box", "red disc", pictures=2)
    for path in sorted((data / "masks").rglob("*.png"))[1:]:
        _blank(path, 0)
    masks = ("--masks", data / "masks", "--mask-values", "binary255", "--on-bad", "skip")
    refused(data / "photos", *masks, says=("3 of 4 masks are empty", "--invert-masks"))


def test_no_masks_at_all(refused: Call, shapes: Callable[..., Path], tmp_path: Path):
    data = shapes("blue box", "red disc", pictures=2)
    refused(data / "photos", says=("--masks", "--method coop"))
    refused(
        data / "photos", "--masks", tmp_path / "no", says=(str(tmp_path / "no"), "no such folder of masks")
    )


def test_masks_that_are_not_needed_are_not_read(shapes: Callable[..., Path], clip_folder: Path):
    data = shapes("blue box", "red disc", pictures=2)
    for path in (data / "masks").rglob("*.png"):
        path.write_text("no mask at all")
    fitted = Classifier("coop", clip_folder).fit(
        data / "photos",
        masks=data / "masks",
        shots=2,
        recipe={"epochs": 1},
        mask_values="binary255",
    )
    assert fitted.config.pictures == 4


# --- weights ---


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_weights_that_are_none(refused: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path):
    data = shapes("blue box", "red disc", pictures=2) / "photos"
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(data, *COOP, clip=tmp_path / "other.safetensors", says=(str(tmp_path / "other.safetensors"),))
    (tmp_path / "code.pt").write_bytes(pickle.dumps({"weights": _Code()}))
    refused(data, *COOP, clip=tmp_path / "code.pt", says=(str(tmp_path / "code.pt"), "never loaded"))
    torch.save({"weights": _Code()}, tmp_path / "more.pt")
    refused(data, *COOP, clip=tmp_path / "more.pt", says=(str(tmp_path / "more.pt"), "system", "not loaded"))
    assert not Path("executed").exists()
    shutil.copytree(clip_folder, tmp_path / "cut")
    whole = (tmp_path / "cut/model.safetensors").read_bytes()
    (tmp_path / "cut/model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(data, *COOP, clip=tmp_path / "cut", says=(str(tmp_path / "cut/model.safetensors"), "cut short"))
    refused(data, *COOP, clip=tmp_path / "no", says=(str(tmp_path / "no"), "no such file or folder"))


# --- output ---


@pytest.fixture
def finished(foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path) -> Path:
    """A finished run of FVG-PT in `out`, on `data`."""
    data = shapes(pictures=3)
    words = ("--masks", data / "masks", "--clip", clip_folder, "--epochs", 1, "--shots", 2)
    assert foveate("fit", data / "photos", "--out", tmp_path / "out", *words).code == 0
    return tmp_path / "out"


def test_a_folder_that_holds_another_run(refused: Call, finished: Path):
    data = finished.parent / "data"
    masks = ("--masks", data / "masks")
    for words, says in (
        (("--seed", 7), "seed was 1, now 7"),
        (("--epochs", 3), "recipe.epochs was 1, now 3"),
        (("--method", "coop"), 'method was "fvgpt+coop", now "coop"'),
        (("--fvgpt.tau", 3), "settings.fvgpt.tau was 2.0, now 3.0"),
        (("--classes", "base"), 'classes was "all", now "base"'),
    ):
        what = "another output folder"
        refused(data / "photos", *masks, *words, says=(str(finished), "another run", says, what))
    for path in [*data.rglob("red disc/*.png")]:
        path.rename(path.with_name(f"other{path.name}"))
    refused(data / "photos", *masks, says=(str(finished), "other pictures"))


def test_a_folder_that_holds_other_files(refused: Call, shapes: Callable[..., Path], tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("chapter 1")
    refused(
        shapes(pictures=2) / "photos",
        *COOP,
        says=(str(tmp_path / "out"), "thesis.tex", "another output folder"),
    )


def test_an_output_that_is_a_file_or_below_one(
    refused: Call, foveate: Call, shapes: Callable[..., Path], tmp_path: Path
):
    data = shapes(pictures=2) / "photos"
    (tmp_path / "out").write_text("a file")
    refused(data, *COOP, says=(str(tmp_path / "out"), "is a file", "folder"))
    said = foveate("fit", data, *COOP, "--out", tmp_path / "out/x", "--shots", 2)
    assert said.code == 2
    _one_line(said.err, (str(tmp_path / "out"), "is a file", "somewhere else"))


def test_hidden_leftovers_do_not_block(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    (tmp_path / "out").mkdir()
    for name in (".run.json.k1ll3d_1", ".DS_Store"):
        (tmp_path / "out" / name).write_text("")
    words = ("--clip", clip_folder, "--epochs", 1, "--shots", 2, *COOP)
    assert foveate("fit", shapes() / "photos", "--out", tmp_path / "out", *words).code == 0
    assert not (tmp_path / "out/.run.json.k1ll3d_1").exists()
    assert (tmp_path / "out/.DS_Store").exists()


@pytest.mark.parametrize("when", range(6))
def test_no_disk_space_at_any_write(
    foveate: Call,
    shapes: Callable[..., Path],
    tmp_path: Path,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: int,
):
    data, out = shapes("blue box", "red disc", pictures=2), tmp_path / "out"
    words = ("fit", data / "photos", *COOP, "--out", out, "--clip", clip_folder, "--epochs", 2, "--shots", 2)
    writes, fsync = 0, os.fsync

    def full(handle: int) -> None:
        nonlocal writes
        writes += 1
        if writes > when:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        said = foveate(*words)
    assert said.code == 2
    # Features that find no room are not kept, and a note says so; what a run cannot do without is told last.
    said_last = said.err.splitlines(keepends=True)[-1]
    _one_line(said_last, (str(out), "No space left on device", "make room"))
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    if when == 0:
        assert not out.exists()
    assert not (out / "config.json").exists()
    assert foveate(*words).code == 0  # with room again, the same command goes on
    assert Classifier.from_pretrained(out).config.names == ["blue box", "red disc"]


def test_a_diverged_run_frees_its_folder_and_leaves_its_log(
    foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path
):
    data = shapes(pictures=2)
    words = ("--masks", data / "masks", "--warmup-epochs", 0, "--fvgpt.lambda-prior", "1e38")
    place = ("--out", tmp_path / "out", "--clip", clip_folder, "--epochs", 1)
    said = foveate("fit", data / "photos", *words, *place, "--shots", 2)
    assert said.code == 2
    _one_line(said.err, ("fvgpt+coop, step 0", "smaller lr"))
    log = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["stage"] == "coop"  # it diverged at the first step of the next stage
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    assert foveate("fit", data / "photos", *COOP, *place, "--shots", 1).code == 0


def test_a_run_stopped_before_its_first_epoch_gives_way(
    foveate: Call,
    shapes: Callable[..., Path],
    tmp_path: Path,
    clip_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    words = ("fit", shapes(pictures=2) / "photos", *COOP, "--out", tmp_path / "out", "--clip", clip_folder)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("foveate.train.run.fit", stop)
        said = foveate(*words, "--shots", 2, "--epochs", 1)
    assert said.code == 130
    assert said.err == "foveate: stopped; the same command goes on where it was\n"
    assert (tmp_path / "out/run.json").exists()
    assert foveate(*words, "--shots", 1, "--epochs", 1).code == 0


# --- a model that was damaged or moved ---


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("config.json", b"{", "config.json is damaged"),
        ("config.json", b'{"format": "other"}', "config.json is not foveate's"),
        ("config.json", b"", "config.json is damaged"),
        ("model.safetensors", b"", "model.safetensors is damaged"),
        ("model.safetensors", None, "model.safetensors is damaged (No such file"),
        ("config.json", None, "no tuned model"),
    ],
)
def test_a_damaged_model(foveate: Call, finished: Path, file: str, change: bytes | None, says: str):
    path = finished / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change)
    picture = finished.parent / "data/photos/red disc/0.png"
    for words in (("predict", finished, picture), ("evaluate", finished)):
        said = foveate(*words)
        assert said.code == 2
        _one_line(said.err, (str(finished), says))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", 5),
        ("names", [1, 2]),
        ("names", ["a", "a"]),
        ("settings", []),
        ("settings", {"coop": {"tokns": 4}}),
        ("settings", {"coop": 4}),
        ("method", "cop"),
        ("clip", None),
        ("template", 3),
        ("seed", "x"),
        ("format_version", 99),
        ("format_version", "new"),
        ("unknown", 1),
    ],
)
def test_a_config_that_was_edited(foveate: Call, finished: Path, key: str, value: object):
    path = finished / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    said = foveate("predict", finished, finished.parent / "data/photos/red disc/0.png")
    assert said.code == 2
    _one_line(said.err, (str(finished),))


def test_tensors_of_another_model(foveate: Call, finished: Path):
    path = finished / "model.safetensors"
    tensors = load_file(path)
    first = next(iter(tensors))
    save_file({**tensors, first: torch.zeros(3)}, path)
    said = foveate("predict", finished, finished.parent / "data/photos/red disc/0.png")
    assert said.code == 2
    _one_line(said.err, (str(path), first))
    save_file({name: tensor for name, tensor in tensors.items() if name != first}, path)
    said = foveate("predict", finished, finished.parent / "data/photos/red disc/0.png")
    assert said.code == 2
    _one_line(said.err, (str(path), first))


def test_other_towers(foveate: Call, finished: Path, tmp_path: Path, clip_folder: Path):
    shutil.copytree(clip_folder, tmp_path / "other")
    weights = load_file(tmp_path / "other/model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, tmp_path / "other/model.safetensors")
    picture = finished.parent / "data/photos/red disc/0.png"
    said = foveate("predict", finished, picture, "--clip", tmp_path / "other")
    assert said.code == 2
    _one_line(said.err, (str(finished), "was trained on", str(tmp_path / "other"), "--clip"))
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps({**config, "clip": str(tmp_path / "gone")}))
    said = foveate("predict", finished, picture)
    assert said.code == 2
    _one_line(said.err, (str(tmp_path / "gone"), "no such file or folder", "--clip"))
    assert foveate("predict", finished, picture, "--clip", clip_folder).code == 0


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"identity": {}, "run": {"photos": 3}, "chosen": null}']
)
def test_a_damaged_run(foveate: Call, refused: Call, finished: Path, content: str):
    (finished / "run.json").write_text(content)
    said = foveate("evaluate", finished)
    assert said.code == 2
    _one_line(said.err, (str(finished / "run.json"), "damaged", "delete"))
    refused(finished.parent / "data/photos", *COOP, says=(str(finished / "run.json"), "damaged"))


def test_a_damaged_state(refused: Call, finished: Path):
    data = finished.parent / "data"
    (finished / "config.json").unlink()
    state = finished / "stages/coop.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    said = refused(data / "photos", "--masks", data / "masks", says=(str(state), "damaged", "delete it"))
    assert said
    state.unlink()


def test_a_model_that_is_not_there(foveate: Call, tmp_path: Path):
    for command in (("predict", tmp_path / "no", "a.jpg"), ("evaluate", tmp_path / "no")):
        said = foveate(*command)
        assert said.code == 2
        _one_line(said.err, (str(tmp_path / "no"), "no such folder"))


# --- asking ---


def test_what_predict_is_asked_about(foveate: Call, finished: Path, tmp_path: Path):
    said = foveate("predict", finished, "https://example.org/cat.jpg")
    assert said.code == 2
    _one_line(said.err, ("https://example.org/cat.jpg is a web address: fetch the picture first",))
    (tmp_path / "new").mkdir()
    shutil.copy(finished.parent / "data/photos/red disc/0.png", tmp_path / "new")
    (tmp_path / "new" / "IMG_1.JP2").touch()
    said = foveate("predict", finished, tmp_path / "new")
    assert said.code == 0
    assert "IMG_1.JP2 left out: formats that are not read (1 .jp2)" in " ".join(said.err.split())


def test_photos_that_cannot_be_asked_about(foveate: Call, finished: Path, tmp_path: Path):
    good = finished.parent / "data/photos/red disc/0.png"
    (tmp_path / "zero.jpg").write_bytes(b"")
    (tmp_path / "void").mkdir()
    for photo, says in (
        (tmp_path / "no.jpg", "does not exist"),
        (tmp_path / "zero.jpg", "0 bytes"),
        (tmp_path / "void", "has no pictures"),
    ):
        said = foveate("predict", finished, good, photo)
        assert (said.code, said.out) == (2, "")
        _one_line(said.err, (str(photo), says))
    said = foveate(
        "predict", finished, good, tmp_path / "zero.jpg", tmp_path / "no.jpg", "--on-bad", "skip", "--json"
    )
    assert said.code == 0
    assert [answer["photo"] for answer in json.loads(said.out)] == [str(good)]
    assert "note: left out 2 of 3 pictures\n" in said.err
    said = foveate("predict", finished, tmp_path / "zero.jpg", "--on-bad", "skip")
    assert (said.code, said.out) == (2, "")
    _one_line(said.err, (str(tmp_path / "zero.jpg"), "none of 1 pictures"))


def test_names_that_cannot_be_asked_about(foveate: Call, finished: Path):
    photo = finished.parent / "data/photos/red disc/0.png"
    said = foveate("predict", finished, photo, "--only")
    assert said.code == 2
    _one_line(said.err, ("--only", "--classes"))
    said = foveate("predict", finished, photo, "--classes", "wombat" * 50)
    assert said.code == 2
    _one_line(said.err, ("wombatwombat", "shorten the name"))


def test_bad_test_pictures(foveate: Call, finished: Path):
    held_out = finished.parent / "data/photos"
    whole = foveate("evaluate", finished, "--json")
    total = json.loads(whole.out)["fvgpt+coop"]["base"]["pictures"]
    assert total == 3  # of 3 a class, 2 were drawn
    for picture in held_out.rglob("*.png"):
        if picture.parent.name == "red disc":
            picture.write_bytes(b"")
    said = foveate("evaluate", finished)
    assert said.code == 2
    _one_line(said.err, ("red disc", "0 bytes", "--on-bad skip"))
    said = foveate("evaluate", finished, "--on-bad", "skip", "--json")
    assert json.loads(said.out)["fvgpt+coop"]["base"]["pictures"] == 2
    assert "note: left out 1 of 3 pictures\n" in said.err


def test_nothing_to_measure_on(foveate: Call, finished: Path, tmp_path: Path):
    said = foveate("evaluate", finished, "--split", "new")
    assert said.code == 2
    _one_line(said.err, ("no pictures of new classes", "--classes base"))
    for picture in (finished.parent / "data/photos").rglob("2.png"):
        picture.unlink()
    said = foveate("evaluate", finished)
    assert said.code == 2
    _one_line(said.err, ("nothing is left to test on", "--data"))
    (finished.parent / "data").rename(tmp_path / "moved")
    said = foveate("evaluate", finished)
    assert said.code == 2
    _one_line(said.err, ("no such", "--data"))
    assert foveate("evaluate", finished, "--data", tmp_path / "moved/photos").code == 0


def test_shift_without_masks(foveate: Call, finished: Path):
    photos = finished.parent / "data/photos"
    said = foveate("evaluate", finished, "--data", photos, "--shift")
    assert said.code == 2
    _one_line(said.err.partition("\n")[2], ("shift", "--masks"))  # after the note on pictures learned from


def test_an_untrained_classifier_does_not_guess(clip_folder: Path, shapes: Callable[..., Path]):
    photo = shapes("red disc", pictures=1) / "photos/red disc/0.png"
    with pytest.raises(InputError, match="learned nothing yet"):
        Classifier("coop", clip_folder).predict(photo, classes=["disc", "box"])
    with pytest.raises(InputError, match="no names to choose from"):
        Classifier("zeroshot", clip_folder).predict(photo)
    assert Classifier("zeroshot", clip_folder).predict(photo, classes=["disc", "box"])[0].branch == "new"


def test_photos_in_memory_are_refused_in_the_same_words(clip_folder: Path, shapes: Callable[..., Path]):
    photos = shapes("red disc", pictures=1) / "photos/red disc/0.png"
    with pytest.raises(InputError, match="one class only, 'disc'"):
        Classifier("coop", clip_folder).fit(Photos(("disc",), (Sample(photos, 0),)), shots=1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_log_is_named():
    journal = Journal(Path("/dev/full"))
    journal.event({"a": 1})
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        journal.flush()


# --- the page that lists all this ---


def _fixed(text: str) -> list[str]:
    """What is the same in every message of this kind: no names, numbers, paths, options."""
    plain = re.sub(r"'[^']*'|--[\w.-]+|[\w/…]*…[\w./]*|\d[\w.,]*", "…", text)
    pieces = (piece.strip() for piece in re.split(r"…|[:;,()]", plain))
    return [piece for piece in pieces if len(piece) > 8]


def _strings(source: Path) -> Iterator[str]:
    """Every string of a module, with … where something is put in."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_the_page_of_errors_quotes_what_is_said():
    root = Path(inspect.getfile(InputError)).parent
    said = [piece for source in root.rglob("*.py") for text in _strings(source) for piece in _fixed(text)]
    page = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ")
        for line in page.splitlines()
        if line.startswith("| ") and "what is wrong" not in line
    ]
    assert len(rows) > 50
    wrong: list[tuple[str, str]] = []
    for what, quoted, *_ in rows:
        pieces = [piece for quote in re.findall(r"`([^`]+)`", quoted) for piece in _fixed(quote)]
        by_system = (os.strerror(errno.ENOSPC), os.strerror(errno.EACCES))
        wrong += [
            (what, one) for one in pieces if one not in by_system and not any(one in text for text in said)
        ]
    assert not wrong
