"""`MethodConfig`: base class of the settings of a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from foveate.configs import check_types
from foveate.errors import InputError

LARGEST = 100_000
"""Upper bound of whole-number settings: tokens, widths, steps. Larger values would fill any memory."""

AUTO = "auto"
"""Not a method: it stands for the method that suits the pictures best."""


def is_auto(method: str) -> bool:
    """Return whether the method is "auto", in any case: it is still to be chosen."""
    return method.strip().lower() == AUTO


@dataclass(frozen=True)
class Tried:
    """How `--method auto` tries a method.

    Attributes:
        rank: Methods of a low rank are tried first: 0 learns nothing, 1 solves an equation once, 2 searches
            for a setting too, 3 takes gradient steps, 4 takes them over another method.
        settings: Settings to try, each as changes to the defaults.
    """

    rank: int
    settings: tuple[Mapping[str, Any], ...] = field(default=({},))


@dataclass(frozen=True)
class MethodConfig:
    """Base class of a method's settings: a frozen dataclass; each field has a default.

    `Attributes` documents each field. A subclass with its own checks calls `super().__post_init__()` first.

    Attributes:
        part: Name of the method in messages; by default the class name without "Config", in lower case.
        recipe: Changes to the default training recipe.
    """

    part: ClassVar[str] = ""
    recipe: ClassVar[Mapping[str, object]] = {}

    def __init_subclass__(cls) -> None:
        cls.part = vars(cls).get("part") or cls.__name__.removesuffix("Config").lower()

    def __post_init__(self) -> None:
        check_types(self, self.part)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise InputError(
                    f"{self.part}: {setting.name} is {value}: give a whole number up to {LARGEST:,}"
                )

    @property
    def needs_masks(self) -> bool:
        """Whether a method with these settings trains on foreground masks."""
        return False

    @property
    def needs_val(self) -> bool:
        """Whether the method chooses settings on a few validation pictures."""
        return False

    @property
    def without_new_names(self) -> str | None:
        """Name of the setting that leaves no learned tensors for new classes, if there is one."""
        return None

    def demand(self, **demands: tuple[bool, str]) -> None:
        """Refuse settings that are out of range.

        Args:
            demands: For each setting, whether its value is in range, and the text of allowed values.

        Raises:
            InputError: The first setting out of range; the message names method, setting, value and
                remedy.
        """
        for name, (valid, allowed) in demands.items():
            if not valid:
                raise InputError(f"{self.part}: {name} is {getattr(self, name)}: give {allowed}")
