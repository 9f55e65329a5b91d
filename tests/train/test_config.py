"""A run as a value: read from anything, written, and known again by its hash."""

import json
import subprocess
import sys

import pytest
import yaml

from foveate.errors import InputError
from foveate.train.config import RunConfig

LATER = {
    ("recipe", "exchange_grounds"),
    ("fvgpt", "prior_templates"),
    ("fvgpt", "prior_classes"),
    ("fvgpt", "target_from"),
}
"""Settings with the metadata `ADDED`; they are in an identity only if they differ from their default."""

PLAIN = {"photos": "photos/", "method": "fvgpt+coop", "masks": "masks/", "shots": 4}


def test_options_settings_and_recipe_stand_side_by_side():
    flat = RunConfig.of({**PLAIN, "epochs": 5, "coop.tokens": 8, "fvgpt": {"tau": 1}})
    nested = RunConfig.of(
        {**PLAIN, "recipe": {"epochs": 5}, "settings": {"coop": {"tokens": 8}, "fvgpt": {"tau": 1.0}}}
    )
    assert flat == nested
    assert (flat.schedule.epochs, flat.schedule.lr) == (5, 0.0035)
    assert (flat.configured["coop"].tokens, flat.configured["fvgpt"].tau) == (8, 1.0)


def test_what_is_written_is_read_again():
    run = RunConfig.of({**PLAIN, "epochs": 5, "fvgpt.terms": ["base", "gate"], "bank": "off", "lr": 1e-3})
    for copy in (json.loads(json.dumps(run.as_dict())), yaml.safe_load(yaml.safe_dump(run.as_dict()))):
        again = RunConfig.of(copy)
        assert again == run
        assert again.key == run.key
    assert set(run.as_dict()) == {"photos", "masks", "shots", "recipe", "settings", "bank"}


@pytest.mark.parametrize(
    "same",
    [
        {"method": "FVGPT+CoOp"},
        {"epochs": 10},  # the recipe's own
        {"exchange_grounds": "inpaint"},
        {"coop.tokens": 4},  # the default
        {"device": "cuda"},
        {"bank_dir": "elsewhere"},
        {"bank": "off"},
    ],
)
def test_what_decides_nothing_is_no_other_run(same: dict[str, object]):
    assert RunConfig.of({**PLAIN, **same}).key == RunConfig.of(PLAIN).key


@pytest.mark.parametrize(
    "other",
    [
        {"photos": "others/"},
        {"masks": "others/"},
        {"seed": 2},
        {"shots": 5},
        {"classes": "base"},
        {"clip": "ViT-B/16"},
        {"dtype": "bfloat16"},
        {"epochs": 11},
        {"exchange_grounds": "mean"},
        {"coop.tokens": 5},
        {"template": "a {}."},
        {"bank": "fixed"},
        {"bank_dtype": "float16"},
        {"backbone": "out/coop"},
        {"shots": None, "select": "herding", "fraction": 0.5},
    ],
)
def test_what_decides_makes_another_run(other: dict[str, object]):
    assert RunConfig.of({**PLAIN, **other}).key != RunConfig.of(PLAIN).key


@pytest.mark.parametrize("method", ["coop", "fvgpt+coop", "exchange+mmrl"])
def test_settings_that_came_later_leave_earlier_runs_the_same(method: str):
    """So a folder or a sweep from before is still found to be done."""
    own = RunConfig.of({**PLAIN, "method": method}).identity()
    tables = {"recipe": own["recipe"], **own["settings"]}
    assert LATER.isdisjoint((part, name) for part, table in tables.items() for name in table)
    assert (
        RunConfig.of({**PLAIN, "exchange_grounds": "mean"}).identity()["recipe"]["exchange_grounds"] == "mean"
    )


def test_masks_are_nothing_to_a_method_without():
    coop = {**PLAIN, "method": "coop"}
    assert RunConfig.of(coop).key == RunConfig.of({**coop, "masks": "others/"}).key


def test_the_backbone_of_a_run_is_a_run():
    run = RunConfig.of({**PLAIN, "coop.tokens": 8, "fvgpt.tau": 1.0})
    assert run.inner == RunConfig.of({**PLAIN, "method": "coop", "coop.tokens": 8})
    assert run.inner is not None
    assert run.inner.inner is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epoch": 3}, "a run has no option 'epoch'; did you mean 'epochs'?"),
        ({"coop.token": 3}, "coop has no setting 'token'; did you mean 'tokens'?"),
        ({"coop": 3}, "coop is 3: give its settings by name"),
        ({"fvgpt.tau": 0.0}, "fvgpt: tau is 0.0: give a temperature above zero"),
        ({"shots": "4"}, "shots is '4': give a whole number or none"),
        ({"shots": 0}, "shots is 0: give at least 1"),
        ({"select": "herding", "fraction": 0.5}, "--select and --shots both say how many pictures"),
        ({"shots": None, "fraction": 0.5}, "--fraction is 0.5: say who chooses with --select"),
        ({"shots": None, "select": "herding"}, "--select is herding: say which share"),
        ({"exchange_grounds": "black"}, "exchange_grounds is 'black': give one of inpaint, mean"),
        ({"bank": "fixed", "augment": "squash"}, "bank is 'fixed', which takes the centred view alone"),
        ({"kgcoop.weight": 3}, "settings for 'kgcoop', but the method is 'fvgpt+coop'"),
        ({"template": "no place"}, "template 'no place'"),
    ],
)
def test_a_mistake_is_one_line(wrong: dict[str, object], says: str):
    with pytest.raises(InputError) as caught:
        RunConfig.of({**PLAIN, **wrong})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_is_declared_without_pytorch():
    code = "import sys, foveate.train.config; assert not {'torch', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
