"""Settings given from Python: a wrong one is one line that says what there is."""

from collections.abc import Generator
from dataclasses import asdict

import jaxtyping
import pytest

from foveate.errors import InputError
from foveate.methods.base import check_names
from foveate.methods.configs import TERMS, CoOpConfig, FvgPtConfig, ZeroShotConfig
from foveate.methods.registry import configure, methods, parts


@pytest.fixture
def as_installed() -> Generator[None]:
    """Without the tests' own checks of argument types, which no user has."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


WRONG = [
    (FvgPtConfig, "adapters", "bot", "fvgpt: adapters is 'bot': give one of both, image, text, none (did"),
    (FvgPtConfig, "adapters", "left", "fvgpt: adapters is 'left': give one of both, image, text, none"),
    (FvgPtConfig, "adapters", None, "fvgpt: adapters is None: give one of both, image, text, none"),
    (FvgPtConfig, "entropy", "normalized", "'normalized': give one of nats, normalised (did you mean 'norm"),
    (
        FvgPtConfig,
        "terms",
        ("base", "dist"),
        "fvgpt: terms is 'dist': give one of base, gate, distill, prior, ",
    ),
    (
        FvgPtConfig,
        "terms",
        ["dist"],
        "fvgpt: terms is 'dist': give one of base, gate, distill, prior, prior_kl",
    ),
    (FvgPtConfig, "terms", "base", "fvgpt: terms is 'base': give a list of base, gate, distill, prior"),
    (FvgPtConfig, "bias", 1, "fvgpt: bias is 1: give true or false"),
    (FvgPtConfig, "bias", "no", "fvgpt: bias is 'no': give true or false"),
    (FvgPtConfig, "tau", "2", "fvgpt: tau is '2': give a number"),
    (FvgPtConfig, "tau", True, "fvgpt: tau is True: give a number"),
    (FvgPtConfig, "lambda_gate", float("nan"), "fvgpt: lambda_gate is nan: give a number"),
    (FvgPtConfig, "prior_trust", "0.5", "fvgpt: prior_trust is '0.5': give a number or none"),
    (FvgPtConfig, "prior_template", None, "fvgpt: prior_template is None: give text"),
    (CoOpConfig, "position", "start", "coop: position is 'start': give one of end, middle, front"),
    (CoOpConfig, "tokens", "4", "coop: tokens is '4': give a whole number"),
    (CoOpConfig, "tokens", 4.0, "coop: tokens is 4.0: give a whole number"),
    (CoOpConfig, "tokens", True, "coop: tokens is True: give a whole number"),
    (CoOpConfig, "init", 3, "coop: init is 3: give text or none"),
    (ZeroShotConfig, "template", 3, "zeroshot: template is 3: give text or none"),
]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("config", "name", "value", "message"), WRONG)
def test_a_value_of_another_kind_is_refused_in_one_line(config: type, name: str, value: object, message: str):
    part = next(part for part, one in methods().items() if one.config_type is config)
    method = part if part != "fvgpt" else "fvgpt+coop"
    for make in (lambda: config(**{name: value}), lambda: configure(method, {part: {name: value}})):
        with pytest.raises(InputError) as caught:
            make()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", methods())
def test_the_defaults_are_of_their_kinds(part: str):
    config = methods()[part].config_type()
    assert methods()[part].config_type(**asdict(config)) == config


@pytest.mark.usefixtures("as_installed")
def test_what_fits_is_taken():
    assert FvgPtConfig(tau=3, prior_trust=1, terms=TERMS[:2]).tau == 3
    assert configure("fvgpt+coop", {"fvgpt": {"terms": ["base"]}})["fvgpt"].terms == ("base",)
    assert CoOpConfig(init="a photo of a").init == "a photo of a"


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coop": 3}, "coop is 3: give its settings by name"),
        ("tokens=4", "settings is 'tokens=4': give a dictionary"),
    ],
)
def test_settings_that_are_no_dictionary_are_refused(settings: object, message: str):
    with pytest.raises(InputError) as caught:
        configure("coop", settings)  # pyright: ignore[reportArgumentType]
    assert message in str(caught.value)


def test_a_plug_in_stands_once():
    with pytest.raises(InputError) as caught:
        parts("fvgpt+FVGPT+coop")
    assert str(caught.value) == "method 'fvgpt+FVGPT+coop' has 'fvgpt' twice; write each plug-in once"


def test_one_string_is_no_list_of_names():
    with pytest.raises(InputError, match=r"class names are 'cat': give a list of names, not one string"):
        check_names("cat")
