"""The background words: the released lists, and what names a class."""

import pytest

from foveate.clip.templates import DATASET_TEMPLATES
from foveate.methods.backgrounds import FOOD, GENERIC, backgrounds_for, without_collisions


def test_the_lists_are_the_released_ones():
    assert len(GENERIC) == 25
    assert len(FOOD) == 7
    assert (GENERIC[0], GENERIC[6], GENERIC[7], GENERIC[-1]) == ("ground", "sky", "lake", "sign")
    assert FOOD == ("table", "forks", "tablecloth", "hands", "spoon", "glasses", "dishes")
    assert len({*GENERIC, *FOOD}) == 32


def test_the_table_is_for_food_alone():
    with_table = [name for name, text in DATASET_TEMPLATES.items() if len(backgrounds_for(text)) == 32]
    assert with_table == ["Food101"]
    assert backgrounds_for(None) == GENERIC


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        (["golden retriever", "seal"], []),  # "sea" is no word of "seal"
        (["Annual Crop Land", "Residential Buildings", "River", "Sea or Lake", "Highway_or_Road"],
         ["land", "building", "lake", "river", "sea", "road"]),  # EuroSAT
        (["street sign", "computer keyboard", "football helmet"], ["keyboard", "helmet", "street", "sign"]),
        (["WATER-LILY"], ["water"]),
        (["grasshopper", "glass"], []),
    ],
)  # fmt: skip
def test_words_that_name_a_class_are_dropped(names: list[str], dropped: list[str]):
    kept, left = without_collisions(GENERIC, names)
    assert left == dropped
    assert kept == [word for word in GENERIC if word not in dropped]


def test_several_words_must_stand_one_behind_the_other():
    words = ["stone wall", "blue sky", "grass"]
    assert without_collisions(words, ["old stone walls", "sky that is blue"])[1] == ["stone wall"]
