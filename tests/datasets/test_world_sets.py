"""Drawn sets on disk: whole or not there, the same from the same seed, and each of its own kind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.samples import Sample
from foveate.datasets import catalogue
from foveate.datasets.catalogue import CONDITIONS, find, world_keys
from foveate.datasets.checking import check_set
from foveate.datasets.opening import open_set
from foveate.datasets.world_sets import class_names, draw_sets, homes
from foveate.errors import InputError
from foveate.world.scenes import NAMES, PLACES
from foveate.world.species import BASE, NEW

SMALLEST = "world-4"


def test_a_drawn_set_is_a_set_like_any_other(drawn):
    photos, one = open_set(drawn, SMALLEST), find(SMALLEST)
    assert photos.names == class_names(one)
    assert {name.split()[1] for name in photos.names} == {"star"}
    counts = {split: set(photos.split(split).counts().values()) for split in ("train", "val", "test")}
    assert counts == {"train": {18}, "val": {2}, "test": {10}}
    assert photos.mask_values == "binary255"
    assert all(sample.mask is not None for sample in photos.samples)
    found = check_set(drawn, SMALLEST)
    assert (found.state, found.layout, found.masks["train"], found.faults) == (
        "whole",
        "drawn",
        one.train,
        (),
    )


def test_masks_are_of_their_pictures(drawn):
    sample = open_set(drawn, SMALLEST).split("test").samples[0]
    assert isinstance(sample.picture, Path)
    assert isinstance(sample.mask, Path)
    picture, mask = np.asarray(Image.open(sample.picture), float), np.asarray(Image.open(sample.mask))
    inside = picture[mask].mean(0)
    colour = class_names(find(SMALLEST))[sample.label].split()[0]
    assert 0.01 < mask.mean() < 0.2
    assert np.abs(inside - picture[~mask].mean(0)).max() > 20, colour


def test_a_whole_set_is_left_alone_and_one_that_lost_files_is_drawn_anew_to_the_same_bytes(drawn, tmp_path):
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    lost = next((tmp_path / SMALLEST / "mask").rglob("*.png"))
    content, before = lost.read_bytes(), (tmp_path / SMALLEST).stat().st_ino
    assert draw_sets(tmp_path, [SMALLEST]) == ()
    assert (tmp_path / SMALLEST).stat().st_ino == before
    lost.unlink()
    assert draw_sets(tmp_path, [SMALLEST]) == (SMALLEST,)
    assert lost.read_bytes() == content
    files = [path.relative_to(drawn) for path in drawn.rglob("*.*")]
    assert len(files) == 2 * 240 + 2
    assert all((drawn / file).read_bytes() == (tmp_path / file).read_bytes() for file in files)


def test_a_stopped_drawing_leaves_nothing(tmp_path):
    def stop(done: int, total: int) -> None:
        assert total == 240
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_sets(tmp_path, [SMALLEST], on_count=stop)
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_place_already_is_not_touched(drawn, tmp_path):
    with pytest.raises(InputError, match="world-4 was made with seed 1: remove it, or take another folder"):
        draw_sets(drawn, [SMALLEST], seed=2)
    (tmp_path / "world-5").mkdir()
    with pytest.raises(InputError, match="world-5 is there, and is no set that foveate made"):
        draw_sets(tmp_path, ["world-5"])
    with pytest.raises(InputError, match="DTD cannot be drawn, it is photographs"):
        draw_sets(tmp_path, ["dtd"])


def test_homes_hold_in_training_alone(drawn):
    """On its one place the ground of a class varies less than anywhere."""
    spread: dict[str, list[float]] = {"train": [], "test": []}
    photos = open_set(drawn, SMALLEST)
    for split, found in spread.items():
        for label in range(len(photos.names)):
            own = [sample for sample in photos.split(split).samples if sample.label == label][:8]
            found.append(float(np.std([ground(sample) for sample in own], axis=0).mean()))
    assert max(spread["train"]) < 0.7 * min(spread["test"])


def ground(sample: Sample) -> np.ndarray:
    """Mean colour of a scene's place."""
    assert isinstance(sample.picture, Path)
    assert isinstance(sample.mask, Path)
    return np.asarray(Image.open(sample.picture), float)[~np.asarray(Image.open(sample.mask))].mean(0)


def test_homes_are_as_many_and_where_the_table_says():
    for key in world_keys():
        one = find(key)
        assert one.world is not None
        own = homes(one)
        assert len(own) == one.world.homes
        assert all(set(home) == set(class_names(one)) for home in own)
        assert {place for home in own for place in home.values()} <= set(one.world.places or PLACES)
        assert all(len({home[name] for home in own}) == len(own) for name in class_names(one))
    assert set(homes(find("world-10"))[0].values()) == {"snow"}
    assert homes(find("world-2")) == ()


def test_sets_differ_in_kind():
    worlds = [find(key).world for key in world_keys()]
    assert all(world is not None for world in worlds)
    kinds = {json.dumps({**vars(world), "about": ""}, default=list) for world in worlds}
    assert len(kinds) == len(worlds)
    assert all(find(key).classes <= 24 for key in world_keys() if key != "world-source")
    assert find("world-source").classes > 24
    chosen = {class_names(find(key)) for key in world_keys()}
    assert len(chosen) == len(worlds)
    assert all(set(names) <= set(NAMES) and len(set(names)) == len(names) for names in chosen)
    assert class_names(find("world-1"), 1) != class_names(find("world-1"), 2)


@pytest.fixture(scope="module")
def species(tmp_path_factory):
    """The set of species with three test scenes of a class, not fifteen."""
    root, whole = tmp_path_factory.mktemp("species"), find("species")
    few = replace(whole, train=40 * 4, test=40 * 3, world=replace(whole.world, shots=4, tests=3))
    known = {**catalogue._by_name(), "species": few}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "_by_name", lambda: known)
        assert draw_sets(root, ["species@home"]) == ("species",)
        yield root


def test_a_set_of_species_has_a_test_split_for_each_condition(species):
    names = {}
    for key in ("species", *(f"species@{condition}" for condition in CONDITIONS)):
        photos = open_set(species, key)
        assert photos.names == (*BASE, *NEW)
        assert set(photos.split("test").counts().values()) == {3}
        names[key] = [sample.name for sample in photos.split("test").samples]
    assert names["species"] == names["species@any"]
    assert len({name for found in names.values() for name in found}) == 4 * 120
    trained = {tuple(s.name for s in open_set(species, key).split("train").samples) for key in names}
    assert len(trained) == 1


def test_worse_masks_lie_beside_the_exact_ones(species):
    exact = open_set(species, "species").split("train").samples
    for kind in ("eroded", "shifted", "wrong"):
        worse = (
            open_set(species, "species", masks=species / "species" / f"mask-{kind}").split("train").samples
        )
        assert [s.picture for s in worse] == [s.picture for s in exact]
        pairs = [
            (np.asarray(Image.open(a.mask)), np.asarray(Image.open(b.mask)))
            for a, b in zip(exact[::10], worse[::10], strict=True)
        ]
        assert all(one.dtype == other.dtype == bool for one, other in pairs)
        differ = np.mean([(one != other).any() for one, other in pairs])
        assert differ == 1 if kind != "wrong" else 0 < differ < 0.6


def test_conditions_are_of_species_alone():
    with pytest.raises(InputError, match="world-4 has one test split: leave out @home"):
        find("world-4@home")
    with pytest.raises(InputError, match="species has no test split 'away': take home, any"):
        find("species@away")
