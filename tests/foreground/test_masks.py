"""One decoder for every kind of mask: the same foreground, however it was written down."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw, ImageOps

from foveate.foreground.checks import fit_mask
from foveate.foreground.opening import BadPicture
from foveate.foreground.values import detect_values, looks_like_mask, read_mask


def ellipses(number, size=(96, 72)):
    """Masks of one ellipse each, somewhere in the picture."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(number):
        image = Image.new("1", size)
        x, y = rng.integers(2, 40), rng.integers(2, 30)
        ImageDraw.Draw(image).ellipse((x, y, x + 25 + rng.integers(20), y + 20 + rng.integers(15)), fill=1)
        masks.append(np.asarray(image))
    return masks


TRUTH = ellipses(6)


def border(inside):
    """A frame two pixels wide around the object, as VOC's void is."""
    padded = np.pad(inside, 2)
    grown = np.zeros_like(inside)
    for down in range(5):
        for across in range(5):
            grown |= padded[down : down + inside.shape[0], across : across + inside.shape[1]]
    return grown & ~inside


def labelled(inside, label, void):
    return np.where(inside, label, np.where(void & border(inside), 255, 0)).astype(np.uint8)


def voc_palette():
    """Colours of VOC's kind: 0 is black, 255 is pale, the others are neither black nor white."""
    palette = [(7 * i % 200 + 20, 11 * i % 200 + 20, 13 * i % 200 + 20) for i in range(256)]
    palette[0], palette[255] = (0, 0, 0), (224, 224, 192)
    return [value for colour in palette for value in colour]


def in_palette(indices):
    image = Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
    image.putpalette(voc_palette())
    return image


def smooth(inside):
    """An antialiased copy: drawn at four times the size and shrunk."""
    large = Image.fromarray(np.where(inside, 255, 0).astype(np.uint8)).resize(
        (384, 288), Image.Resampling.BICUBIC
    )
    return large.resize((96, 72), Image.Resampling.BOX)


def white(inside):
    return Image.fromarray(np.where(inside, 255, 0).astype(np.uint8))


WRITERS = {
    "0/255": (lambda m, n: white(m), "png", "binary255"),
    "0/1": (lambda m, n: Image.fromarray(m.astype(np.uint8)), "png", "binary1"),
    "1-bit": (lambda m, n: Image.fromarray(m), "png", "binary255"),
    "index": (lambda m, n: Image.fromarray(labelled(m, 3 + n, void=False)), "png", "index"),
    "index and void": (lambda m, n: Image.fromarray(labelled(m, 3 + n, void=True)), "png", "index_void255"),
    "VOC palette": (lambda m, n: in_palette(labelled(m, 3 + n, void=True)), "png", "index_void255"),
    "palette 0/1": (lambda m, n: in_palette(m.astype(np.uint8)), "png", "binary1"),
    "black and white palette": (lambda m, n: white(m).convert("P"), "png", "binary255"),
    "RGB": (lambda m, n: white(m).convert("RGB"), "png", "binary255"),
    "red on black": (
        lambda m, n: Image.merge("RGB", [white(m), *[white(m & False)] * 2]),
        "png",
        "binary255",
    ),
    "16 bit": (lambda m, n: Image.fromarray(np.where(m, 65535, 0).astype(np.uint16)), "png", "binary255"),
    "JPEG": (lambda m, n: white(m), "jpg", "binary255"),
    "JPEG RGB": (lambda m, n: white(m).convert("RGB"), "jpg", "binary255"),
    "cut-out": (lambda m, n: Image.merge("LA", [Image.new("L", (96, 72), 90), white(m)]), "png", "binary255"),
    "soft": (lambda m, n: smooth(m), "png", "soft"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_decodes_to_the_same_foreground(tmp_path, kind):
    write, suffix, expected = WRITERS[kind]
    paths = [tmp_path / f"{number}.{suffix}" for number in range(len(TRUTH))]
    for number, (path, inside) in enumerate(zip(paths, TRUTH, strict=True)):
        write(inside, number).save(path)
    values = detect_values(paths)
    assert values == expected
    for path, inside in zip(paths, TRUTH, strict=True):
        mask = read_mask(path, values)
        assert mask.mode == "L"
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
        wrong = ((np.asarray(mask) > 0) != inside).mean()
        assert wrong <= (0.01 if kind in ("soft", "JPEG", "JPEG RGB") else 0), kind


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("scale", [1, 255])
def test_arrays(tmp_path, dtype, scale):
    inside = TRUTH[0]
    array = (inside * scale).astype(dtype)
    np.save(tmp_path / "a.npy", array[None])
    np.savez_compressed(tmp_path / "b.npz", other=np.zeros(3), mask=array)
    np.savez(tmp_path / "c.npz", array[..., None])
    for path in sorted(tmp_path.iterdir()):
        mask = read_mask(path, detect_values([path]))
        assert np.array_equal(np.asarray(mask) > 0, inside), path.name


def test_probabilities(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 101, dtype=np.float32).reshape(1, 101))
    mask = np.asarray(read_mask(tmp_path / "a.npy", detect_values([tmp_path / "a.npy"])))
    assert (mask > 0).sum() == 51, "one half and above"


def test_arrays_that_are_no_masks(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3)))
    np.savez(tmp_path / "b.npz", x=np.zeros((4, 4)), y=np.zeros((4, 4)))
    (tmp_path / "c.npy").write_bytes(b"nothing")
    np.save(tmp_path / "d.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(tmp_path / "e.npy", np.array([["a"]]))
    np.save(tmp_path / "f.npy", np.zeros((0, 4)))
    _huge(tmp_path / "g.npy", (2 * 10**13,))
    _huge(tmp_path / "h.npy", (10**5, 10**5))
    with zipfile.ZipFile(tmp_path / "i.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "h.npy", "mask.npy")
    np.savez_compressed(tmp_path / "j.npz", mask=np.random.default_rng(0).integers(0, 2, (40, 40)))
    raw = (tmp_path / "j.npz").read_bytes()
    (tmp_path / "j.npz").write_bytes(raw[:90] + b"\xff" * 20 + raw[110:])
    (tmp_path / "k.npz").mkdir()
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(BadPicture, match=path.name) as caught:
            read_mask(path, "binary1")
        assert "\n" not in str(caught.value)


def _huge(path, shape):
    """The head of an array that is larger than what follows."""
    with path.open("wb") as file:
        head = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, head)
        file.write(bytes(100))


def test_arrays_are_known_by_their_content(tmp_path):
    np.save(tmp_path / "a.npy", TRUTH[0])
    np.savez(tmp_path / "b.npz", np.asfortranarray(TRUTH[0]))
    (tmp_path / "a.npy").rename(tmp_path / "c.npz")
    (tmp_path / "b.npz").rename(tmp_path / "d.npy")
    for path in sorted(tmp_path.iterdir()):
        assert np.array_equal(np.asarray(read_mask(path)) > 0, TRUTH[0])


def test_inverting_leaves_void_background(tmp_path):
    values = np.array([[0, 7, 255]], dtype=np.uint8)
    plain = read_mask(Image.fromarray(values), "index_void255")
    inverted = read_mask(Image.fromarray(values), "index_void255", invert=True)
    assert np.asarray(plain).tolist() == [[0, 255, 0]]
    assert np.asarray(inverted).tolist() == [[255, 0, 0]]
    assert np.asarray(read_mask(Image.fromarray(values), "binary255", invert=True)).tolist() == [
        [255, 255, 0]
    ]


@given(arrays(bool, (9, 7)))
def test_auto_and_given_meaning_agree_on_binary_masks(inside):
    mask = white(inside)
    assert np.array_equal(np.asarray(read_mask(mask)), np.asarray(read_mask(mask, "binary255")))
    assert np.array_equal(np.asarray(read_mask(mask)) > 0, inside)
    flipped = read_mask(mask, "binary255", invert=True)
    assert np.array_equal(np.asarray(flipped) == 0, inside)


def test_the_meaning_is_decided_for_the_whole_set():
    """An index map that shows only void and background looks binary alone, and is empty among its kind."""
    only_void = Image.fromarray(
        labelled(np.zeros((8, 8), bool), 0, void=False) + np.uint8(255) * np.eye(8, dtype=np.uint8)
    )
    others = [Image.fromarray(labelled(inside, 4, void=True)) for inside in TRUTH]
    assert detect_values([only_void]) == "binary255"
    values = detect_values([only_void, *others])
    assert values == "index_void255"
    assert np.asarray(read_mask(only_void, values)).max() == 0


def test_unreadable_masks_do_not_hinder_detection(tmp_path):
    Image.fromarray(TRUTH[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    assert detect_values([tmp_path / "b.png", tmp_path / "a.png"]) == "binary255"
    with pytest.raises(BadPicture, match=r"b\.png"):
        detect_values([tmp_path / "b.png"])


def test_what_looks_like_a_mask(real_pictures):
    assert all(looks_like_mask(Image.fromarray(m)) for m in TRUTH)
    assert looks_like_mask(smooth(TRUTH[0]))
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert not looks_like_mask(Image.fromarray(noise))
    assert not any(looks_like_mask(path) for path in real_pictures)


@pytest.fixture
def real_pictures():
    folder = Path(__file__).parents[2] / ".." / "shared" / "data" / "caltech101"
    return sorted(folder.rglob("bonsai/*.jpg")) + sorted(folder.rglob("cougar_face/*.jpg"))


# Bringing a mask to its picture's size


def test_fit_leaves_a_fitting_mask_alone():
    mask = Image.fromarray(TRUTH[0]).convert("L")
    assert fit_mask(mask, mask.size) is mask


@given(st.integers(10, 400), st.integers(10, 400), st.sampled_from([0.25, 0.5, 2.0, 3.0]))
def test_fit_resizes_the_same_shape(width, height, factor):
    small = (max(1, int(width * factor)), max(1, round(height * factor)))
    ratio = (small[0] / width) / (small[1] / height)
    if not 0.9 < ratio < 1.1:
        return
    mask = Image.new("L", small, 255)
    mask.paste(0, (0, 0, max(1, small[0] // 2), small[1]))
    fitted = fit_mask(mask, (width, height))
    assert fitted.size == (width, height)
    assert set(np.unique(np.asarray(fitted))) <= {0, 255}


@pytest.mark.parametrize(
    ("mask", "picture", "words"),
    [
        ((480, 640), (640, 480), "mask m.png is 480x640, picture p.jpg is 640x480; was one of them rotated"),
        ((240, 320), (640, 480), "rotated"),
        ((224, 224), (640, 480), "another shape"),
        ((3, 3), (300, 200), "another shape"),
    ],
)
def test_fit_refuses_other_shapes(mask, picture, words):
    with pytest.raises(ValueError, match=words):
        fit_mask(Image.new("L", mask), picture, mask_name="m.png", picture_name="p.jpg")


@pytest.mark.parametrize("code", [5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 2])
def test_fit_turns_along_with_exif(code, scale):
    """A mask of the stored pixels is turned exactly as Pillow turns the picture."""
    stored = Image.fromarray(TRUTH[1]).convert("L")
    exif = Image.Exif()
    exif[0x0112] = code
    stored.info["exif"] = exif.tobytes()
    upright = ImageOps.exif_transpose(stored)
    large = upright.resize((upright.width * scale, upright.height * scale), Image.Resampling.NEAREST)
    fitted = fit_mask(Image.fromarray(TRUTH[1]).convert("L"), large.size, orientation=code)
    assert np.array_equal(np.asarray(fitted), np.asarray(large))


def test_a_masks_own_exif_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(TRUTH[0]).convert("L").save(tmp_path / "a.png", exif=exif)
    assert read_mask(tmp_path / "a.png", "binary255").size == (72, 96)
