"""`foveate masks`: what people type, what they get, and what they are told when something is wrong."""

import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from foveate.commands.proposer_options import constructor_arguments, part_of, proposer_settings
from foveate.data.jobs import mask_jobs
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.evaluate.mask_scores import iou, masks_of, overlap
from foveate.files import write_atomically
from foveate.foreground import store as store_module
from foveate.foreground.proposers import registry
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.proposers.registry import PROPOSERS, demand
from foveate.foreground.store import read_manifest
from foveate.world.photos import scene_photos

Call = Callable[..., object]


class Colour(Proposer):
    """Finds what has much colour.

    Args:
        least: Difference between channels that counts as colour.
        grow: Add the pixels around.
        like: Which look.
        clip: What every proposer may take.
    """

    name, batch = "colour", 4

    def __init__(self, least: int = 100, *, grow: bool = False, like: str | None = None, clip: str = "none"):
        self.least, self.grow, self.clip = least, grow, clip

    @property
    def key(self) -> dict[str, object]:
        return {"least": self.least}

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        return [self._one(request.picture) for request in requests]

    def _one(self, picture: Image.Image) -> Proposal:
        pixels = np.asarray(picture).astype(int)
        return Proposal(pixels.max(-1) - pixels.min(-1) > self.least, 0.5)


class Reader(Colour):
    """Wants a text."""

    name, reads_text = "reader", True

    def _one(self, picture: Image.Image) -> Proposal:
        return Proposal(np.ones((picture.height, picture.width), bool), 0.25)


class Needy(Colour):
    """Cannot do without.

    Args:
        weights: Its weights.
    """

    name = "needy"

    def __init__(self, weights: Path):
        demand("u2net", self.name, "a_module_that_nobody_has")
        super().__init__()


@pytest.fixture(autouse=True)
def proposers(monkeypatch: pytest.MonkeyPatch):
    """Three proposers of our own beside clip-self and classical; the others' libraries are not asked for."""
    module = ModuleType("foveate.foreground.proposers.tried")
    module.Colour, module.Reader, module.Needy = Colour, Reader, Needy
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [*PROPOSERS]:
        if name not in ("clip-self", "classical"):
            monkeypatch.delitem(PROPOSERS, name)
    for kind in (Colour, Reader, Needy):
        monkeypatch.setitem(PROPOSERS, kind.name, f"tried:{kind.__name__}")


@pytest.fixture
def lay(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture with a red box at each path, below one new folder."""

    def write(*paths: str) -> Path:
        for path in paths:
            pixels = np.full((20, 30, 3), 90, np.uint8)
            pixels[5:15, 5:20] = 250, 20, 20
            file = tmp_path / "photos" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        return tmp_path / "photos"

    return write


def _tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _lines(out: str) -> dict[str, list[str]]:
    return {line.split("\t")[0]: line.split("\t")[1:] for line in out.splitlines()}


# --- settings ---


def test_settings_of_proposers_are_read_from_their_constructors():
    settings = proposer_settings()["colour"]()
    assert (settings.least, settings.grow, settings.like) == (100, False, None)
    assert not hasattr(settings, "clip")  # one option for all
    assert "least: Difference between" in (type(settings).__doc__ or "")
    assert part_of("clip-self") == "clip_self"


def test_settings_that_all_may_take_go_to_those_that_do():
    common = {"clip": "x", "device": "cpu"}
    assert constructor_arguments("colour", {"least": 3}, common) == {"clip": "x", "least": 3}
    with pytest.raises(InputError, match=r"needy needs --needy\.weights"):
        constructor_arguments("needy", {}, common)


# --- making ---


def test_masks_of_class_folders_are_what_fit_reads(foveate: Call, shapes, tmp_path):
    data = shapes(pictures=3)
    said = foveate("masks", data / "photos", "--proposer", "colour", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    made = _lines(said.out)["colour"]
    assert made[:4] == ["9", "0", "0", "0"]
    assert 0.05 < float(made[4]) < 0.3
    assert float(made[5]) == 0.5
    photos = load_photos(data / "photos", masks=tmp_path / "out")
    assert all(sample.mask is not None for sample in photos.samples)
    assert photos.mask_values == "binary255"
    with Image.open(tmp_path / "out/red disc/0.png") as mask:
        assert mask.mode == "1"
    for name in ("contact.html", "contact.png", "quality.json"):
        assert (tmp_path / "out/_report" / name).stat().st_size
    again = foveate("masks", data / "photos", "--proposer", "colour", "--out", tmp_path / "out")
    assert _lines(again.out)["colour"][:4] == ["0", "9", "0", "0"]


def test_fit_learns_from_them(foveate: Call, shapes, tmp_path, clip_folder):
    data = shapes(pictures=3)
    words = ("--shots", 2, "--seed", 3)
    said = foveate("masks", data / "photos", "--proposer", "colour", "--out", tmp_path / "m", *words)
    assert _lines(said.out)["colour"][0] == "6"
    learning = ("--masks", tmp_path / "m", "--clip", clip_folder, "--epochs", 1, *words)
    said = foveate("fit", data / "photos", "--out", tmp_path / "run", *learning)
    assert said.code == 0, said.err


def test_fit_takes_whole_pictures_where_nothing_was_found(foveate: Call, shapes, tmp_path, clip_folder):
    photos = shapes(pictures=2) / "photos"
    Image.new("RGB", (40, 32), (60, 60, 60)).save(photos / "red disc/0.png")
    said = foveate("masks", photos, "--proposer", "colour", "--out", tmp_path / "m")
    assert _lines(said.out)["colour"][3] == "1"
    learning = ("--masks", tmp_path / "m", "--clip", clip_folder, "--epochs", 1, "--shots", 2)
    said = foveate("fit", photos, "--out", tmp_path / "run", *learning)
    assert said.code == 0, said.err


@pytest.mark.slow
def test_several_processes_make_the_same_masks(foveate: Call, shapes, tmp_path):
    for module in ("cv2", "skimage", "scipy"):
        pytest.importorskip(module)
    photos = shapes(pictures=3) / "photos"
    for workers in (1, 2):
        words = ("--proposer", "classical", "--workers", workers, "--out", tmp_path / str(workers))
        said = foveate("masks", photos, *words)
        assert said.code == 0, said.err
        assert _lines(said.out)["classical"][0] == "9"
    one, two = (_tree(tmp_path / name) for name in ("1", "2"))
    assert len(one) == 9 + 5
    page = "_report/contact.html"  # has the folder's name
    assert {**one, page: b""} == {**two, page: b""}


@pytest.mark.parametrize("where", ["photos/masks", "beside"])
def test_a_flat_folder_works_for_a_proposer_that_reads_no_text(foveate: Call, shapes, tmp_path, where):
    flat = tmp_path / "photos"
    flat.mkdir()
    for row, file in enumerate(sorted((shapes(pictures=2) / "photos").rglob("*.png"))):
        Image.open(file).save(flat / f"{row}.jpg", quality=95)
    for kept in ("0", "6"):
        said = foveate("masks", flat, "--proposer", "colour", "--out", tmp_path / where)
        assert said.code == 0, said.err
        assert _lines(said.out)["colour"][1] == kept
    assert [record.label for record in read_manifest(tmp_path / where)] == [""] * 6
    assert len([*(tmp_path / where).glob("*.png")]) == 6


@pytest.mark.parametrize("proposer", ["clip-self", "reader"])
def test_a_flat_folder_and_a_proposer_that_reads_texts(foveate: Call, lay, tmp_path, proposer):
    flat = lay("1.png", "2.png")
    said = foveate("masks", flat, "--proposer", proposer, "--out", tmp_path / "out")
    assert said.code == 2
    assert said.err.startswith(f"foveate: {flat / '1.png'}: {proposer} must be told what to look for, and")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_several_proposers_have_a_folder_each(foveate: Call, shapes, tmp_path):
    data = shapes(pictures=2)
    said = foveate("masks", data / "photos", "--proposer", "colour,reader", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert {"colour", "reader"} <= _lines(said.out).keys()
    for name in ("colour", "reader"):
        assert (tmp_path / "out" / name / "blue box/1.png").is_file()
        assert load_photos(data / "photos", masks=tmp_path / "out" / name).samples[0].mask is not None


def test_masks_within_the_photos_are_no_class_the_next_time(foveate: Call, shapes):
    photos = shapes(pictures=2) / "photos"
    for made, kept in (("6", "0"), ("0", "6")):
        said = foveate("masks", photos, "--proposer", "colour,reader", "--out", photos / "found")
        assert _lines(said.out)["reader"][:2] == [made, kept], said.err


def test_settings_reach_the_proposer_and_are_kept(foveate: Call, shapes, tmp_path):
    data = shapes(pictures=2)
    words = ("masks", data / "photos", "--proposer", "colour", "--out", tmp_path / "out")
    assert foveate(*words, "--colour.least", 254).code == 0
    assert all(record.fallback for record in read_manifest(tmp_path / "out"))
    said = foveate(*words)
    assert said.code == 2
    assert "holds masks made otherwise (least was 254, now 100): choose another --out" in said.err


def test_half_of_the_classes(foveate: Call, shapes, tmp_path):
    words = ("--proposer", "colour", "--classes", "base", "--out", tmp_path / "out")
    said = foveate("masks", shapes(pictures=2) / "photos", *words)
    assert _lines(said.out)["colour"][0] == "4"


def test_what_to_look_for(foveate: Call, shapes, tmp_path):
    photos = shapes("pug", "tabby cat", pictures=1) / "photos"
    wanted = {
        (): {"pug", "tabby cat"},
        ("--template", "a photo of a {}."): {"a photo of a pug.", "a photo of a tabby cat."},
        ("--prompts", "OxfordPets"): {"the pet in the middle"},
        ("--prompts", "caltech101"): {"a huge pug", "a huge tabby cat"},
    }
    for row, (words, prompts) in enumerate(wanted.items()):
        out = tmp_path / str(row)
        assert foveate("masks", photos, "--proposer", "reader", "--out", out, *words).code == 0
        assert {record.prompt for record in read_manifest(out)} == prompts
    said = foveate("masks", photos, "--proposer", "reader", "--out", tmp_path / "0", "--prompts", "DTD")
    assert said.code == 2
    assert "--prompts knows no data set 'DTD'; there are Food101" in said.err


def test_a_sentence_without_the_name_suffices_where_no_names_are_known(foveate: Call, lay, tmp_path):
    words = ("--proposer", "reader", "--prompts", "OxfordPets", "--out", tmp_path / "out")
    assert foveate("masks", lay("1.png", "2.png"), *words).code == 0


def test_packed_masks_are_read_as_the_tree_is(foveate: Call, shapes, tmp_path):
    data = shapes(pictures=2)
    words = ("masks", data / "photos", "--proposer", "colour", "--pack", tmp_path / "packed")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/masks-00000.tar").write_bytes(b"stopped")
    assert foveate(*words, "--out", tmp_path / "out").code == 0
    photos = load_photos(data / "photos", masks=tmp_path / "packed")
    assert all(sample.mask is not None for sample in photos.samples)
    said = foveate(*words, "--out", tmp_path / "other")
    assert said.code == 2
    assert "holds packed masks already" in said.err
    assert not (tmp_path / "other").exists()


# --- comparing ---


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Drawn scenes as files: `photos` and their exact masks, `truth`."""
    photos = scene_photos(["red star", "blue circle"], 3, seed=5)
    for row, sample in enumerate(photos.samples):
        name = f"{photos.names[sample.label]}/{row}.png"
        for kind, picture in (("photos", sample.picture), ("truth", sample.mask)):
            file = tmp_path / kind / name
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.load().save(file)
    return tmp_path


def test_two_proposers_against_exact_masks(foveate: Call, world):
    words = ("--compare", world / "truth", "--out", world / "out", "--colour.least", 60)
    said = foveate("masks", world / "photos", "--proposer", "colour,reader", *words)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert "mean IoU\tcolour\treader" in lines
    assert "proposer\tmean IoU\tIoU > 0.5\tmean r*, zero-shot CLIP tiny" in lines
    saved = json.loads((world / "out/_report/compare.json").read_text())
    truth = [np.asarray(Image.open(file)) > 0 for file in sorted((world / "truth").rglob("*.png"))]
    for name in ("colour", "reader"):
        found = sorted((world / "out" / name).glob("[!_]*/*.png"))
        ious = [iou(np.asarray(Image.open(file)), exact) for file, exact in zip(found, truth, strict=True)]
        assert saved["proposers"][name]["mean_iou"] == pytest.approx(np.mean(ious))
        assert saved["proposers"][name]["above_half"] == np.mean([one > 0.5 for one in ious])
        blue = saved["proposers"][name]["classes"]["blue circle"]
        assert blue == pytest.approx(np.mean(ious[:3]))
    assert f"blue circle\t{blue:.3f}" not in lines
    assert any(line.startswith("blue circle\t") and line.endswith(f"\t{blue:.3f}") for line in lines)
    # The full picture is no better than the picture itself: its reliability target is 0 throughout.
    assert saved["proposers"]["reader"]["trust"] == 0
    assert 0 <= saved["proposers"]["(exact masks)"]["trust"] <= 1


def test_the_gate_of_a_model_is_asked_for_its_trust(foveate: Call, world):
    fitted = ("--masks", world / "truth", "--epochs", 1, "--out", world / "run")
    assert foveate("fit", world / "photos", *fitted).code == 0
    words = ("--model", world / "run", "--proposer", "colour", "--out", world / "out")
    said = foveate("masks", world / "photos", *words)
    assert said.code == 0, said.err
    assert f"proposer\tmean r, gate of {world / 'run'}" in said.out.splitlines()
    trust = json.loads((world / "out/_report/compare.json").read_text())["proposers"]["colour"]["trust"]
    assert 0 < trust < 1


def test_a_model_without_a_gate(foveate: Call, world):
    assert foveate("fit", world / "photos", "--method", "zeroshot", "--out", world / "run").code == 0
    said = foveate(
        "masks", world / "photos", "--model", world / "run", "--proposer", "colour", "--out", "out"
    )
    assert said.code == 2
    assert "is 'zeroshot' and has no foreground gate: give a model of fvgpt" in said.err


def test_a_home_folder_of_nobody_is_no_folder():
    with pytest.raises(InputError, match="~no-such-user/photos: no such file or folder"):
        mask_jobs("~no-such-user/photos")


def test_exact_masks_that_are_not_there(foveate: Call, world):
    words = ("--compare", world / "photos/red star", "--proposer", "colour", "--out", world / "out")
    assert "no such folder of masks" in foveate("masks", world / "photos", *words[2:], "--compare", "x").err
    (world / "other").mkdir()
    said = foveate("masks", world / "photos", *words[2:], "--compare", world / "other")
    assert said.code == 2
    assert "no mask in it matches a picture; expected, for instance," in said.err
    assert not (world / "out").exists()


def test_an_exact_mask_overlaps_itself_wholly(world):
    jobs = mask_jobs(world / "photos")
    truth = masks_of(jobs, world / "truth")
    same = overlap(truth, truth)
    assert same.all == (1.0,) * 6
    assert (same.mean, same.share_above(0.5), set(same.by_class)) == (1.0, 1.0, {"red star", "blue circle"})


def test_intersection_over_union():
    one, other = np.zeros((2, 4, 4), bool)
    assert iou(one, other) == 1
    one[:2], other[1:] = True, True
    assert iou(one, other) == pytest.approx(4 / 16)
    assert iou(one, ~one) == 0


# --- mistakes ---


def test_masks_that_are_there_already(foveate: Call, shapes, tmp_path):
    folder = shapes(pictures=2)
    first = sorted((folder / "masks").rglob("*.png"))[0]
    first.unlink()
    words = ("masks", folder / "photos", "--proposer", "files", "--tree", folder / "masks")
    for made in ("6", "0"):
        said = foveate(*words, "--out", tmp_path / "m")
        assert said.code == 0, said.err
        assert "pictures with a mask: 5 of 6" in said.err
        assert _lines(said.out)["files"][0] == made
        records = {record.name: record for record in read_manifest(tmp_path / "m")}
        assert len(records) == 6
        assert sum(record.fallback for record in records.values()) == 1
    for name, record in records.items():
        made = np.asarray(Image.open(tmp_path / "m" / record.file))
        given = (folder / "masks" / name).with_suffix(".png")
        assert np.array_equal(made, np.asarray(Image.open(given)) > 0) if given.exists() else made.all()


def test_an_unknown_proposer(foveate: Call, shapes, tmp_path):
    said = foveate("masks", shapes() / "photos", "--proposer", "color", "--out", tmp_path / "out")
    assert (said.code, said.err) == (2, "foveate: there is no proposer 'color'; did you mean 'colour'?\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--proposer", "colour,colour"), "--proposer has 'colour' twice"),
        (("--proposer", ","), "--proposer names none: give some of files, clip-self"),
        (
            ("--proposer", "files"),
            "--proposer files and --tree, the masks that are there already, go together",
        ),
        (("--proposer", "colour", "--tree", "x"), "go together"),
        (("--proposer", "files", "--tree", "/not/there"), "--tree /not/there: no such folder of masks"),
        (("--proposer", "colour", "--reader.least", "3"), "settings for 'reader', but --proposer is colour"),
        (("--proposer", "colour", "--colour.lest", "3"), "did you mean --colour.least?"),
        (("--proposer", "colour", "--workers", "0"), "--workers is 0: give 1 or more"),
        (("--proposer", "needy"), "needy needs --needy.weights"),
        (("--template", "no name", "--proposer", "colour"), "0 times {} for the name"),
        (("--template", "a {}", "--prompts", "DTD", "--proposer", "colour"), "leave one out"),
        (("--prompts", "Caltech10", "--proposer", "colour"), "did you mean 'Caltech101'?"),
        (("--shots", "0", "--proposer", "colour"), "shots is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_one_line(foveate: Call, shapes, tmp_path, words, line):
    said = foveate("masks", shapes() / "photos", "--out", tmp_path / "out", *words)
    assert said.code == 2
    assert line in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_names_the_install(foveate: Call, shapes, tmp_path):
    words = ("--proposer", "needy", "--needy.weights", "w.pt", "--out", tmp_path / "out")
    said = foveate("masks", shapes() / "photos", *words)
    assert said.code == 2
    assert said.err.endswith("which is not installed: pip install 'foveate[u2net]'\n")


def test_a_cluster_without_ray_is_no_wish(foveate: Call, shapes, tmp_path):
    words = ["masks", shapes() / "photos", "--proposer", "colour", "--ray-address", "head:1"]
    said = foveate(*words, "--out", tmp_path / "out")
    assert (said.code, said.err) == (2, "foveate: --ray-address is for Ray: give --ray too\n")
    assert not (tmp_path / "out").exists()


def test_ray_that_is_not_installed(foveate: Call, shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda module: None if module == "ray" else object())
    said = foveate("masks", shapes() / "photos", "--proposer", "colour", "--ray", "--out", tmp_path / "out")
    line = "foveate: --ray needs ray, which is not installed: pip install 'foveate[ray]'\n"
    assert (said.code, said.err) == (2, line)
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_in_the_middle(foveate: Call, shapes, tmp_path):
    photos = shapes(pictures=4) / "photos"
    (photos / "green disc/2.png").write_bytes(b"text")
    words = ("masks", photos, "--proposer", "colour", "--out", tmp_path / "out")
    said = foveate(*words)
    assert said.code == 2
    assert said.err.startswith(
        f"foveate: {photos / 'green disc/2.png'}: is not a picture in a format we read"
    )
    assert said.err.endswith("(7 of 12 masks are there, and the same command goes on)\n")
    said = foveate(*words, "--on-bad", "skip")
    assert said.code == 0, said.err
    assert _lines(said.out)["colour"][:3] == ["4", "7", "1"]
    assert "colour: without 1 of 12 pictures" in said.err


def test_a_full_disk(foveate: Call, shapes, tmp_path, monkeypatch):
    def full(path: Path, content: bytes | str) -> None:
        if path.name == "1.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_atomically(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    said = foveate("masks", shapes() / "photos", "--proposer", "colour", "--out", tmp_path / "out")
    assert said.code == 2
    assert said.err.startswith(
        f"foveate: {tmp_path / 'out/blue box/1.png'}: No space left on device; make room,"
    )


def test_one_proposers_folder_is_not_shared_with_several(foveate: Call, shapes, tmp_path):
    photos = shapes(pictures=1) / "photos"
    assert foveate("masks", photos, "--proposer", "colour", "--out", tmp_path / "out").code == 0
    said = foveate("masks", photos, "--proposer", "colour,reader", "--out", tmp_path / "out")
    assert said.code == 2
    assert "those of several go into folders of their own" in said.err


def test_pictures_that_no_mask_can_be_kept_for(foveate: Call, lay, tmp_path):
    photos = lay("a/1.png", "b/1.png")
    (tmp_path / "list.csv").write_text("image,label\nphotos/a/1.png,cat\nphotos/a/1.png,dog\n")
    said = foveate("masks", tmp_path / "list.csv", "--proposer", "colour", "--out", tmp_path / "out")
    assert said.code == 2
    assert "a/1.png has two labels, 'cat' and 'dog': keep one" in said.err
    (tmp_path / "list.csv").write_text("image,label\nphotos/a/1.png,cat\nphotos/../photos/b/1.png,dog\n")
    said = foveate("masks", tmp_path / "list.csv", "--proposer", "colour", "--out", tmp_path / "out")
    assert said.code == 0, said.err
    assert {record.name for record in read_manifest(tmp_path / "out")} == {"photos/a/1.png", "photos/b/1.png"}
    said = foveate("masks", photos, "--images", tmp_path, "--proposer", "colour", "--out", tmp_path / "o2")
    assert said.code == 0, said.err
