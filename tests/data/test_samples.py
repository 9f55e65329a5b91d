"""Photos: cutting, relabelling, and a digest that travels."""

from pathlib import Path

import pytest
from PIL import Image

from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError


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
