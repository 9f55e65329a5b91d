"""Contact sheets: what a person must see of masks is there, worst first, and nothing of a name is run."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.contact import contact_sheet_html, contact_sheet_png, histogram_svg, with_outline
from foveate.foreground.quality import quality
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import MaskStore, read_manifest

LINE = (0, 229, 255)
NAMES = ["cat/1.png", "dog/2.png", "dog/3.png"]


@pytest.fixture
def made(tmp_path):
    """A set of masks on plain pictures: records, masks, photos. `made(name={...})` changes records."""

    def make(names=NAMES, **more):
        photos = tmp_path / "photos"
        with MaskStore.open(tmp_path / "masks", {}) as store:
            for number, name in enumerate(names):
                file = photos / name
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (120, 80), (60 * number, 200, 20)).save(file)
                mask = np.zeros((80, 120), bool)
                mask[20:60, 30 : 60 + 10 * number] = True
                score = 0.9 - 0.2 * number
                values = {"label": name.split("/")[0], "area": float(mask.mean()), "score": score} | more
                store.put(MaskRecord(name, "", 120, 80, **values), mask)
        return read_manifest(tmp_path / "masks"), tmp_path / "masks", photos

    return make


class Page(HTMLParser):
    """Tags with their attributes and the texts of a page; every tag that must be closed is."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("figure", "main", "svg", "select", "script", "style", "rect", "text", "table", "title"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, key):
        return [attrs.get(key) for name, attrs in self.tags if name == tag and key in attrs]


def test_the_page_shows_every_mask_worst_first_and_loads_nothing(made):
    html = contact_sheet_html(*made())
    page = Page(html)
    assert page.open == []
    assert page.all("img", "alt") == NAMES[::-1]
    assert page.all("figure", "data-label") == ["dog", "dog", "cat"]
    assert page.all("option", "value") == ["", "cat", "dog"]
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.all("img", "src"))
    assert not re.search(r"https?:|<link|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html
    assert any("score 0.50, area 0.21" in text for text in page.texts)


def test_thumbnails_show_the_outline_where_the_mask_is(made):
    html = contact_sheet_html(*made(["a/1.png"]), side=96)
    (source,) = Page(html).all("img", "src")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"), int)
    assert pixels.shape == (64, 96, 3)
    cyan = np.abs(pixels - LINE).sum(2) < 120  # JPEG blurs it
    across = np.flatnonzero(cyan[32])
    assert across.min() == pytest.approx(24, abs=2)  # 30 of 120 pixels, at 96
    assert across.max() == pytest.approx(47, abs=2)
    assert not cyan[:12].any()


def test_failures_are_marked(made):
    page = contact_sheet_html(*made(NAMES[:1], fallback=True, refined=True, score=0.0, prompt="a huge cat"))
    assert "<b>nothing found</b> score 0.00" in page
    assert ", refined" in page
    assert "“a huge cat”" in page


def test_names_are_text_and_nothing_else(made, tmp_path):
    name = "<b>\"'&amp;<script>alert(1).png"
    page = contact_sheet_html(*made([name], label='"><script>evil()', prompt="<i>"))
    assert "<script>evil" not in page
    assert "<script>alert" not in page
    assert Page(page).all("img", "alt") == [name]
    assert page.count("<script>") == 1


def test_names_in_another_encoding_can_be_written(made):
    records, folder, photos = made(["b\udcfcr.png"])
    contact_sheet_html(records, folder, photos).encode()
    assert contact_sheet_png(records, folder, photos).mode == "RGB"


def test_a_picture_that_is_gone_does_not_end_the_sheet(made):
    records, folder, photos = made()
    (photos / "dog/2.png").unlink()
    assert len(Page(contact_sheet_html(records, folder, photos)).all("img", "src")) == 3


def test_only_the_worst_are_shown_of_many(made):
    page = contact_sheet_html(*made(), most=2)
    assert Page(page).all("img", "alt") == NAMES[:0:-1]
    assert "2 of 3, worst first" in page


def test_the_numbers_of_the_set_stand_above(made):
    records, folder, photos = made()
    found = quality(records, folder, seed=4)
    page = contact_sheet_html(records, folder, photos, statistics=found)
    for what, value in found.rows(worst=0)[:7]:
        assert f"<th>{what}<td>{value}" in page
    assert histogram_svg(found.areas) in page


def test_bars_are_as_tall_as_their_counts():
    page = Page(histogram_svg([0, 10, 5, 0, 0, 0, 0, 0, 0, 1]))
    assert [float(tall) for tall in page.all("rect", "height")] == [0, 80, 40, 0, 0, 0, 0, 0, 0, 8]
    assert "0.1 to 0.2: 10" in page.texts
    assert page.open == []
    assert Page(histogram_svg([0] * 10)).all("rect", "height") == ["0.0"] * 10


def test_the_grid_has_a_place_for_each(made):
    records, folder, photos = made()
    sheet = contact_sheet_png(records, folder, photos, columns=2, side=100)
    assert sheet.size == (2 * 108 + 8, 2 * 142 + 8)
    colours = [sheet.getpixel(at) for at in ((10, 106), (118, 106), (10, 248), (118, 248))]
    assert colours[3] == (255, 255, 255)  # no fourth picture
    dimmed = np.asarray(colours[:3])
    assert (np.diff(dimmed[:, 0]) < 0).all()  # the worst has most red
    assert contact_sheet_png(records, folder, photos, number=1).size == (176, 210)


def test_a_spread_goes_from_worst_to_best(made):
    records, folder, photos = made([f"a/{number}.png" for number in range(4)])
    worst = contact_sheet_png(records, folder, photos, number=2, side=100)
    spread = contact_sheet_png(records, folder, photos, number=2, side=100, choose="spread")
    assert worst.getpixel((10, 106)) == spread.getpixel((10, 106))
    best = contact_sheet_png(records[:1], folder, photos, number=1, side=100)
    assert spread.getpixel((118, 106)) == best.getpixel((10, 106)) != worst.getpixel((118, 106))


def test_nothing_to_show_is_said(made):
    records, folder, photos = made()
    with pytest.raises(InputError, match="no masks"):
        contact_sheet_png([], folder, photos)
    (folder / records[0].file).unlink()
    with pytest.raises(InputError, match=re.escape(f"the mask of {records[0].name} is not there")):
        contact_sheet_png(records, folder, photos)


def test_the_line_is_inside_the_foreground_and_the_background_dimmed():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:30] = True  # to the right border
    pixels = np.asarray(with_outline(Image.new("RGB", (30, 20), (250, 0, 0)), mask))
    line = (pixels == LINE).all(2)
    assert (line <= mask).all()
    assert line[5:7, 10:].all()
    assert line[5:15, 28:].all()  # the border is where the foreground ends, too
    assert (pixels[8:12, 13:27] == (250, 0, 0)).all()
    assert pixels[0, 0, 0] < 200


def test_a_mask_of_everything_has_a_frame_and_one_of_nothing_has_none():
    picture = Image.new("RGB", (9, 9), (9, 9, 9))
    whole = np.asarray(with_outline(picture, np.ones((9, 9), bool)))
    assert (whole == LINE).all(2).sum() == 81 - 25
    assert not (np.asarray(with_outline(picture, np.zeros((9, 9), bool))) == LINE).all(2).any()
