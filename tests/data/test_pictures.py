"""Every kind of file a folder of photos may hold, and every way one can be broken."""

import contextlib
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from foveate.data.samples import MemoryPicture
from foveate.errors import InputError
from foveate.foreground.opening import BadPicture, exif_texts, orientation
from foveate.foreground.pictures import measure, open_picture


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff", "ppm"])
def test_plain_rgb_files_keep_pillows_pixels(tmp_path, noise, suffix):
    path = tmp_path / f"a.{suffix}"
    noise(37, 23).save(path)
    assert same(open_picture(path), Image.open(path).convert("RGB"))
    assert measure(path) == ((37, 23), 1)


def test_real_jpegs_keep_pillows_pixels(real):
    files = sorted(real("caltech101").rglob("*.jpg"))[::100]
    grey = sorted(real("imagenet_tiny20/imagenet/images").rglob("*.JPEG"))[::20]
    for path in files + grey:
        with Image.open(path) as image:
            assert same(open_picture(path), image.convert("RGB"))


@pytest.mark.parametrize("code", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(tmp_path, noise, code):
    exif = Image.Exif()
    exif[0x0112] = code
    for path in (tmp_path / "a.jpg", tmp_path / "a.png", tmp_path / "a.webp"):
        noise(31, 17).save(path, exif=exif)
        with Image.open(path) as stored:
            upright = ImageOps.exif_transpose(stored).convert("RGB")
        opened = open_picture(path)
        assert same(opened, upright)
        assert measure(path) == (upright.size, code)
        assert same(open_picture(opened), upright), "a picture opened twice must not be turned twice"


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _with_chunk(path: Path, kind: bytes, data: bytes, *, last: bool) -> None:
    raw = path.read_bytes()
    at = raw.rfind(b"IEND") - 4 if last else 33
    path.write_bytes(raw[:at] + _chunk(kind, data) + raw[at:])


XMP = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><tiff:Orientation>6</tiff:Orientation></x>'


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["EXIF", "XMP", "packed XMP", "XMP attribute"])
def test_orientation_wherever_a_png_has_it(tmp_path, noise, kind, last):
    path = tmp_path / "a.png"
    noise(20, 10).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = XMP.replace(b">6</tiff:Orientation", b' tiff:Orientation="6"></tiff:Orientation')
    data = {
        "EXIF": exif.tobytes().removeprefix(b"Exif\0\0"),
        "XMP": b"XML:com.adobe.xmp\0\0\0\0\0" + XMP,
        "packed XMP": b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP),
        "XMP attribute": b"XML:com.adobe.xmp\0\0\0\0\0" + text,
    }[kind]
    _with_chunk(path, b"eXIf" if kind == "EXIF" else b"iTXt", data, last=last)
    assert measure(path) == ((10, 20), 6)
    assert same(open_picture(path), noise(20, 10).transpose(Image.Transpose.ROTATE_270))


def test_exif_wins_over_xmp_and_jpeg_has_both(tmp_path, noise):
    exif = Image.Exif()
    exif[0x0112] = 3
    noise(20, 10).save(tmp_path / "a.jpg", xmp=XMP)
    assert measure(tmp_path / "a.jpg") == ((10, 20), 6)
    noise(20, 10).save(tmp_path / "a.jpg", xmp=XMP, exif=exif)
    assert measure(tmp_path / "a.jpg") == ((20, 10), 3)


@pytest.mark.parametrize(
    ("kind", "head"),
    [(b"iCCP", b"icc\0\0"), (b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")],
)
@pytest.mark.parametrize("last", [False, True])
def test_large_texts_and_profiles_say_nothing_of_pixels(tmp_path, noise, kind, head, last):
    path = tmp_path / "a.png"
    noise(20, 10).save(path)
    _with_chunk(path, kind, head + zlib.compress(bytes(3 << 20)), last=last)
    assert same(open_picture(path), noise(20, 10))


def test_pipes_and_pictures_without_a_pixel(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(BadPicture, match=r"a\.png: is a pipe or a device"):
        measure(tmp_path / "a.png")
    with pytest.raises(BadPicture, match="is 0x5"):
        open_picture(Image.new("RGB", (0, 5)))


def test_big_endian_exif(tmp_path, noise):
    block = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    noise(20, 10).save(tmp_path / "a.jpg", exif=block)
    assert open_picture(tmp_path / "a.jpg").size == (10, 20)


@given(st.binary(max_size=80))
def test_broken_exif_is_no_orientation(block):
    image = Image.new("RGB", (4, 3))
    image.info["exif"] = b"Exif\0\0II" + block
    assert 1 <= orientation(image) <= 8
    assert len(exif_texts(image)) <= len(block) / 12
    image.info["exif"] = b"Exif\0\0" + block
    assert 1 <= orientation(image) <= 8


def test_broken_exif_in_a_file_warns_nobody(tmp_path, noise):
    """Without a JFIF block Pillow searches EXIF for a resolution, and warns of whatever is broken there."""
    block = b"Exif\0\0II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 0x0112, 3, 1, 6, 0x010E, 2, 500, 4000)
    noise(20, 10).save(tmp_path / "a.jpg", exif=block)
    content = (tmp_path / "a.jpg").read_bytes()
    assert content[6:10] == b"JFIF"
    (tmp_path / "a.jpg").write_bytes(content[:2] + content[4 + int.from_bytes(content[4:6], "big") :])
    with pytest.warns(UserWarning, match="EXIF|Tag|Truncated"), Image.open(tmp_path / "a.jpg"):
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert open_picture(tmp_path / "a.jpg").size == (10, 20)
    assert not caught


def test_modes_become_the_rgb_they_look_like(tmp_path):
    grey = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    looks = np.repeat(grey[..., None], 3, axis=2)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    wide = Image.fromarray(grey.astype(np.int32))
    unit = Image.fromarray(grey.astype(np.float32) / 255)
    palette = Image.fromarray(grey).convert("P")
    pictures = {
        "L": Image.fromarray(grey),
        "I;16": deep,
        "I": wide,
        "F": unit,
        "P": palette,
        "1": Image.fromarray((grey > 128).astype(np.uint8) * 255).convert("1"),
        "CMYK": Image.fromarray(looks).convert("CMYK"),
    }
    for mode, picture in pictures.items():
        assert picture.mode == mode
        path = tmp_path / f"{mode.replace(';', '')}.tiff"
        picture.save(path)
        expected = np.where(looks > 128, 255, 0) if mode == "1" else looks
        difference = np.asarray(open_picture(path)).astype(int) - expected
        assert np.abs(difference).max() <= (1 if mode == "CMYK" else 0), mode


def test_sixteen_bit_png_is_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    expected = np.rint(values / 257).astype(int)
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png"))[..., 0], expected)


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.0, 1e6)])
def test_other_ranges_are_stretched(low, high):
    values = np.linspace(low, high, 16, dtype=np.float32).reshape(4, 4)
    seen = np.asarray(open_picture(Image.fromarray(values)))[..., 0]
    assert (seen.min(), seen.max()) == (0, 255)
    assert np.all(np.diff(seen.ravel().astype(int)) >= 0)


def test_transparent_parts_are_white(tmp_path):
    colours = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    colours.putpixel((0, 0), (0, 0, 0, 0))
    grey = Image.new("LA", (4, 4), (0, 255))
    grey.putpixel((0, 0), (0, 0))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 255, 0, 0])
    palette.putpixel((0, 0), 0)
    plain = Image.new("RGB", (4, 4), (255, 0, 0))
    plain.putpixel((0, 0), (9, 8, 7))
    for name, image, options in (
        ("rgba", colours, {}),
        ("la", grey, {}),
        ("p", palette, {"transparency": 0}),
        ("palpha", palette, {"transparency": b"\x00\xff"}),
        ("rgb", plain, {"transparency": (9, 8, 7)}),
    ):
        image.save(tmp_path / f"{name}.png", **options)
        opened = open_picture(tmp_path / f"{name}.png")
        assert opened.mode == "RGB"
        assert opened.getpixel((0, 0)) == (255, 255, 255), name
        assert opened.getpixel((2, 2)) == ((0, 0, 0) if name == "la" else (255, 0, 0)), name
    translucent = Image.new("P", (2, 2), 0)
    translucent.putpalette([0, 0, 0, 0], "RGBA")
    assert open_picture(translucent).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 127))
    assert open_picture(half).getpixel((0, 0)) == (128, 128, 128)


def test_first_frame_of_an_animation(tmp_path, noise):
    frames = [noise(6, 6, seed).convert("P") for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as first:
        assert same(open_picture(tmp_path / "a.gif"), first.convert("RGB"))


def test_pictures_in_memory_and_lazy_ones(noise):
    picture = noise(9, 5)
    assert same(open_picture(picture), picture)
    assert same(open_picture(MemoryPicture(picture, "row 3")), picture)
    with pytest.raises(BadPicture, match="row 3: is 1x9, too small"):
        open_picture(MemoryPicture(noise(1, 9), "row 3"))


def bad(path: Path, *words: str) -> str:
    with pytest.raises(InputError) as caught:
        open_picture(path)
    message = str(caught.value)
    assert isinstance(caught.value, BadPicture)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert 'on_bad="skip"' in message
    for word in words:
        assert word in message
    return message


def test_cut_off_files(tmp_path, noise):
    for name in ("a.jpg", "a.png", "a.bmp", "a.webp"):
        noise(64, 64).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for share in (0.05, 0.5, 0.9):
            (tmp_path / name).write_bytes(content[: int(len(content) * share)])
            bad(tmp_path / name)
    noise(64, 64).save(tmp_path / "b.jpg")
    content = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2])
    bad(tmp_path / "b.jpg", "cut off")


@given(st.binary(min_size=0, max_size=200), st.integers(0, 3000))
def test_any_damage_is_a_bad_picture_or_a_picture(tmp_path_factory, junk, where):
    folder = tmp_path_factory.getbasetemp()
    Image.effect_noise((40, 40), 60).convert("RGB").save(folder / "damaged.png")
    content = bytearray((folder / "damaged.png").read_bytes())
    content[where : where + len(junk)] = junk
    (folder / "damaged.png").write_bytes(bytes(content))
    with contextlib.suppress(BadPicture):  # anything else that escapes fails the test
        assert open_picture(folder / "damaged.png").mode == "RGB"


def test_files_that_are_no_pictures(tmp_path, noise):
    (tmp_path / "empty.jpg").touch()
    bad(tmp_path / "empty.jpg", "0 bytes")
    (tmp_path / "text.jpg").write_text("this is no picture")
    bad(tmp_path / "text.jpg", "is not a picture")
    bad(tmp_path / "gone.jpg", "does not exist")
    (tmp_path / "folder.jpg").mkdir()
    bad(tmp_path / "folder.jpg", "is a folder")
    noise(1, 9).save(tmp_path / "thin.png")
    bad(tmp_path / "thin.png", "1x9", "too small")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, noise):
    noise(5, 5).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    bad(tmp_path / "a.png", "no permission")


def png_header(path: Path, width: int, height: int) -> None:
    """A valid PNG of black pixels that says any size; its data are those of a single row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(width + 1))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_by_its_header(tmp_path):
    png_header(tmp_path / "bomb.png", 40_000, 40_000)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bad(tmp_path / "bomb.png", "40000x40000", "179 million pixels")
        with pytest.raises(BadPicture):
            measure(tmp_path / "bomb.png")
    assert not caught


def test_large_but_allowed_pictures_warn_nobody(tmp_path):
    png_header(tmp_path / "large.png", 10_000, 10_000)  # Pillow warns from 89 million pixels on
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert measure(tmp_path / "large.png") == ((10_000, 10_000), 1)
    assert not caught


@pytest.mark.parametrize("order", ["<", ">"])
def test_texts_of_exif_are_read_and_broken_ones_are_missing(order: str):
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F] = "Fuji"
    exif[0x0131] = "PA"  # short enough to stand in the entry itself
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 10:00:00"
    whole, picture = exif.tobytes(), Image.new("RGB", (2, 2))
    picture.info["exif"] = whole
    texts = {0x010F: "Fuji", 0x0131: "PA", 0x9003: "2024:05:01 10:00:00"}
    assert exif_texts(picture) == texts
    for cut in range(len(whole)):
        picture.info["exif"] = whole[:cut]
        assert all(texts[tag].startswith(text) for tag, text in exif_texts(picture).items())
    picture.info.pop("exif")
    assert exif_texts(picture) == {}
