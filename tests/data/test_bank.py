"""Features of views are made once, kept by what determines them, and checked when they are read again."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate import files
from foveate.data.bank import CHUNK, Bank, content_digest, encode
from foveate.data.feature_store import FeatureKey, FeatureStore
from foveate.data.loader import PictureSet
from foveate.data.samples import MemoryPicture, Photos
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.types import Batch, FeatureSpec

SIZE = 16
IMAGE, CUT = FeatureSpec("clip", 2, 3), FeatureSpec("clip, foreground", 2, 3, masked=True)
AREA = FeatureSpec("area of the view", 1, 1, masked=True)
ORIGINS = {"image": IMAGE, "cut": CUT, "area": AREA}
Shapes = Callable[..., Path]


class Eye:
    """Stands for frozen towers: sums of pixels, and a count of the pictures looked at."""

    def __init__(self) -> None:
        self.pictures: dict[str, int] = dict.fromkeys(ORIGINS, 0)
        self.batches: list[int] = []

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.batches.append(len(batch.labels))
        seen = {"image": look(batch.images)}
        if batch.masks is not None:
            seen |= {
                "cut": look(batch.images * batch.masks),
                "area": batch.masks.mean((1, 2, 3))[None, :, None],
            }
        new = {name: tensor for name, tensor in seen.items() if name not in batch.frozen}
        for name in new:
            self.pictures[name] += len(batch.labels)
        return new


def look(images: Tensor) -> Tensor:
    pooled = images.mean((2, 3))
    return torch.stack([pooled, pooled**2])


def pictures(data: Path, *, seed: int = 1, masks: str | None = "masks", **settings: object) -> PictureSet:
    photos = load_photos(data / "photos", masks=data / masks if masks else None)
    return PictureSet(photos, SIZE, **({"augment": "rrc-flip", "seed": seed} | settings))


def batches(bank: Bank, eye: Eye, epoch: int = 0, size: int = 4, **how: object) -> list[Batch]:
    return list(bank.batches(epoch, size, **({"specs": ORIGINS, "make": eye} | how)))


@pytest.fixture
def data(shapes: Shapes) -> Path:
    return shapes(pictures=3)  # nine of them


@pytest.fixture
def open_bank(data: Path, tmp_path: Path) -> Callable[..., Bank]:
    """A bank in the folder `bank`; `at` has the pictures, further settings are those of the views."""

    def make(
        *,
        at: Path = data,
        weights: str = "w",
        dtype: torch.dtype = torch.float32,
        chunk: int = CHUNK,
        **views: object,
    ):
        return Bank(pictures(at, **views), weights, FeatureStore(tmp_path / "bank"), dtype, chunk)

    return make


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "bank").rglob("*.safetensors"))


# --- the same batches ---


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("size", [1, 4, 9, 20])
def test_batches_are_those_of_the_pictures(data: Path, tmp_path: Path, pixels: bool, where: str, size: int):
    plain = pictures(data)
    bank = Bank(pictures(data), "w", FeatureStore(tmp_path / "bank" if where == "disk" else None))
    eye = Eye()
    for epoch in (0, 1, 0):
        wanted = list(plain.batches(epoch, size, shuffle=True, drop_last=True))
        for seen, own in zip(batches(bank, eye, epoch, size, pixels=pixels), wanted, strict=True):
            assert torch.equal(seen.labels, own.labels)
            torch.testing.assert_close(seen.areas, own.areas)
            for name, tensor in Eye()(own).items():
                torch.testing.assert_close(seen.frozen[name], tensor, rtol=1e-6, atol=1e-6)
            assert seen.frozen.keys() == ORIGINS.keys()
            if pixels:
                assert torch.equal(seen.images, own.images)
                assert torch.equal(seen.masks, own.masks)
            else:
                assert seen.images.shape == (len(own.labels), 3, 0, 0)
                assert seen.masks is None
    assert eye.pictures == dict.fromkeys(ORIGINS, 18)  # two epochs of nine views, whatever was dropped


def test_views_are_encoded_in_large_batches(shapes: Shapes):
    bank, eye = Bank(pictures(shapes(pictures=25)), "w", FeatureStore()), Eye()
    batches(bank, eye)
    assert eye.batches == [CHUNK, 75 - CHUNK]
    batches(bank, eye, 1, 10, pixels=True)
    assert eye.batches[2:] == [60, 10, 5]  # six batches in one pass; at the end those that were left out


def test_views_that_do_not_vary_are_encoded_once(open_bank: Callable[..., Bank], tmp_path: Path):
    eye = Eye()
    for augment in ("none", "squash"):
        bank = open_bank(augment=augment)
        for epoch in range(3):
            batches(bank, eye, epoch)
    assert eye.pictures["image"] == 2 * 9
    assert {path.name for path in kept(tmp_path)} == {"epoch-000.safetensors"}


EXCHANGED = replace(IMAGE, what="clip, exchanged", masked=True, exchanged=True)


def look_at_both(batch: Batch) -> dict[str, Tensor]:
    seen = {"image": look(batch.images)} if "image" not in batch.frozen else {}
    return seen if batch.exchanged is None else {**seen, "exchanged": look(batch.exchanged)}


def test_exchanged_views_are_of_their_epoch_where_others_do_not_vary(open_bank: Callable[..., Bank]):
    bank = open_bank(augment="none")
    first, again, second = (
        torch.cat([batch.frozen["exchanged"] for batch in found], dim=1)
        for epoch in (0, 0, 1)
        if (
            found := list(
                bank.batches(epoch, 4, specs={"image": IMAGE, "exchanged": EXCHANGED}, make=look_at_both)
            )
        )
    )
    plain = list(bank.pictures.batches(0, 4, shuffle=True, drop_last=True, exchanged=True))
    wanted = torch.cat([look(batch.exchanged) for batch in plain if batch.exchanged is not None], dim=1)
    torch.testing.assert_close(first, wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(first, again)
    assert not torch.allclose(first.sort(dim=1).values, second.sort(dim=1).values)


def test_views_that_exchange_depend_on_masks(open_bank: Callable[..., Bank], data: Path):
    eye = Eye()
    batches(open_bank(exchange=1.0), eye)
    for mask in (data / "masks").rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(mask).convert("L"))).save(mask)
    batches(open_bank(exchange=1.0), eye)
    assert eye.pictures["image"] == 18


def test_without_masks_there_are_no_areas(open_bank: Callable[..., Bank], tmp_path: Path):
    (first, *_) = batches(open_bank(masks=None), Eye(), specs={"image": IMAGE})
    assert first.areas is None
    assert len(kept(tmp_path)) == 1


def test_equal_origins_are_one_file(open_bank: Callable[..., Bank], tmp_path: Path):
    bank = open_bank(masks=None)
    eye = Eye()

    def twice(batch: Batch) -> dict[str, Tensor]:
        return {"image": eye(batch)["image"], "clip": eye(batch)["image"]}

    specs = {"image": IMAGE, "clip": IMAGE}
    assert bank.size(specs, range(2)) == 2 * 2 * 9 * 3 * 4
    (first, *_) = batches(bank, eye, make=twice, specs=specs)
    assert torch.equal(first.frozen["image"], first.frozen["clip"])
    assert len(kept(tmp_path)) == 1
    assert bank.size(specs, range(2)) == 2 * 9 * 3 * 4


def test_an_empty_set_has_no_batches(data: Path, tmp_path: Path):
    photos = load_photos(data / "photos").with_samples([])
    bank = Bank(PictureSet(photos, SIZE, augment="rrc-flip"), "w", FeatureStore(tmp_path / "bank"))
    assert batches(bank, Eye(), specs={"image": IMAGE}) == []
    assert batches(bank, Eye(), specs={"image": IMAGE}, pixels=True) == []
    assert bank.size({"image": IMAGE}, range(5)) == 0
    assert kept(tmp_path) == []


def test_a_shape_that_was_not_promised_is_our_mistake(open_bank: Callable[..., Bank]):
    with pytest.raises(ValueError, match=r"image is \[2, 9, 3\], but \[4, 9, 3\] was promised"):
        batches(open_bank(), Eye(), specs={"image": replace(IMAGE, heads=4)})


# --- what is shared ---


def test_other_runs_find_what_is_there(open_bank: Callable[..., Bank]):
    eye = Eye()
    batches(open_bank(), Eye(), specs={"image": IMAGE})
    batches(open_bank(), eye, size=2)
    batches(open_bank(), eye, size=3, pixels=True)
    batches(open_bank(), eye)
    assert eye.pictures == {"image": 0, "cut": 9, "area": 9}
    assert eye.batches == [9]


def test_a_folder_that_moved_or_was_copied_is_the_same(
    open_bank: Callable[..., Bank], data: Path, tmp_path: Path
):
    eye = Eye()
    batches(open_bank(), eye)
    data.rename(tmp_path / "elsewhere")
    batches(open_bank(at=tmp_path / "elsewhere"), eye)
    assert eye.pictures["image"] == 9


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "others"},
        {"seed": 2},
        {"scale": (0.5, 1.0)},
        {"augment": "none"},
        {"mean": (0.0, 0.0, 0.0)},
        {"dtype": torch.float16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_a_feature_has_another_key(open_bank: Callable[..., Bank], change: dict):
    eye = Eye()
    batches(open_bank(), eye)
    batches(open_bank(**change), eye)
    assert eye.pictures["image"] == 18


def test_another_content_under_the_same_name_is_noticed(open_bank: Callable[..., Bank], data: Path):
    eye = Eye()
    batches(open_bank(), eye)
    picture = next((data / "photos").rglob("0.png"))
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(picture)
    batches(open_bank(), eye)
    assert eye.pictures["image"] == 18


def test_other_masks_make_what_depends_on_them_anew(open_bank: Callable[..., Bank], data: Path):
    eye = Eye()
    batches(open_bank(), eye)
    mask = next((data / "masks").rglob("0.png"))
    changed = np.zeros((32, 40), np.uint8)
    changed[:16] = 255
    Image.fromarray(changed).save(mask)
    batches(open_bank(), eye)
    assert eye.pictures == {"image": 9, "cut": 18, "area": 18}


def test_pictures_in_memory_are_known_by_their_pixels(noise: Callable[..., Image.Image]):
    def digest(*seeds: int) -> str:
        return content_digest([MemoryPicture(noise(4, 4, seed)) for seed in seeds])

    assert digest(1, 2) == digest(1, 2)
    assert len({digest(1, 2), digest(2, 1), digest(1), digest(1, 1)}) == 4


def test_a_transform_of_ones_own_has_no_key(data: Path):
    bank = Bank(pictures(data, transform=lambda picture, mask: (picture, mask)), "w", FeatureStore())
    with pytest.raises(ValueError, match="no key"):
        batches(bank, Eye())


# --- on disk ---


def test_half_precision_takes_half_and_is_close(open_bank: Callable[..., Bank]):
    exact, half = open_bank(), open_bank(dtype=torch.float16)
    image = {"image": IMAGE}
    areas = 9 * 4  # of the whole pictures, exact in either
    assert exact.size(image, [0]) - areas == 2 * (half.size(image, [0]) - areas) == 2 * 9 * 3 * 4
    want, got = batches(exact, Eye()), batches(half, Eye())
    assert got[0].frozen["image"].dtype == torch.float32
    torch.testing.assert_close(got[0].frozen["image"], want[0].frozen["image"], rtol=1e-3, atol=1e-3)
    assert not torch.equal(got[0].frozen["image"], want[0].frozen["image"])
    assert torch.equal(got[0].frozen["area"], want[0].frozen["area"])  # a number a picture stays as it is


def test_half_precision_is_the_same_while_it_is_made(data: Path):
    def first(pixels: bool) -> Tensor:
        bank = Bank(pictures(data), "w", FeatureStore(), torch.float16)
        return batches(bank, Eye(), pixels=pixels)[0].frozen["image"]

    assert torch.equal(first(True), first(False))


@pytest.mark.parametrize("pixels", [False, True])
def test_a_kill_in_the_middle_of_an_epoch_costs_this_epoch(
    open_bank: Callable[..., Bank], tmp_path: Path, pixels: bool
):
    class Killed(Exception):
        pass

    eye = Eye()

    def dying(batch: Batch) -> dict[str, Tensor]:
        if eye.pictures["image"] >= 9 + 4:  # half of the second epoch
            raise Killed
        return eye(batch)

    def train(make: Callable[[Batch], dict[str, Tensor]]) -> None:
        for epoch in range(3):
            batches(open_bank(chunk=4), eye, epoch, make=make, pixels=pixels)

    with pytest.raises(Killed):
        train(dying)
    assert {path.name for path in kept(tmp_path)} == {"epoch-000.safetensors"}
    eye.pictures["image"] = 0
    train(eye)
    assert eye.pictures["image"] == 18  # the second and third epoch alone


def test_who_does_not_take_all_batches_leaves_nothing(open_bank: Callable[..., Bank], tmp_path: Path):
    some: Iterator[Batch] = open_bank().batches(0, 2, specs=ORIGINS, make=Eye(), pixels=True)
    next(some)
    some.close()
    assert kept(tmp_path) == []


OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_bank
data, folder = Path(sys.argv[2]), Path(sys.argv[3])
eye = test_bank.Eye()
bank = test_bank.Bank(test_bank.pictures(data), "w", test_bank.FeatureStore(folder))
for epoch in range(2):
    test_bank.batches(bank, eye, epoch)
print(eye.pictures["image"])
"""


def test_another_process_encodes_what_is_missing(open_bank: Callable[..., Bank], data: Path, tmp_path: Path):
    batches(open_bank(), Eye())
    words = [sys.executable, "-c", OTHER, str(Path(__file__).parent), str(data), str(tmp_path / "bank")]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "9\n"
    eye = Eye()
    for epoch in range(2):
        batches(open_bank(), eye, epoch)
    assert eye.pictures["image"] == 0


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0xFF
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nonsense(path: Path) -> None:
    path.write_text("no tensors")


def _bare(path: Path) -> None:
    save_file({"features": torch.zeros(2, 9, 3)}, path)


@pytest.mark.parametrize("spoil", [_cut, _flip, _empty, _nonsense, _bare])
def test_a_damaged_file_is_set_aside(
    open_bank: Callable[..., Bank], tmp_path: Path, spoil: Callable[[Path], None]
):
    image = {"image": IMAGE}
    eye = Eye()
    want = batches(open_bank(masks=None), eye, specs=image)
    (path,) = kept(tmp_path)
    spoil(path)
    with pytest.warns(UserWarning, match=r"epoch-000.safetensors is damaged .*: set aside as .*\.damaged"):
        got = batches(open_bank(masks=None), eye, specs=image)
    assert torch.equal(got[0].frozen["image"], want[0].frozen["image"])
    assert eye.pictures["image"] == 18
    assert path.with_name("epoch-000.safetensors.damaged").is_file()
    batches(open_bank(masks=None), eye, specs=image)  # mended
    assert eye.pictures["image"] == 18


def test_a_foreign_file_is_set_aside(open_bank: Callable[..., Bank], tmp_path: Path):
    image = {"image": IMAGE}
    batches(open_bank(masks=None), Eye(), specs=image)
    (own,) = kept(tmp_path)
    batches(open_bank(masks=None, weights="others"), Eye(), specs=image)
    (other,) = set(kept(tmp_path)) - {own}
    want = own.read_bytes()
    own.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="has features of something else: set aside"):
        batches(open_bank(masks=None), Eye(), specs=image)
    assert own.read_bytes() == want


def test_an_epoch_in_the_place_of_another_is_foreign(tmp_path: Path):
    key, store = FeatureKey({"what": "x"}, (1, 2, 3), torch.float32), FeatureStore(tmp_path)
    store.put(key, 0, torch.ones(1, 2, 3))
    path = tmp_path / key.name / "epoch-000.safetensors"
    path.rename(path.with_name("epoch-001.safetensors"))
    with pytest.warns(UserWarning, match="something else"):
        assert store.get(key, 1) is None


def test_a_file_tells_its_whole_key(open_bank: Callable[..., Bank], tmp_path: Path):
    batches(open_bank(), Eye(), specs={"image": IMAGE}, pixels=True)
    path = max(kept(tmp_path), key=lambda path: path.stat().st_size)
    with safe_open(path, "pt") as file:
        entry = file.metadata()["bank"]
    for part in ('"what": "clip"', '"weights": "w"', '"seed": 1', '"size": 16', '"dtype": "float32"'):
        assert part in entry
    assert str(tmp_path) not in entry


@pytest.mark.parametrize("pixels", [False, True])
def test_a_full_disk_costs_time_and_no_batch(
    open_bank: Callable[..., Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: bool
):
    want = batches(open_bank(), Eye())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    bank, eye = open_bank(seed=2), Eye()
    with pytest.warns(UserWarning, match=r"No space left on device; features .* are not kept.*--bank-dir"):
        batches(bank, eye, pixels=pixels)
    got = batches(bank, eye, pixels=pixels)  # told once: another warning would be an error
    assert eye.pictures["image"] == 18
    assert len(got) == len(want)
    assert not list(tmp_path.rglob(".epoch*"))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "bank").write_text("")
    with pytest.raises(InputError, match="bank is a file: give another folder with --bank-dir"):
        FeatureStore(tmp_path / "bank")


def test_clearing_removes_nothing_else(open_bank: Callable[..., Bank], tmp_path: Path):
    bank = open_bank()
    batches(bank, Eye())
    stray = tmp_path / "bank" / "notes.txt"
    stray.write_text("mine")
    (kept(tmp_path)[0].parent / ".epoch-001.safetensors.k1ll3d").write_bytes(b"half")
    bank.store.clear()
    assert [path.name for path in (tmp_path / "bank").iterdir()] == ["notes.txt"]
    stray.unlink()
    bank.store.clear()
    assert not (tmp_path / "bank").exists()
    bank.store.clear()


READ = """
import sys
from pathlib import Path
import torch
from foveate.data.feature_store import FeatureKey, FeatureStore
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssAnon"))) / 1024
key, store = FeatureKey({"what": "x"}, (1, 32768, 512), torch.float32), FeatureStore(Path(sys.argv[1]))
before = resident()
tensor = store.get(key, 0)
row = tensor[:, [5, 30000]].sum().item()
print(row, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_reading_rows_does_not_load_the_file(tmp_path: Path):
    key = FeatureKey({"what": "x"}, (1, 32768, 512), torch.float32)  # 64 MiB
    FeatureStore(tmp_path).put(key, 0, torch.ones(key.shape))
    words = [sys.executable, "-c", READ, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=dict(os.environ))
    total, megabytes = (float(word) for word in done.stdout.split())
    assert total == 1024
    assert megabytes < 16


# --- a GPU's memory ---


def test_too_large_a_batch_is_halved():
    sizes: list[int] = []

    def small(batch: Batch) -> dict[str, Tensor]:
        sizes.append(len(batch.labels))
        if len(batch.labels) > 3:
            raise torch.OutOfMemoryError
        return {"image": batch.images.mean((2, 3))[None], "there": batch.frozen["there"]}

    images = torch.randn(10, 3, 4, 4)
    batch = Batch(images, torch.arange(10), frozen={"there": torch.arange(10.0)[None, :, None]})
    made = encode(small, batch)
    assert torch.equal(made["image"][0], images.mean((2, 3)))
    assert torch.equal(made["there"], batch.frozen["there"])
    assert sizes == [10, 5, 2, 3, 5, 2, 3]

    def never(batch: Batch) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        encode(never, batch)


def test_labels_and_names_do_not_matter(data: Path):
    photos: Photos = load_photos(data / "photos")
    renamed = replace(photos, names=("a", "b", "c"))
    sets = [PictureSet(one, SIZE, augment="none") for one in (photos, renamed)]
    first, second = (Bank(one, "w", FeatureStore(data / "bank")) for one in sets)
    eye = Eye()
    for bank in (first, second):
        batches(bank, eye, specs={"image": IMAGE})
    assert eye.pictures["image"] == 9


def test_trimming_removes_what_was_not_used_for_the_longest_time(tmp_path: Path):
    store = FeatureStore(tmp_path)
    keys = [FeatureKey({"what": what}, (1, 2, 3), torch.float32) for what in "abc"]
    for age, key in enumerate(keys):
        store.put(key, 0, torch.ones(key.shape))
        os.utime(tmp_path / key.name, (1_000 + age, 1_000 + age))
    (tmp_path / keys[0].name / ".epoch-001.safetensors.abcdefgh").touch()  # another process writes it
    assert store.get(keys[0], 0) is not None  # used now
    size = sum(path.stat().st_size for path in tmp_path.rglob("epoch-*"))
    store.trim(size)
    assert all(store.has(key, 0) for key in keys)
    store.trim(size - 1)
    assert [store.has(key, 0) for key in keys] == [True, False, True]
    store.trim(0)
    assert not any(store.has(key, 0) for key in keys)
    assert [path.name for path in tmp_path.rglob(".epoch*")] == [".epoch-001.safetensors.abcdefgh"]
    FeatureStore(tmp_path / "nothing").trim(0)
