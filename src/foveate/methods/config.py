"""Settings of a method: what each settings dataclass is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from foveate.configs import check_types
from foveate.errors import InputError

LARGEST = 100_000
"""Of a setting that is a whole number: tokens, widths, steps. What is larger would fill any memory."""


@dataclass(frozen=True)
class MethodConfig:
    """Settings of a method: a frozen dataclass, every field with a default and a line in `Attributes`.

    A subclass that checks more calls `super().__post_init__()` first.

    Attributes:
        part: What messages call the method; by default the class name without "Config", in lower case.
        recipe: In which settings its training differs from the default recipe's.
    """

    part: ClassVar[str] = ""
    recipe: ClassVar[Mapping[str, object]] = {}

    def __init_subclass__(cls) -> None:
        cls.part = vars(cls).get("part") or cls.__name__.removesuffix("Config").lower()

    def __post_init__(self) -> None:
        check_types(self, self.part)
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int) and abs(value) > LARGEST:
                raise InputError(f"{self.part}: {one.name} is {value}: give a whole number up to {LARGEST:,}")

    @property
    def needs_masks(self) -> bool:
        """Whether a method with these settings learns from foreground masks."""
        return False

    @property
    def needs_val(self) -> bool:
        """Whether it chooses others on a few validation pictures."""
        return False

    @property
    def without_new_names(self) -> str | None:
        """The setting that leaves nothing for classes that were not trained on, if there is one."""
        return None

    def demand(self, **demands: tuple[bool, str]) -> None:
        """Refuse settings that are out of their range.

        Args:
            demands: By setting, whether its value is in range, and what to give instead.

        Raises:
            InputError: The first that is not; it names the method, the setting, the value and the remedy.
        """
        for name, (holds, wanted) in demands.items():
            if not holds:
                raise InputError(f"{self.part}: {name} is {getattr(self, name)}: give {wanted}")
