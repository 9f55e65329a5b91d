"""The sentences of the paper's Table 9, and what stands in for them."""

import pytest
from PIL import Image

from foveate.clip.templates import DATASET_TEMPLATES
from foveate.errors import InputError
from foveate.foreground.proposers.base import MASK_PROMPTS, Request, mask_prompt, search_text

TABLE_9 = {
    "ImageNet": "the whole tree frog in the middle",
    "Food101": "the whole tree frog in the middle",
    "Caltech101": "a huge tree frog",
    "StanfordCars": "a huge and whole car",
    "OxfordPets": "the pet in the middle",
    "OxfordFlowers": "the flower in the middle",
    "DescribableTextures": "the tree frog",
    "SUN397": "the tree frog",
    "EuroSAT": "the satellite tree frog",
    "FGVCAircraft": "the huge airplane in the middle",
    "UCF101": "the people with tree frog",
}


@pytest.mark.parametrize("dataset", TABLE_9)
def test_each_data_set_has_the_papers_sentence(dataset: str):
    assert mask_prompt(dataset, "tree frog") == TABLE_9[dataset]


@pytest.mark.parametrize("written", ["oxford_pets", "OXFORD-PETS", "Oxford Pets", "oxfordpets"])
def test_a_data_set_is_known_however_it_is_written(written: str):
    assert mask_prompt(written, "tree frog") == "the pet in the middle"


@pytest.mark.parametrize("dataset", [None, "", "my own photos"])
def test_other_data_sets_are_asked_plainly(dataset: str | None):
    assert mask_prompt(dataset, "Tree_frog") == "the Tree frog"


def test_a_class_name_with_braces_is_only_a_name():
    assert mask_prompt("Caltech101", "{0} {} {name}") == "a huge {0} {} {name}"


def test_without_a_class_name_there_is_nothing_to_ask_but_where_it_is_not_needed():
    assert mask_prompt("Caltech101", "_") == mask_prompt(None, "") == ""
    assert mask_prompt("StanfordCars", "") == "a huge and whole car"


def test_every_data_set_that_has_a_template_has_a_sentence():
    assert set(MASK_PROMPTS) == set(DATASET_TEMPLATES)


@pytest.mark.parametrize(
    ("label", "prompt", "expected"),
    [("tree_frog", "", "tree frog"), ("frog", " the frog ", "the frog"), ("", "a leaf", "a leaf")],
)
def test_the_prompt_is_looked_for_and_else_the_class(label: str, prompt: str, expected: str):
    assert search_text(Request("a.jpg", Image.new("RGB", (2, 2)), label, prompt), "sam3") == expected


def test_neither_is_a_mistake_that_names_the_picture():
    with pytest.raises(InputError, match=r"^a/b.jpg: sam3 must be told what to look for"):
        search_text(Request("a/b.jpg", Image.new("RGB", (2, 2)), "_", " "), "sam3")
