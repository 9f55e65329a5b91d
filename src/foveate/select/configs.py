"""Names and settings of the selectors, in a module without PyTorch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from foveate.configs import check_types, nearest, typed
from foveate.errors import InputError

Name = Literal[
    "uniform",
    "herding",
    "kcenter",
    "confidence",
    "entropy",
    "margin",
    "grand",
    "graphcut",
    "facility",
    "craig",
    "glister",
    "cal",
    "forgetting",
]
"""Values of `--select`."""


@dataclass(frozen=True)
class HerdingConfig:
    """Settings of herding.

    Attributes:
        deepcore: Take the farthest candidate at each step, like DeepCore's and DAPT's code, instead of
            the nearest.
    """

    deepcore: bool = False

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class GraphCutConfig:
    """Settings of graph cut.

    Attributes:
        weight: λ, the weight of similarity to the class; dissimilarity of the chosen pictures has weight
            1.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class GlisterConfig:
    """Settings of Glister.

    Attributes:
        rate: Learning rate η of the look-ahead step; 0 uses only the untrained model.
        rounds: Number of times that the held-out gradient is updated.
        validation: Share of the pool that is held out for validation, at least one picture per class.
    """

    rate: float = 0.0035
    rounds: int = 10
    validation: float = 0.1

    def __post_init__(self) -> None:
        check_types(self)
        if self.rate < 0:
            raise InputError(f"glister: rate is {self.rate}: give 0 or more")
        if self.rounds < 1:
            raise InputError(f"glister: rounds is {self.rounds}: give at least 1")
        if not 0 < self.validation < 1:
            raise InputError(f"glister: validation is {self.validation}: give a number between 0 and 1")


@dataclass(frozen=True)
class CalConfig:
    """Settings of CAL.

    Attributes:
        neighbours: Number of neighbours.
        keep: Keep the pictures that differ most from them, as in CAL's paper, or least, as in DAPT's
            code.
    """

    neighbours: int = 10
    keep: Literal["highest", "lowest"] = "highest"

    def __post_init__(self) -> None:
        check_types(self)
        if self.neighbours < 1:
            raise InputError(f"cal: neighbours is {self.neighbours}: give at least 1")


@dataclass(frozen=True)
class NoSettings:
    """Settings of selectors without settings."""


CONFIGS: dict[str, type] = {
    "herding": HerdingConfig,
    "graphcut": GraphCutConfig,
    "glister": GlisterConfig,
    "cal": CalConfig,
}
"""Settings classes of the selectors that have settings."""


def configure(name: str, settings: dict[str, Any]) -> Any:
    """Return the settings of a selector.

    Raises:
        InputError: The selector or a setting does not exist, or a value is out of range.
    """
    if name not in get_args(Name):
        raise InputError(f"there is no selector {name!r}; {nearest(name, get_args(Name))}")
    kind = CONFIGS.get(name, NoSettings)
    return kind(**typed(kind, settings, name))
