"""The pages: all in one file, each number that is a link leads to its pictures, and names are escaped."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from foveate.classifier import Classifier


def whole(page: Path) -> str:
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!#|data:image/jpeg;base64,)', text)  # nothing from elsewhere
    assert "<script" not in text
    links = set(re.findall(r'href="#([^"]+)"', text))
    assert links <= set(re.findall(r'id="([^"]+)"', text))
    return text


@pytest.fixture
def data(shapes: Callable[..., Path]) -> Path:
    return shapes("red <b>disc", "blue box", pictures=5)


def test_what_is_taken_for_what(
    data: Path, clip_folder: Path, tmp_path: Path, foveate: Callable[..., object]
):
    options = {"shots": 2, "recipe": {"epochs": 1, "batch_size": 4}, "out": tmp_path / "out"}
    Classifier("coop", clip_folder).fit(data / "photos", **options)
    page = tmp_path / "page.html"
    said = foveate("evaluate", tmp_path / "out", "--report", page)
    assert said.code == 0, said.err
    assert "base: " in said.out
    text = whole(page)
    assert "&lt;b&gt;disc" in text
    numbers = [int(number) for number in re.findall(r'<a href="#c\d+-\d+">(\d+)</a>', text)]
    assert sum(numbers) == 6  # of 5 a class, 2 were drawn
    assert text.count("<img") >= 2 * len(numbers)
    said = foveate("evaluate", tmp_path / "out", "--report", tmp_path / "nowhere" / "page.html")
    assert (said.code, "there is no folder" in said.err) == (2, True)


def test_what_is_wrong_with_photos(data: Path, tmp_path: Path, foveate: Callable[..., object]):
    first = data / "photos/blue box/0.png"
    (data / "photos/blue box/twin.png").write_bytes(first.read_bytes())
    (data / "photos/blue box/broken.png").write_bytes(b"")
    said = foveate("check", data / "photos", "--report", tmp_path / "page.html")
    assert said.code == 0, said.err
    text = whole(tmp_path / "page.html")
    assert "Pictures that cannot be read (1)" in text
    assert "The same picture twice" in text
    assert text.count("<img") >= 2
