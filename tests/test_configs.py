"""Values as their dataclass declares them, whether they come from Python, from YAML or from typed words."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from foveate.configs import check, from_text, nearest, typed
from foveate.errors import InputError

Fill = Literal["mean", "black"]


@dataclass(frozen=True)
class Toy:
    """A few settings."""

    number: int = 1
    rate: float = 0.5
    limit: float | None = None
    fill: Fill = "mean"
    fills: tuple[Fill, ...] = ()
    on: bool = False


def test_yaml_knows_no_tuples_and_no_floats_without_a_point():
    read = typed(Toy, {"rate": 1, "limit": 2, "fills": ["mean"]}, "toy")
    assert read == {"rate": 1.0, "limit": 2.0, "fills": ("mean",)}
    assert [type(value) for value in read.values()] == [float, float, tuple]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"numberr": 1}, "toy has no setting 'numberr'; did you mean 'number'?"),
        ({"xyz": 1}, "toy has no setting 'xyz'; there are number, rate, limit, fill, fills, on"),
        ({"number": 1.5}, "toy: number is 1.5: give a whole number"),
        ({"number": True}, "toy: number is True: give a whole number"),
        ({"rate": "fast"}, "toy: rate is 'fast': give a number"),
        ({"rate": float("nan")}, "toy: rate is nan: give a number"),
        ({"limit": "none"}, "toy: limit is 'none': give a number or none"),
        ({"fill": "blackk"}, "toy: fill is 'blackk': give one of mean, black (did you mean 'black'?)"),
        ({"fills": ["mean", "red"]}, "toy: fills is 'red': give one of mean, black"),
        ({"fills": "mean"}, "toy: fills is 'mean': give a list of mean, black"),
        ({"on": 1}, "toy: on is 1: give true or false"),
        (3, "toy is 3: give its settings by name"),
    ],
)
def test_what_does_not_fit_is_one_line(given: Any, says: str):
    with pytest.raises(InputError) as caught:
        typed(Toy, given, "toy")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("1e-3", float, 1e-3),
        ("none", float | None, None),
        ("null", str | None, None),
        ("none", str, "none"),
        ("FALSE", bool, False),
        ("007", str, "007"),
        ("black", Fill, "black"),
    ],
)
def test_a_typed_word(text: str, hint: Any, value: object):
    read = from_text("--x", text, hint)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(("text", "hint"), [("3.5", int), ("nan", float), ("inf", float), ("yes", bool)])
def test_a_word_that_says_no_such_value_is_told_as_it_was_typed(text: str, hint: Any):
    with pytest.raises(InputError, match=f"--x is '{text}': give "):
        from_text("--x", text, hint)


def test_one_value_and_names():
    assert check("seeds", [1, 2], tuple[int, ...]) == (1, 2)
    assert check("photos", ["a"], list[str]) == ["a"]
    assert nearest("x", []) == "there is none"
