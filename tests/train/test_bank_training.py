"""Training out of a bank is training without one, faster; and runs share what their towers say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip, Vision
from foveate.data.loader import PictureSet
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.methods.frozen import CLIP, extract, frozen_specs
from foveate.methods.registry import backbones, build, pairs, plugins, stages
from foveate.train import banking
from foveate.train.banking import BankPlan, StageBatches, chunk_on, open_bank, training_pictures
from foveate.train.context import Context
from foveate.train.journal import Reporter, Step
from foveate.train.recipe import Recipe, recipe_for
from foveate.train.run import run_stages
from foveate.types import Batch

pytestmark = pytest.mark.usefixtures("few_sentences")

QUICK = {"epochs": 3, "warmup_epochs": 1, "batch_size": 4}
PLUGGED = ["fvgpt+coop", "fvgpt+kgcoop", "fvgpt+promptsrc", "fvgpt+mmrl"]
EVERY = [*backbones(), *(pair for pair in pairs() if pair.startswith("fvgpt+"))]
Run = Callable[..., SimpleNamespace]


def telling(**heard: Callable[..., None]) -> Reporter:
    """Return a reporter that hands on what it hears: telling(step=...)."""
    reporter = Reporter()
    vars(reporter).update(heard)
    return reporter


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    return shapes(pictures=4)


@pytest.fixture
def run(data: Path, tiny_clip: Clip) -> Run:
    """All stages of a method on nine pictures (so that each epoch drops one); its losses and tensors."""

    def call(
        method: str, plan: BankPlan | None = None, clip: Clip = tiny_clip, seed: int = 1, **more: object
    ):
        photos = load_photos(data / "photos", masks=data / "masks")
        photos = photos.with_samples(photos.samples[:9])
        steps: list[Step] = []
        recipe = recipe_for(method, {**QUICK, **more.pop("recipe", {})})
        watch = more.pop("on_step", None)

        def told(stage: str, total: int, step: Step) -> None:
            steps.append(step)
            if watch:
                watch(stage, total, step)

        context = Context(telling(step=told, note=more.pop("on_note", lambda _: None)))
        options = {"seed": seed, "bank": plan, "context": context, **more}
        built = run_stages(method, clip, photos, recipe, **options)
        return SimpleNamespace(steps=steps, method=built, learned=built.learned())

    return call


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures in each pass of the image tower."""
    sizes: list[int] = []
    tokens = Vision.tokens

    def counted(self: Vision, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return tokens(self, images)

    monkeypatch.setattr(Vision, "tokens", counted)
    return sizes


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each picture that is decoded."""
    rows: list[int] = []
    item = PictureSet.item

    def counted(self: PictureSet, index: int, epoch: int | None = None, exchanged: bool = False):
        rows.append(index)
        return item(self, index, epoch, exchanged)

    monkeypatch.setattr(PictureSet, "item", counted)
    return rows


def losses(steps: list[Step]) -> Tensor:
    return torch.tensor([list(step.losses.values()) for step in steps], dtype=torch.float64)


# --- the same numbers ---


@pytest.mark.parametrize(
    ("method", "where"),
    [
        *((method, "disk") for method in ("coop", "kgcoop", "prograd", "promptsrc", "mmrl", *PLUGGED)),
        *((method, "memory") for method in ("coop", "mmrl", "fvgpt+mmrl")),
    ],
)
def test_a_bank_changes_no_loss(run: Run, tmp_path: Path, method: str, where: str):
    plain = run(method)
    banked = run(method, BankPlan(tmp_path if where == "disk" else None))
    again = run(method, BankPlan(tmp_path if where == "disk" else None))
    assert len(plain.steps) == 3 * 2 * len(stages(method))
    for one in (banked, again):
        for stage in range(len(stages(method))):
            mine, theirs = (losses(steps[6 * stage : 6 * stage + 6]) for steps in (one.steps, plain.steps))
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
        for name, tensor in plain.learned.items():
            torch.testing.assert_close(one.learned[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", EVERY)
def test_every_method_promises_what_it_sees(tiny_clip: Clip, method: str):
    built = build(method, tiny_clip)
    built.set_classes(["cat", "dog"])
    g = torch.Generator().manual_seed(0)
    masks = (torch.rand(3, 1, 32, 32, generator=g) > 0.5).float()
    batch = Batch(torch.randn(3, 3, 32, 32, generator=g), torch.tensor([0, 1, 0]), masks, torch.ones(3))
    seen, keys = extract(built, batch), frozen_specs(built)
    assert seen.keys() == keys.keys()
    for name, origin in keys.items():
        assert seen[name].shape == (origin.heads, 3, origin.dim), name
        if origin.what == CLIP:
            torch.testing.assert_close(seen[name][0], tiny_clip.vision(batch.images))
    other = Batch(batch.images, batch.labels, 1 - masks, batch.areas)
    for name, tensor in extract(built, other).items():
        assert torch.equal(tensor, seen[name]) != keys[name].masked, name


@pytest.mark.parametrize("name", [name for name, part in plugins().items() if not part.joint])
def test_what_is_there_is_not_encoded_again(tiny_clip: Clip, looks: list[int], name: str):
    built = build(f"{name}+mmrl", tiny_clip)
    built.set_classes(["cat", "dog"])
    masks = torch.ones(3, 1, 32, 32)
    masks[..., :16] = 0
    exchanged = torch.randn(3, 3, 32, 32)
    batch = Batch(torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 0]), masks, exchanged=exchanged)
    whole = extract(built, batch)
    passes = {"image", "foreground", "background", "clip", "exchanged"} & whole.keys()
    for there in ({"image"}, {"image", "clip"}, {"foreground"}, set(whole)):
        looks.clear()
        held = {name: whole[name] for name in there & whole.keys()}
        rest = extract(built, replace(batch, frozen=held))
        for key in whole.keys() - there:
            torch.testing.assert_close(rest[key], whole[key])
        assert sum(looks) == 3 * len(passes - there)


@pytest.mark.parametrize(("precision", "near"), [(torch.bfloat16, 0.02), (torch.float64, 1e-12)])
def test_towers_of_other_precision(
    run: Run, tiny_clip: Clip, tmp_path: Path, precision: torch.dtype, near: float
):
    tiny_clip.to(precision)
    plain, banked = run("fvgpt+kgcoop"), run("fvgpt+kgcoop", BankPlan(tmp_path))
    for stage in (slice(0, 6), slice(6, 12)):
        mine, theirs = losses(banked.steps[stage]), losses(plain.steps[stage])
        torch.testing.assert_close(mine, theirs, rtol=near, atol=near)


def test_half_precision_is_close(run: Run, tmp_path: Path):
    plain, half = run("coop"), run("coop", BankPlan(tmp_path, "float16"))
    torch.testing.assert_close(losses(half.steps), losses(plain.steps), rtol=1e-2, atol=1e-2)
    assert not torch.equal(losses(half.steps), losses(plain.steps))


# --- nothing twice ---


def test_both_stages_see_each_picture_once(run: Run, looks: list[int], decoded: list[int], tmp_path: Path):
    run("fvgpt+coop", BankPlan(tmp_path))
    assert sum(looks) == 3 * (9 + 9)  # three epochs, of pictures and of foregrounds
    assert len(decoded) == 3 * (9 + 9)  # once a stage: the second needs masks


@pytest.mark.parametrize("method", PLUGGED)
def test_a_second_run_asks_no_frozen_tower(
    run: Run, looks: list[int], decoded: list[int], tmp_path: Path, method: str
):
    backbone = run(method.partition("+")[2], BankPlan(tmp_path)).method.eval()
    run(method, BankPlan(tmp_path), backbone=backbone)
    for settings in ({}, {"adapter_hidden": 8, "gate_depth": 1}, {"terms": ("base",), "lambda_distill": 1.0}):
        looks.clear()
        decoded.clear()
        run(method, BankPlan(tmp_path), backbone=backbone, settings={"fvgpt": settings})
        assert (looks, decoded) == ([], [])
    run(method, BankPlan(tmp_path), backbone=backbone, settings={"fvgpt": {"fill": "black"}})
    assert sum(looks) == 3 * 9  # another foreground, of the same pictures


@pytest.mark.parametrize("method", ["promptsrc", "mmrl"])
def test_tuned_towers_need_pixels_but_no_untuned_tower(
    run: Run, looks: list[int], decoded: list[int], tmp_path: Path, method: str
):
    run(method, BankPlan(tmp_path))
    steps = 3 * 8 + 4  # nine pictures less one, three times; and the loss after the last step
    assert sum(looks) == steps + 3 * 9
    assert len(decoded) == 3 * 9
    looks.clear()
    run(method, BankPlan(tmp_path))
    assert sum(looks) == steps


def test_backbones_share_what_clip_says(run: Run, looks: list[int], tmp_path: Path):
    run("coop", BankPlan(tmp_path))
    looks.clear()
    for method in ("kgcoop", "prograd", "cocoop"):
        run(method, BankPlan(tmp_path))
    assert looks == []
    run("promptsrc", BankPlan(tmp_path))
    assert sum(looks) == 3 * 8 + 4  # its own tower alone


@pytest.mark.parametrize("name", ["coop", "fvgpt+zeroshot"])
def test_a_stage_without_a_bank_still_trains(run: Run, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(banking, "IN_MEMORY", 100)
    want = run(name)
    with pytest.warns(UserWarning, match=rf"{name[:4]}.*would take .* of memory.*out="):
        got = run(name, BankPlan())
    assert torch.equal(losses(got.steps), losses(want.steps))


def test_a_disk_without_room_is_told_before(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(banking.shutil, "disk_usage", lambda _: SimpleNamespace(free=999))
    with pytest.warns(UserWarning, match=r"coop: .* 3\.6 kB in .*bank, and 1\.0 kB are free.*--bank-dir"):
        run("coop", BankPlan(tmp_path / "bank"))
    assert not (tmp_path / "bank").exists()


def test_the_size_is_told_before(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(banking, "TELLING", 1)
    told: list[str] = []
    run("fvgpt+coop", BankPlan(tmp_path), on_note=told.append)
    image, numbers = 3 * 9 * 32 * 4, 3 * 9 * 4
    first, second = (image + numbers) / 1e3, (image + numbers) / 1e3  # areas of pictures, and of views
    assert told == [
        f"coop: features of all views will take {first:.1f} kB in {tmp_path}",
        f"fvgpt+coop: features of all views will take {second:.1f} kB in {tmp_path}",
    ]
    held = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert held > 1e3 * (first + second)
    told.clear()
    run("fvgpt+coop", BankPlan(tmp_path), on_note=told.append)
    assert told == []


# --- runs ---


@pytest.fixture
def fit(data: Path, clip_folder: Path) -> Callable[..., Classifier]:
    def call(method: str = "fvgpt+coop", **options: object) -> Classifier:
        given = {"masks": data / "masks", "shots": 3, "recipe": {"epochs": 3, "warmup_epochs": 0}, **options}
        return Classifier(method, clip_folder).fit(data / "photos", **given)

    return call


def _logged(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


class Stopped(Exception):
    """Ctrl-C."""


def stop_at(stage: str, number: int) -> Reporter:
    def told(name: str, total: int, step: Step) -> None:
        if (name, step.step) == (stage, number):
            raise Stopped

    return telling(step=told)


def test_a_run_keeps_its_bank_while_it_runs(fit: Callable[..., Classifier], tmp_path: Path):
    with pytest.raises(Stopped):
        fit(out=tmp_path / "out", reporter=stop_at("coop", 3))
    assert list((tmp_path / "out/.bank").rglob("epoch-001.safetensors"))
    fit(out=tmp_path / "out")
    assert not (tmp_path / "out/.bank").exists()
    (tmp_path / "out/.bank/0123456789abcdef").mkdir(parents=True)
    (tmp_path / "out/.bank/0123456789abcdef/epoch-000.safetensors").touch()
    fit(out=tmp_path / "out")  # finished, and stopped before it was cleared
    assert not (tmp_path / "out/.bank").exists()


@pytest.mark.parametrize(("first", "second"), [("off", "epochs"), ("epochs", "off"), ("epochs", "epochs")])
def test_a_run_may_go_on_with_a_bank_or_without(
    fit: Callable[..., Classifier], tmp_path: Path, first: str, second: str
):
    fit(out=tmp_path / "whole", bank="off")
    with pytest.raises(Stopped):
        fit(out=tmp_path / "out", bank=first, reporter=stop_at("fvgpt+coop", 4))
    fit(out=tmp_path / "out", bank=second)
    want, got = _logged(tmp_path / "whole"), _logged(tmp_path / "out")
    assert got == pytest.approx(want, rel=1e-5, abs=1e-5)
    if first == second:
        fit(out=tmp_path / "banked")
        assert got == _logged(tmp_path / "banked")  # to the bit


def test_a_folder_of_ones_own_stays_and_serves_others(
    fit: Callable[..., Classifier], tmp_path: Path, looks: list[int]
):
    fit(out=tmp_path / "out", bank_dir=tmp_path / "bank")
    # The calibration has one file: it reads no masks.
    assert len(list((tmp_path / "bank").rglob("epoch-*.safetensors"))) == 3 * 4 + 1
    looks.clear()
    fit(bank_dir=tmp_path / "bank")
    assert looks == []


def test_features_are_kept_for_later_runs(
    fit: Callable[..., Classifier], tmp_path: Path, looks: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "cache"))
    first = fit(out=tmp_path / "out")
    assert not (tmp_path / "out/.bank").exists()
    looks.clear()
    again = fit(out=tmp_path / "again")
    assert looks == []
    for mine, theirs in zip(first.method.parameters(), again.method.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    monkeypatch.setattr("foveate.train.run.KEPT", 0)  # the next run finds no room for earlier ones
    fit(out=tmp_path / "third")
    assert looks != []


def test_a_folder_of_caches_that_cannot_be_made_keeps_nothing(
    fit: Callable[..., Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOVEATE_CACHE", str(tmp_path / "file"))
    fit(out=tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()


def test_one_fixed_view_is_another_run(fit: Callable[..., Classifier], tmp_path: Path, looks: list[int]):
    drawn = fit(out=tmp_path / "drawn")
    looks.clear()
    fixed = fit(out=tmp_path / "fixed", bank="fixed")
    assert sum(looks) == 2 * 9  # each picture and each foreground once; the calibration reads the same
    assert fixed.config.recipe["augment"] == "none"
    assert drawn.config.recipe["augment"] == "rrc-flip"
    assert _logged(tmp_path / "drawn") != _logged(tmp_path / "fixed")
    plain = fit(
        out=tmp_path / "plain", bank="off", recipe={**{"epochs": 3, "warmup_epochs": 0}, "augment": "none"}
    )
    assert _logged(tmp_path / "fixed") == pytest.approx(_logged(tmp_path / "plain"), rel=1e-5)
    assert plain.config == fixed.config
    with pytest.raises(Stopped):
        fit(out=tmp_path / "out", reporter=stop_at("coop", 3))
    with pytest.raises(InputError, match=r"holds another run .recipe.augment was"):
        fit(out=tmp_path / "out", bank="fixed")
    with pytest.raises(InputError, match=r"bank is 'fixed'.*augment is 'squash': leave one out"):
        fit(bank="fixed", recipe={"augment": "squash"})


def test_other_precision_is_another_run(fit: Callable[..., Classifier], tmp_path: Path):
    with pytest.raises(Stopped):
        fit(out=tmp_path / "out", bank_dtype="float16", reporter=stop_at("coop", 3))
    with pytest.raises(InputError, match=r"holds another run .bank_dtype was .float16., now null"):
        fit(out=tmp_path / "out")


def test_a_run_that_cannot_go_on_leaves_no_bank(fit: Callable[..., Classifier], tmp_path: Path):
    with pytest.raises(InputError, match=r"gradient|loss"):
        fit("coop", out=tmp_path / "out", recipe={"epochs": 2, "lr": 1e30, "warmup_epochs": 0})
    assert not (tmp_path / "out/.bank").exists()


def test_rows_share_a_bank(
    foveate: Callable[..., object], data: Path, clip_folder: Path, tmp_path: Path, looks: list[int]
):
    (tmp_path / "rows.yaml").write_text(
        "method: fvgpt+coop\nepochs: 2\nshots: 3\nrows:\n"
        "  CoOp: {method: coop}\n  FVG-PT: {}\n  no gate: {fvgpt: {foreground_gate: false}}\n"
        "  KgCoOp: {method: kgcoop}\n  without: {bank: off, epochs: 1}\n"
    )
    words = ("--masks", data / "masks", "--config", tmp_path / "rows.yaml", "--clip", clip_folder)
    said = foveate("fit", data / "photos", *words, "--out", tmp_path / "out", "--row", "CoOp")
    assert said.code == 0, said.err
    assert sum(looks) == 2 * 9 + 9  # the last for the calibration
    assert foveate("fit", data / "photos", *words, "--out", tmp_path / "out", "--row", "FVG-PT").code == 0
    assert sum(looks) == 2 * (9 + 9) + 9
    for row in ("no gate", "KgCoOp"):
        assert foveate("fit", data / "photos", *words, "--out", tmp_path / "out", "--row", row).code == 0
    assert sum(looks) == 2 * (9 + 9) + 9
    assert foveate("fit", data / "photos", *words, "--out", tmp_path / "out", "--row", "without").code == 0
    assert sum(looks) > 2 * (9 + 9) + 9
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        ".bank",
        "backbone-coop-" + next((tmp_path / "out").glob("backbone-*")).name[-6:],
        "coop",
        "fvg-pt",
        "kgcoop",
        "no-gate",
        "without",
    ]
    assert not list((tmp_path / "out").glob("*/.bank"))


# --- on a feed's own ---


def test_batches_come_to_where_the_method_is(tiny_clip: Clip, data: Path):
    photos = load_photos(data / "photos")
    recipe = Recipe(batch_size=4)
    method = build("coop", tiny_clip)
    pictures = training_pictures(photos, tiny_clip.config, recipe, 1)
    told: list[tuple[str, int, int]] = []
    feed = StageBatches(
        "coop",
        method,
        pictures,
        recipe,
        open_bank(BankPlan(), pictures, tiny_clip),
        Context(telling(count=lambda *t: told.append(t))),
    )
    (batch, *_) = feed(0)
    assert batch.images.numel() == 0
    assert batch.frozen["image"].shape == (1, 4, 32)
    assert told == [("encoding views, coop", 12, 120)]
    list(feed(1))
    assert told[1:] == [("encoding views, coop", 24, 120)]


@pytest.mark.parametrize(("side", "pictures"), [(64, 64), (224, 16), (336, 7), (1000, 1)])
def test_large_pictures_are_decoded_a_few_at_a_time_on_a_cpu(side: int, pictures: int):
    with torch.device("meta"):
        clip = Clip(replace(ClipConfig(), image_size=side, patch_size=side // 4))
    clip.logit_scale = torch.nn.Parameter(torch.zeros(()))
    assert chunk_on(clip) == pictures
    clip.logit_scale = torch.nn.Parameter(torch.zeros((), device="meta"))  # as a GPU: not this memory
    assert chunk_on(clip) == 64
