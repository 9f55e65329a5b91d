"""Masks in shards: the same masks, found at once, and damage that is told of."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.bank import content_digest
from foveate.data.checks import check_masks
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground import shards as shards_module
from foveate.foreground import store as packed_module
from foveate.foreground.matching import find_masks
from foveate.foreground.shards import is_packed, open_shards
from foveate.foreground.store import (
    MaskRecord,
    MaskStore,
    pack,
    read_key,
    read_manifest,
    stored_masks,
    unpack,
)
from foveate.foreground.values import read_mask

KEY = {"proposer": "made", "settings": {"depth": 2}}
NAMES = ("cat/a.jpg", "cat/a.png", "cat/deep/c.jpg", "dog/d.jpg", "猫/一.jpg", "dog/" + "long" * 40 + ".jpg")


def mask_of(number):
    mask = np.zeros((9, 12), bool)
    mask[2:7, 3 : 5 + number % 6] = True
    mask[number % 9, 4] ^= True
    return mask


@pytest.fixture
def tree(tmp_path):
    with MaskStore.open(tmp_path / "tree", KEY) as store:
        for number, name in enumerate(NAMES):
            mask = mask_of(number) if number != 3 else np.ones((9, 12), bool)
            area = float(mask.mean())
            record = MaskRecord(name, "0" * 64, 12, 9, area, 0.5, label="x", fallback=number == 3)
            store.put(record, mask)
    return tmp_path / "tree"


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(door, *words):
    with pytest.raises(InputError) as caught:
        door()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def damage(path, at, by=b"\xff\x00\xff"):
    content = bytearray(path.read_bytes())
    content[at : at + len(by)] = by
    path.write_bytes(content)


@pytest.mark.parametrize("a_shard", [1, 4, 100])
def test_packing_loses_nothing(tmp_path, tree, a_shard):
    out = tmp_path / "packed"
    done = []
    assert pack(tree, out, masks_a_shard=a_shard, progress=done.append) == len(NAMES)
    assert sum(done) == len(NAMES)
    assert len(list(out.glob("*.tar"))) == -(-len(NAMES) // a_shard)
    assert read_manifest(out) == read_manifest(tree)
    assert read_key(out) == read_key(tree) == KEY
    assert unpack(out, tmp_path / "again") == len(NAMES)
    assert contents(tmp_path / "again") == contents(tree)


def test_any_tar_program_can_read_a_shard(tmp_path, tree):
    pack(tree, tmp_path / "packed")
    with tarfile.open(tmp_path / "packed" / "masks-00000.tar") as tar:
        tar.extractall(tmp_path / "out", filter="data")
    assert contents(tmp_path / "out") == contents(tree)


def test_equal_trees_make_equal_shards(tmp_path, tree):
    for out in ("one", "two"):
        pack(tree, tmp_path / out, masks_a_shard=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shards_are_bounded_in_bytes_too(tmp_path, tree, monkeypatch):
    two = sum(len(content) + 512 for name, content in contents(tree).items() if name.startswith("cat/a"))
    monkeypatch.setattr(packed_module, "BYTES_A_SHARD", two + 20)
    pack(tree, tmp_path / "packed")
    assert len(list((tmp_path / "packed").glob("*.tar"))) == len(NAMES) / 2


def test_photos_take_packed_masks_as_they_take_the_tree(tmp_path, tree):
    photos = tmp_path / "photos"
    for number, name in enumerate(NAMES):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / name)
    pack(tree, tmp_path / "packed", masks_a_shard=4)
    pack(tree, tmp_path / "single")
    read = [
        load_photos(photos, masks=tmp_path / where)
        for where in ("tree", "packed", "single/masks-00000.tar", "single")
    ]
    assert len({one.mask_values for one in read}) == 1
    for samples in zip(*(one.samples for one in read), strict=True):
        images = [read_mask(sample.mask) for sample in samples]
        assert all(image.tobytes() == images[0].tobytes() for image in images)
    keys = {content_digest([sample.mask for sample in one.samples]) for one in read}
    assert len(keys) == 1, "banks of features serve both"
    assert len({one.digest(masks=True) for one in read}) == 1
    for one in read:
        _, report = check_masks(one)
        assert not report.faults, "a fallback is none, packed or not"


def test_one_mask_is_one_read(tmp_path, tree, monkeypatch):
    pack(tree, tmp_path / "packed", masks_a_shard=4)
    masks = stored_masks(tmp_path / "packed")
    opened = []
    real = Path.open

    def counted(path, *args, **options):
        opened.append(path.name)
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    monkeypatch.setattr(tarfile, "open", None)
    monkeypatch.setattr(np, "load", None)
    assert np.array_equal(np.asarray(masks["猫/一.jpg"].load()), mask_of(4))
    assert opened == ["masks-00001.tar"]
    assert np.array_equal(np.asarray(masks["cat/a.jpg"].load()), mask_of(0))
    assert opened == ["masks-00001.tar", "masks-00000.tar"]


def test_ten_thousand_masks_are_not_looked_at_when_opened(tmp_path):
    number = 10_000
    png = shards_module.Shards(
        KEY,
        [tmp_path / "masks-00000.tar"],
        [f"cat/{n}.jpg" for n in range(number)],
        [f"cat/{n}.png" for n in range(number)],
        *(np.zeros(number, np.int64) for _ in range(4)),
        np.zeros(number, bool),
    )
    (tmp_path / "masks-index.npz").write_bytes(shards_module.write_index(png))
    assert not (tmp_path / "masks-00000.tar").exists()
    found = find_masks([(Path(f"/p/cat/{n}.jpg"), Path(f"cat/{n}.jpg")) for n in (7, 9999)], tmp_path)
    assert [mask.name for mask in found] == ["cat/7.png", "cat/9999.png"]


# Damage


def test_a_damaged_shard_is_named(tmp_path, tree):
    out = tmp_path / "packed"
    pack(tree, out, masks_a_shard=4)
    shard = out / "masks-00000.tar"
    whole = shard.read_bytes()
    shards = open_shards(out)
    damage(shard, int(shards.start[1]) + 20)
    masks = stored_masks(out)
    refused(masks["cat/a.png"].load, shard, "damaged where mask cat/a.png.png lies", "fetch that file again")
    assert masks["cat/a.jpg"].load().size == (12, 9), "the others are whole"
    shard.write_bytes(whole[: int(shards.start[2])])
    refused(masks["cat/deep/c.jpg"].load, shard, "damaged")
    refused(lambda: unpack(out, tmp_path / "again"), shard, "damaged")
    shard.unlink()
    refused(masks["cat/a.jpg"].load, shard, "cannot be read")
    refused(lambda: read_manifest(out), shard, "damaged, or no shard")


def test_a_damaged_shard_without_an_index_is_named(tmp_path, tree):
    pack(tree, tmp_path / "packed")
    shard = tmp_path / "packed" / "masks-00000.tar"
    start = int(open_shards(shard).start[0])
    damage(shard, start + 45)
    refused(stored_masks(shard)["cat/a.jpg"].load, shard, "damaged where mask cat/a.png lies")
    shard.write_bytes(shard.read_bytes()[: start + 600])
    refused(lambda: stored_masks(shard), shard, "damaged")
    shard.write_bytes(b"no tar at all")
    refused(lambda: stored_masks(shard), shard, "damaged, or no shard")
    with tarfile.open(shard, "w") as tar:
        tar.add(tree / "cat" / "a.png", "cat/a.png")
    refused(lambda: stored_masks(shard), shard, "no shard of masks")


def test_a_damaged_index_is_named(tmp_path, tree):
    pack(tree, tmp_path / "packed")
    index = tmp_path / "packed" / "masks-index.npz"
    whole = index.read_bytes()
    for content in (b"", whole[:200], whole[: len(whole) // 2], b"\0" * 500):
        index.write_bytes(content)
        refused(lambda: stored_masks(tmp_path / "packed"), index, "damaged")
    index.write_bytes(whole)
    with np.load(index) as arrays:
        parts = dict(arrays)
    for name, changed in {
        "start": parts["start"][:-1],
        "shard": parts["shard"] + 1,
        "shards": np.frombuffer(b"../masks-00000.tar", np.uint8),
        "names": np.frombuffer(b"one", np.uint8),
    }.items():
        np.savez(index, **{**parts, name: changed})
        refused(lambda: stored_masks(tmp_path / "packed"), index, "do not fit together")


def test_shards_of_two_sets_are_not_mixed(tmp_path, tree):
    pack(tree, tmp_path / "packed", masks_a_shard=4)
    second = tmp_path / "packed" / "masks-00001.tar"
    (tmp_path / "packed" / "masks-00000.tar").write_bytes(second.read_bytes())
    refused(lambda: unpack(tmp_path / "packed", tmp_path / "again"), "masks-00000.tar", "is not the shard")


# Interruptions, and wrong folders


def test_packing_that_was_interrupted(tmp_path, tree, monkeypatch):
    out = tmp_path / "packed"
    pack(tree, tmp_path / "whole", masks_a_shard=2)

    def stop(number):
        if (out / "masks-00001.tar").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tree, out, masks_a_shard=1, progress=stop)
    refused(lambda: is_packed(out), out, "packing has not finished")
    refused(lambda: load_photos(tree, masks=out), out, "packing has not finished")
    pack(tree, out, masks_a_shard=2)
    assert contents(out) == contents(tmp_path / "whole")


def test_unpacking_that_was_interrupted(tmp_path, tree):
    pack(tree, tmp_path / "packed")
    out = tmp_path / "again"

    def stop(number):
        if (out / "cat" / "a.png.png").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "packed", out, progress=stop)
    assert [one.name for one in read_manifest(out)] == list(NAMES[:2])
    unpack(tmp_path / "packed", out)
    assert contents(out) == contents(tree)


def test_folders_that_do_not_fit(tmp_path, tree):
    packed = tmp_path / "packed"
    pack(tree, packed)
    refused(lambda: pack(tree, packed), packed, "already")
    refused(lambda: pack(packed, tmp_path / "x"), packed, "is packed already")
    refused(lambda: pack(tree, tree), tree, "not empty")
    refused(lambda: pack(tree, tree / "manifest.jsonl"), "is a file")
    refused(lambda: pack(tmp_path / "nothing", tmp_path / "x"), "no masks that foveate made")
    refused(lambda: unpack(tree, tmp_path / "x"), tree, "no packed masks")
    refused(lambda: unpack(packed, packed), packed, "not empty")
    assert not (tmp_path / "x").exists()


def test_a_mask_that_is_gone_is_not_packed(tmp_path, tree):
    (tree / "dog" / "d.png").unlink()
    assert pack(tree, tmp_path / "packed") == len(NAMES) - 1
    assert "dog/d.jpg" not in stored_masks(tmp_path / "packed")


def test_nothing_at_all_can_be_packed(tmp_path):
    MaskStore.open(tmp_path / "tree", KEY).close()
    assert pack(tmp_path / "tree", tmp_path / "packed") == 0
    assert stored_masks(tmp_path / "packed") == {}
    assert read_key(tmp_path / "packed") == KEY
    assert read_manifest(tmp_path / "packed") == []
