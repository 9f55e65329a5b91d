"""Settings by source, against the papers' and the repositories' figures."""

from typing import Any, get_args

import pytest

from foveate.datasets.catalogue import keys
from foveate.methods.registry import configure, parts
from foveate.sweep.jobs import Protocol
from foveate.sweep.recipes import Case, Settled, Source, _rules, settle
from foveate.train.recipe import recipe_for


def _of(
    source: str, method: str, protocol: str = "base-to-new", dataset: str = "dtd", shots: int = 16
) -> Settled:
    return settle(source, Case(protocol, method, dataset, shots))


def test_every_rule_fits_what_there_is():
    """A name that is misspelled in the data would hold nowhere, and nobody would see it."""
    for rules in _rules().values():
        for rule in rules:
            given: dict[str, list[Any]] = {
                name: value if isinstance(value, list) else [value] for name, value in rule.items()
            }
            assert given.keys() <= {
                "protocol",
                "method",
                "backbone",
                "dataset",
                "shots",
                "training",
                "settings",
            }
            assert set(given.get("protocol", [])) <= set(get_args(Protocol))
            assert set(given.get("dataset", [])) <= set(keys())
            for method in (*given.get("method", []), *given.get("backbone", [])):
                assert "+".join(parts(method)) == method
                recipe_for(method, settle("paper", Case("x", method, "x", 1)).training)
                configure(method, settle("upstream", Case("x", method, "x", 1)).settings)


@pytest.mark.parametrize("source", get_args(Source))
def test_every_case_can_be_run(source: str):
    methods = ("coop", "fvgpt+coop", "kgcoop", "promptsrc", "mmrl", "fvgpt+mmrl", "dapt+maple", "hicropl")
    for method in methods:
        for protocol in get_args(Protocol):
            for dataset in keys():
                said = _of(source, method, protocol, dataset)
                recipe_for(method, said.training)
                configure(method, said.settings)


def test_the_sources_differ_where_the_spec_says_so():
    assert _of("paper", "promptsrc").training["lr"] == 0.0035
    assert _of("released-code", "promptsrc").training["batch_size"] == 32
    assert _of("upstream", "promptsrc").training["epochs"] == 20
    assert _of("paper", "kgcoop").settings == {"kgcoop": {"init": None}}
    assert _of("released-code", "kgcoop").settings == {"kgcoop": {"weight": 2.0}}
    assert _of("upstream", "kgcoop").settings == {"kgcoop": {"weight": 8.0}}
    assert _of("upstream", "mmrl", dataset="oxford_pets").settings == {"mmrl": {"regulariser": 0.2}}
    assert _of("upstream", "mmrl", dataset="eurosat").settings["mmrl"]["width"] == 2048
    crossed = _of("upstream", "mmrl", "cross-dataset", "imagenet")
    assert crossed.settings == {"mmrl": {"regulariser": 0.2, "width": 512}}
    assert (crossed.training["epochs"], crossed.training["batch_size"]) == (1, 32)
    assert _of("paper", "mmrl", "cross-dataset", "imagenet").training["epochs"] == 5
    assert _of("upstream", "coop", shots=1, protocol="few-shot").training["epochs"] == 50
    for protocol in ("base-to-new", "seed-robustness", "data-efficiency"):
        for method in ("coop", "fvgpt+coop"):
            said = _of("paper", method, protocol, "eurosat").training
            assert (said["epochs"], said["lr"]) == (20, 0.0035)
            said = _of("released-code", method, protocol, "eurosat").training
            assert (said["epochs"], said["lr"]) == (20, 0.002)
    assert _of("released-code", "coop").training["augment"] == "squash"
    assert _of("released-code", "fvgpt+coop").training["augment"] == "rrc-flip"
    for source in get_args(Source):
        assert _of(source, "fvgpt+mmrl").settings["fvgpt"] == {"lambda_distill": 5.0}


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalisation"])
def test_settings_of_models_that_are_carried_over(protocol: str):
    """As each repository's file for it has them; the paper's text has but epochs and rate."""
    for source, epochs, lr in (("paper", 5, 0.0035), ("released-code", 5, 0.0035), ("upstream", 20, 0.0025)):
        said = _of(source, "promptsrc", protocol, "imagenet")
        assert said.settings == {"promptsrc": {"text_depth": 3, "vision_depth": 3}}
        recipe = recipe_for("promptsrc", said.training)
        assert (recipe.epochs, recipe.lr, recipe.batch_size) == (epochs, lr, 4)
        assert (recipe.average_mean, recipe.average_std) == (6, 10)
        carried = _of(source, "mmrl", protocol, "imagenet")
        assert carried.settings["mmrl"]["regulariser"] == 0.2
        assert recipe_for("mmrl", carried.training).warmup_epochs == 0
        carried = _of(source, "fvgpt+hicropl", protocol, "imagenet")
        assert carried.settings["hicropl"] == {
            "tokens": 2,
            "init": "a photo of a",
            "depth": 6,
            "cross_layer": 5,
        }
        assert (carried.training["epochs"], carried.training["batch_size"]) == (5, 32)
        assert _of(source, "hicropl", dataset="imagenet").training == {"epochs": 40, "batch_size": 128}
        assert not _of(source, "hicropl", dataset="food101").training
    assert _of("released-code", "maple", protocol, "imagenet").training["epochs"] == 2
    assert _of("upstream", "maple", protocol, "imagenet").settings == {"maple": {"depth": 3}}


def test_settings_of_few_shot():
    said = _of("released-code", "mmrl", "few-shot")
    assert (said.training["epochs"], said.training["batch_size"]) == (50, 32)
    assert said.settings == {"mmrl": {"regulariser": 0.5}}
    said = _of("released-code", "mmrl", "few-shot", "imagenet")
    assert (said.training["epochs"], said.training["batch_size"]) == (5, 32)
    assert said.settings == {"mmrl": {"regulariser": 1.0}}
    assert _of("upstream", "coop", "few-shot").settings == {"coop": {"tokens": 16}}
    assert _of("upstream", "coop", "base-to-new").settings == {}


def test_settings_of_parts_that_are_not_there_are_left_out():
    assert _of("upstream", "kgcoop").settings.keys() == {"kgcoop"}
    assert "fvgpt" not in _of("released-code", "mmrl").settings
