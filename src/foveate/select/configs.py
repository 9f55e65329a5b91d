"""The selectors' names and settings, apart from what imports PyTorch."""

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
"""What `--select` takes."""


@dataclass(frozen=True)
class HerdingConfig:
    """Settings of herding.

    Attributes:
        deepcore: Take the farthest candidate at each step, as DeepCore and DAPT's code do, not the nearest.
    """

    deepcore: bool = False

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class GraphCutConfig:
    """Settings of graph cut.

    Attributes:
        weight: λ of being like the class, against 1 of not being like each other.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class GlisterConfig:
    """Settings of Glister.

    Attributes:
        rate: Learning rate η of the step that is looked ahead; 0 looks at the untrained model alone.
        rounds: How often the held-out gradient is taken anew while pictures are chosen.
        validation: Share of the pool that is held out to measure on, at least one picture a class.
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
        neighbours: How many are compared with.
        keep: The pictures that differ most from them, as CAL's paper does, or least, as DAPT's code does.
    """

    neighbours: int = 10
    keep: Literal["highest", "lowest"] = "highest"

    def __post_init__(self) -> None:
        check_types(self)
        if self.neighbours < 1:
            raise InputError(f"cal: neighbours is {self.neighbours}: give at least 1")


@dataclass(frozen=True)
class NoSettings:
    """Of selectors that have none."""


CONFIGS: dict[str, type] = {
    "herding": HerdingConfig,
    "graphcut": GraphCutConfig,
    "glister": GlisterConfig,
    "cal": CalConfig,
}
"""Settings of those selectors that have any."""


def configure(name: str, settings: dict[str, Any]) -> Any:
    """Return the settings of a selector.

    Raises:
        InputError: No such selector or setting, or a value out of its range.
    """
    if name not in get_args(Name):
        raise InputError(f"there is no selector {name!r}; {nearest(name, get_args(Name))}")
    kind = CONFIGS.get(name, NoSettings)
    return kind(**typed(kind, settings, name))
