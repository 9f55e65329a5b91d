"""The table of data sets against the field's own figures, and what it is asked by name."""

import json
from pathlib import Path

import pytest

from foveate.clip.templates import DATASET_TEMPLATES, KGCOOP_TEMPLATES
from foveate.data.naming import imagenet_names
from foveate.datasets.catalogue import find, keys, world_keys
from foveate.datasets.listing import official_names
from foveate.datasets.splits import official_split
from foveate.errors import InputError
from foveate.foreground.proposers.base import MASK_PROMPTS

# Specification of the protocol, table of section 2.1: classes, base, new.
PUBLISHED = {
    "imagenet": (1000, 500, 500),
    "caltech101": (100, 50, 50),
    "oxford_pets": (37, 19, 18),
    "stanford_cars": (196, 98, 98),
    "oxford_flowers": (102, 51, 51),
    "food101": (101, 51, 50),
    "fgvc_aircraft": (100, 50, 50),
    "sun397": (397, 199, 198),
    "dtd": (47, 24, 23),
    "eurosat": (10, 5, 5),
    "ucf101": (101, 51, 50),
}
SHIPPED = ("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "dtd", "eurosat", "ucf101")


def test_there_are_fifteen_sets_and_twelve_drawn_ones():
    assert len(keys()) == 15
    assert world_keys() == ("world-source", *(f"world-{n}" for n in range(1, 12)))
    assert tuple(key for key in keys() if not key.startswith("imagenet_")) == (*PUBLISHED, "imagenetv2")


@pytest.mark.parametrize("key", PUBLISHED)
def test_classes_are_the_published_ones(key):
    classes, base, new = PUBLISHED[key]
    assert find(key).classes == classes == base + new


@pytest.mark.parametrize("key", SHIPPED)
def test_counts_are_those_of_the_official_split(key):
    one, split = find(key), official_split(find(key))
    assert split is not None
    assert split.counts() == {"train": one.train, "val": one.val, "test": one.test}
    assert len(split.names) == one.classes


def test_the_other_sets_have_no_split_with_foveate():
    assert [key for key in keys() if official_split(find(key))] == [key for key in keys() if key in SHIPPED]


@pytest.mark.parametrize("key", PUBLISHED)
def test_names_and_their_order_are_known_of_all_eleven(key):
    names = official_names(find(key))
    assert names is not None
    assert len(set(names)) == len(names) == find(key).classes
    assert not any("_" in name for name in names)


@pytest.mark.parametrize("key", keys())
def test_templates_and_prompts_are_the_tables_we_have(key):
    one = find(key)
    assert one.template == DATASET_TEMPLATES[one.config]
    assert one.kgcoop_template == KGCOOP_TEMPLATES[one.config]
    assert one.config in MASK_PROMPTS


def test_titles_are_those_of_the_papers_tables():
    path = Path(__file__).parents[2] / ".." / "shared" / "data" / "paper-tables.json"
    if not path.exists():
        pytest.skip(f"no published tables: {path} is not there")
    rows = json.loads(path.read_text())["base_to_new"]["CoOp"]
    assert {find(title).title for title in rows if title != "average"} == set(rows) - {"average"}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("DTD", "dtd"),
        ("DescribableTextures", "dtd"),
        ("Flowers102", "oxford_flowers"),
        ("oxford-flowers", "oxford_flowers"),
        ("ImageNet-A", "imagenet_a"),
        ("ImageNetV2", "imagenetv2"),
        ("WORLD-3", "world-3"),
    ],
)
def test_a_set_has_several_names(name, key):
    assert find(name).key == key


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"there is no data set 'eurosta'; did you mean 'eurosat'\?"):
        find("eurosta")
    with pytest.raises(InputError, match="there are imagenet, caltech101"):
        find("zzz")


def test_clips_names_of_imagenet_have_no_two_alike():
    names = imagenet_names()
    assert list(names) == sorted(names)
    assert len(set(names.values())) == len(names) == 1000
    assert names["n01494475"] == "hammerhead shark"  # ImageNet's own list says hammerhead
    assert (names["n03773504"], names["n04008634"]) == ("missile", "projectile")  # both missile in CLIP's
