"""Looking at a whole set: every figure from its own function, cases, the page, the curve."""

import base64
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveate.clip.model import Clip, Vision
from foveate.commands.explaining import CurvePoint, draw_curves, shift_curve
from foveate.data.loader import PictureSet
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.explain import gaze, lift, outlined, remove, shift_index
from foveate.explain.gallery import Shown, changed, gallery, mistakes, shown
from foveate.explain.maps import How
from foveate.explain.measure import LookConfig, Looks, look
from foveate.foreground.views import foreground_view
from foveate.methods.base import Method
from foveate.methods.registry import build
from foveate.world.photos import scene_photos

NAMES = ("red star", "blue ring", "green heart")
VOID = {"meta", "img", "br"}


@pytest.fixture
def pictures() -> PictureSet:
    """Six scenes of 32 px; the last has no mask."""
    photos = scene_photos(NAMES, 2, 1)
    *masked, last = photos.samples
    return PictureSet(photos.with_samples([*masked, replace(last, mask=None)]), 32)


@pytest.fixture(params=["zeroshot", "fvgpt+coop"])
def method(request: pytest.FixtureRequest, tiny_clip: Clip) -> Method:
    method = build(request.param, tiny_clip)
    method.set_classes(NAMES)
    return method


# --- looking ---


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_each_figure_is_what_its_function_says(method: Method, pictures: PictureSet, batch_size: int):
    config = LookConfig(how="gradcam", layer=-2, tau=1.5, fill="black", steps=3)
    told: list[tuple[int, int]] = []
    seen = look(
        method, pictures, "base", config, batch_size=batch_size, watch=lambda *done: told.append(done)
    )
    batch = next(pictures.batches(None, 6))
    with torch.no_grad():
        logits = method.logits(method.features(batch.images))
        cut = foreground_view(batch.images, batch.masks, "black")
        without = method.logits(method.features(cut))
    answers = logits.argmax(-1)
    heat = gaze(method, batch.images, answers, how="gradcam", layer=-2)
    close = {"rtol": 1e-3, "atol": 1e-5}
    torch.testing.assert_close(seen.logits, logits, **close)
    torch.testing.assert_close(seen.heat, heat, **close)
    assert seen.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(seen.explained, answers)
    shift = shift_index(logits, without, 1.5)
    torch.testing.assert_close(seen.figures["shift"][:5], shift[:5], **close)
    torch.testing.assert_close(seen.figures["lift"][:5], lift(heat, batch.masks)[:5], **close)
    for name in ("shift", "energy", "lift", "pointing", "overlap"):
        assert seen.figures[name].isnan().tolist() == [False] * 5 + [True]
    gone = remove(method, batch.images, answers, heat, steps=3, fill="black")
    torch.testing.assert_close(seen.figures["deletion"], gone.deletion, **close)
    torch.testing.assert_close(seen.figures["insertion"], gone.insertion, **close)
    assert seen.passes == 1 + 1 + gone.passes
    assert told[-1] == (6, 6)


def test_without_masks_their_figures_are_not_there(method: Method, pictures: PictureSet):
    plain = [replace(s, mask=None) for s in pictures.photos.samples]
    seen = look(method, PictureSet(pictures.photos.with_samples(plain), 32), "base", LookConfig(steps=0))
    assert seen.figures == {}
    assert seen.passes == 1
    assert set(seen.means()) == {"accuracy"}


def test_it_asks_about_the_answer_the_label_or_one_class(method: Method, pictures: PictureSet):
    answer, label, ring = (
        look(method, pictures, "base", LookConfig(about=about, steps=0))
        for about in ("answer", "label", "blue ring")
    )
    assert torch.equal(answer.explained, answer.answers)
    assert torch.equal(label.explained, label.labels)
    assert ring.explained.tolist() == [1] * 6
    batch = next(pictures.batches(None, 6))
    expected = gaze(method, batch.images, torch.ones(6, dtype=torch.long))
    torch.testing.assert_close(ring.heat, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"about": "heron"}, "class 'heron' is none of those asked about: red star, blue ring, green heart"),
        ({"layer": 7}, "layer is 7"),
        ({"steps": -1}, "steps is -1"),
        ({"tau": 0.0}, "tau is 0.0"),
    ],
)
def test_what_cannot_be_asked(tiny_clip: Clip, pictures: PictureSet, changes: dict[str, object], says: str):
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    with pytest.raises(InputError, match=re.escape(says)):
        look(method, pictures, "base", LookConfig(**changes))


def test_no_pictures(tiny_clip: Clip):
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    with pytest.raises(InputError, match="no pictures to look at"):
        look(method, PictureSet(Photos(NAMES, ()), 32), "base", LookConfig())


@pytest.mark.parametrize("how", ["hirescam", "gradcam", "rollout"])
@pytest.mark.parametrize("about", ["answer", "label", "blue ring"])
def test_the_gaze_and_the_answer_are_of_one_pass(
    method: Method, pictures: PictureSet, monkeypatch: pytest.MonkeyPatch, how: How, about: str
):
    batch = next(pictures.batches(None, 6))
    with torch.no_grad():
        logits = method.logits(method.features(batch.images))
    rows: list[int] = []
    encode = Vision.encode
    monkeypatch.setattr(
        Vision, "encode", lambda self, x, *a, **k: rows.append(len(x)) or encode(self, x, *a, **k)
    )
    plain = pictures.photos.with_samples([replace(s, mask=None) for s in pictures.photos.samples])
    seen = look(method, PictureSet(plain, 32), "base", LookConfig(how=how, about=about, steps=0))
    assert rows == [6]
    torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-5)
    asked = {"answer": logits.argmax(-1), "label": batch.labels, "blue ring": torch.ones(6).long()}[about]
    assert torch.equal(seen.explained, asked)
    monkeypatch.setattr(Vision, "encode", encode)
    torch.testing.assert_close(seen.heat, gaze(method, batch.images, asked, how=how), rtol=1e-4, atol=1e-6)


# --- cases ---


def said(method: str, p_of_label: Sequence[float], **figures: Tensor) -> Looks:
    """Answers to pictures of class 0 among two."""
    p = torch.tensor(p_of_label, dtype=torch.float32)
    logits = torch.stack([p, 1 - p], 1).log()
    answers = logits.argmax(1)
    heat = torch.full((len(p), 4, 4), 1 / 16)
    return Looks(
        method, ("heron <grey>", "owl"), logits, torch.zeros_like(answers), answers, heat, figures, 2
    )


CLIP = said("zeroshot", [0.1, 0.4, 0.9, 0.8, 0.45])
COOP = said("coop", [0.6, 0.9, 0.2, 0.7, 0.3])
FVGPT = said("fvgpt+coop", [0.6, 0.3, 0.9, 0.7, 0.2])


def test_mistakes_the_surest_first():
    group = mistakes(FVGPT, 9)
    assert (group.title, group.indices, group.number) == ("fvgpt+coop is wrong", [4, 1], 2)
    assert mistakes(FVGPT, 1).indices == [4]


def test_repaired_and_broken_pictures_the_largest_change_first():
    groups = changed([CLIP, COOP, FVGPT], 9)
    assert [(group.title, group.indices, group.number) for group in groups] == [
        ("zeroshot wrong, coop right", [0, 1], 2),  # by 0.5 and by 0.5: in order
        ("zeroshot right, coop wrong", [2], 1),
        ("coop wrong, fvgpt+coop right", [2], 1),
        ("coop right, fvgpt+coop wrong", [1], 1),
    ]
    later = said("coop", [0.6, 0.95, 0.2, 0.7, 0.3])
    assert changed([CLIP, later], 1)[0].indices == [1]
    assert changed([CLIP, later], 1)[0].number == 2
    assert changed([CLIP], 9) == []


def test_means_leave_out_what_has_no_number():
    looks = said("coop", [0.9, 0.1, 0.8], energy=torch.tensor([0.5, 0.25, math.nan]))
    assert looks.means() == {"accuracy": pytest.approx(200 / 3), "energy": pytest.approx(0.375)}
    assert looks.means(looks.right) == {"accuracy": 100, "energy": 0.5}
    assert looks.means(torch.tensor([False, False, True]))["energy"] is None
    assert looks.means(torch.zeros(3, dtype=torch.bool)) == {"accuracy": None, "energy": None}


def test_what_is_shown_is_the_view_that_was_seen():
    wide = Image.new("RGB", (120, 40), "green")
    wide.paste((255, 0, 0), (40, 0, 80, 40))  # the middle square
    mask = Image.new("L", (120, 40))
    mask.paste(255, (40, 0, 60, 40))  # its left half
    sample = Sample(MemoryPicture(wide, "wide"), 0, MemoryPicture(mask, "its mask"))
    one = shown(PictureSet(Photos(("a",), (sample,), "binary255"), 32), 0, 80)
    assert (one.name, one.picture.size) == ("wide", (80, 80))
    assert (np.asarray(one.picture)[:, 4:-4] == (255, 0, 0)).all()
    assert one.mask.shape == (32, 32)
    assert one.mask[:, :16].all()
    assert not one.mask[:, 16:].any()


def test_the_outline_runs_along_the_inside():
    mask = torch.zeros(8, 8)
    mask[2:6, 2:6] = 1
    drawn = np.asarray(outlined(Image.new("RGB", (80, 80), "white"), mask, 2)).astype(int)
    line = (drawn == (0, 229, 255)).all(-1)
    expected = np.zeros((80, 80), bool)
    expected[20:60, 20:60] = True
    expected[22:58, 22:58] = False
    assert (line == expected).all()
    assert (drawn[22:58, 22:58] == 255).all()
    assert (drawn[:18] == 255).all()


# --- the page ---


class Page(HTMLParser):
    """Reads a page and holds it to be well-formed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str]]):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag

    def handle_data(self, data: str):
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] for one, attrs in self.seen if one == tag and name in attrs]


def page_of(chain: Sequence[Looks]) -> Page:
    picture, mask = Image.new("RGB", (50, 50), "navy"), torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    text = gallery(
        "What <it> repairs",
        ["5 pictures & more"],
        [["method", "accuracy"], ["coop", "60.00"]],
        chain,
        [mistakes(chain[-1], 9), *changed(chain, 9)],
        lambda place: Shown(f'{place}<"&>.jpg', picture, mask if place else None),
        "How <it> was measured",
    )
    return Page(text)


def test_the_page_has_every_case_once_in_its_place():
    page = page_of([CLIP, COOP, FVGPT])
    assert page.texts["h1"] == ["What <it> repairs"]
    assert page.texts["title"] == ["What <it> repairs"]
    assert page.texts["p"] == ["5 pictures & more"]
    assert page.texts["h2"] == [
        "fvgpt+coop is wrong (2)",
        "zeroshot wrong, coop right (2)",
        "zeroshot right, coop wrong (1)",
        "coop wrong, fvgpt+coop right (1)",
        "coop right, fvgpt+coop wrong (1)",
    ]
    assert page.texts["small"] == [f'{place}<"&>.jpg' for place in (4, 1, 0, 1, 2, 2, 1)]
    assert page.texts["h3"] == ["heron <grey>"] * 7
    assert page.texts["footer"] == ["How <it> was measured"]
    assert page.texts["td"] == ["coop", "60.00"]
    assert set(page.attributes("a", "href")) == {f"#{one}" for one in page.attributes("h2", "id")}


def test_each_case_shows_the_picture_and_three_gazes():
    page = page_of([CLIP, COOP, FVGPT])
    pictures = page.attributes("img", "src")
    assert len(pictures) == 7 * 4
    assert all(page.attributes("img", "alt"))
    for source in pictures:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (168, 168)
    captions = page.texts["figcaption"]
    assert captions[:2] == ["the picture, its object outlined", "zeroshot:"]
    assert captions.count("the picture, its object outlined") == 6  # all but picture 0 have a mask
    assert page.texts["b"][:6] == ["owl"] * 3 + ["owl", "heron <grey>", "owl"]
    assert page.attributes("b", "class")[:6] == ["wrong"] * 3 + ["wrong", "right", "wrong"]


def test_a_group_without_pictures_says_so():
    same = page_of([CLIP, replace(CLIP, method="coop")])
    assert same.texts["p"] == ["5 pictures & more", "None.", "None."]
    assert page_of([CLIP]).texts["h2"] == ["zeroshot is wrong (3)"]


def test_a_caption_tells_what_was_asked_and_how_much_is_on_the_object():
    asked = replace(
        COOP, explained=torch.zeros(5, dtype=torch.long), figures={"energy": torch.full((5,), 0.256)}
    )
    captions = page_of([CLIP, asked]).texts["figcaption"]
    assert "26 % on the object" in captions
    assert "asked about heron <grey>" in captions  # where that was not the answer


# --- the curve ---


def test_bins_have_equally_many_pictures_in_the_order_of_the_shift():
    shift = torch.tensor([0.4, 0.1, math.nan, 0.2, 0.3, 0.9])
    right = torch.tensor([True, True, False, True, False, False])
    low, high = shift_curve(shift, right, 2)
    assert (low.shift, low.accuracy, low.pictures) == (pytest.approx(0.2), pytest.approx(200 / 3), 3)
    assert (high.shift, high.accuracy, high.pictures) == (pytest.approx(0.65), 50, 2)
    assert (low.low, low.high) == (pytest.approx(20.77, abs=0.01), pytest.approx(93.85, abs=0.01))
    assert [point.pictures for point in shift_curve(shift, right, 99)] == [1] * 5
    assert shift_curve(torch.full((3,), math.nan), torch.ones(3, dtype=torch.bool)) == []


def test_the_curve_is_drawn():
    pytest.importorskip("matplotlib")
    curves = {
        name: [CurvePoint(0.1, 90.0, 80.0, 95.0, 10), CurvePoint(1.0, 50.0, 40.0, 60.0, 10)]
        for name in ("a", "b")
    }
    with Image.open(io.BytesIO(draw_curves(curves, "title"))) as image:
        colours = {tuple(c) for c in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # a line each


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.foreground.proposers.registry.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install 'foveate[plots]'")):
        draw_curves({})
