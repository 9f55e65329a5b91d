"""Photos: cutting, relabelling, and a digest that travels."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data.checks import repeated
from foveate.data.samples import MemoryPicture, Photos, Sample, as_pictures
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import open_picture


def photos(root: str = "/a/photos", mask: str | None = None) -> Photos:
    samples = [
        Sample(
            Path(f"{root}/{name}/{number}.jpg"), label, mask and Path(f"{mask}/{name}/{number}.png"), split
        )
        for label, name in enumerate(("cat", "dog", "eel"))
        for number, split in enumerate(("train", "train", "val", "test"))
    ]
    return Photos(("cat", "dog", "eel"), tuple(samples))


def test_split_keeps_names():
    part = photos().split("train", "val")
    assert part.names == ("cat", "dog", "eel")
    assert part.counts() == {"cat": 3, "dog": 3, "eel": 3}
    assert len(photos().split(None)) == 0


def test_only_relabels_in_the_order_given():
    part = photos().only([2, 0])
    assert part.names == ("eel", "cat")
    assert [s.label for s in part.samples] == [1] * 4 + [0] * 4
    assert {s.picture.parent.name for s in part.samples if s.label == 0} == {"eel"}


def test_digest_knows_the_set_and_not_the_place():
    assert photos("/a/photos").digest() == photos("/mnt/b/photos").digest()
    assert photos().digest() != photos().only([0, 1]).digest()
    assert photos().digest() != photos().with_samples(photos().samples[::-1]).digest()
    renamed = Photos(("cat", "dog", "conger"), photos().samples)
    assert photos().digest() != renamed.digest()


def test_digest_with_and_without_masks():
    bare, masked = photos(), photos(mask="/m")
    assert bare.digest() == masked.digest()
    assert bare.digest(masks=True) != masked.digest(masks=True)
    assert masked.digest(masks=True) == photos(mask="/elsewhere/m").digest(masks=True)
    inverted = Photos(masked.names, masked.samples, invert_masks=True)
    assert inverted.digest(masks=True) != masked.digest(masks=True)


def test_lazy_pictures_have_names():
    sample = Sample(MemoryPicture(Image.new("RGB", (2, 2)), "row 1"), 0)
    assert sample.name == "row 1"
    assert Photos(("a",), (sample,)).digest() != Photos(("a",), ()).digest()


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (("a", "a"), 0, "two classes are called 'a'"),
        (("a", " "), 0, "empty name"),
        (("a",), 1, "label 1 is none"),
    ],
)
def test_what_is_no_set(names, label, message):
    with pytest.raises(InputError, match=message):
        Photos(names, (Sample(Path("x.jpg"), label),))


def test_pictures_of_every_type(noise, tmp_path):
    image = noise(12, 8)
    pixels, stream = np.asarray(image), io.BytesIO()
    image.save(stream, "PNG")
    image.save(tmp_path / "a.png")
    stream.seek(0)
    tensor = torch.tensor(pixels).permute(2, 0, 1)
    given = [
        *(tmp_path / "a.png", str(tmp_path / "a.png"), image, pixels, pixels / np.float32(255)),
        *(tensor, tensor / 255, (tensor / 255).to(torch.float64), pixels.astype(np.int64)),
        *(stream.getvalue(), stream, (tmp_path / "a.png").open("rb")),
    ]
    for picture in as_pictures(given):
        assert np.array_equal(np.asarray(open_picture(picture)), pixels)
    given[-1].close()
    assert [one.name for one in as_pictures(given[:4])[2:]] == ["picture 2", "picture 3"]
    for single in (image, pixels, tensor, stream.getvalue(), str(tmp_path / "a.png")):
        assert len(as_pictures(single)) == 1
    assert len(as_pictures(np.stack([pixels, pixels]))) == 2
    assert open_picture(as_pictures(pixels[..., 0])[0]).size == (12, 8)
    with pytest.raises(BadPicture, match="picture 0: is not a picture in a format"):
        open_picture(as_pictures(b"hello")[0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        *((5, "picture 0 is of type int"), (None, "of type NoneType"), ({"a": 1}, "of type dict")),
        *(([["a.png"]], "picture 0 is of type list"), (["a.png", 3], "picture 1 is of type int")),
        *(([""], "picture 0 is an empty path"), (["https://a/b.png"], "a web address: fetch")),
        *(
            (np.zeros((4, 4, 5)), "shape (4, 4, 5)"),
            (np.zeros(3), "shape (3,)"),
            (np.zeros((0, 4, 3)), "shape (0"),
        ),
        *((np.array([["a"]]), "type list"), (torch.linspace(-2, 2, 48).reshape(3, 4, 4), "not normalised")),
        *((np.full((4, 4, 3), np.nan), "not normalised"), (np.full((4, 4), 300), "from 300 to 300")),
    ],
)
def test_what_is_no_picture_is_told_by_its_type(given, says):
    with pytest.raises(InputError) as caught:
        as_pictures(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_picture_in_two_places_is_told_of(lay):
    root = lay("a/1.png", "a/2.png", "b/3.png")
    samples = [Sample(root / path, label) for label, path in ((0, "a/1.png"), (0, "a/2.png"), (1, "b/3.png"))]
    assert repeated(Photos(("a", "b"), tuple(samples))) == []
    (root / "b/3.png").write_bytes((root / "a/1.png").read_bytes())
    (root / "a/2.png").write_bytes((root / "a/1.png").read_bytes())
    assert repeated(Photos(("a", "b"), tuple(samples))) == [
        f"{root}/a/1.png and {root}/b/3.png are the same picture, in two labels; there are 1 such pairs"
    ]


def test_an_array_of_paths_is_a_list_of_them():
    for given in (np.array(["a.png", "b.png"]), np.array([Path("a.png"), "b.png"], dtype=object)):
        assert as_pictures(given) == [Path("a.png"), Path("b.png")]
