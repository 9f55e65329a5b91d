"""Numbers as settings take them: a YAML file says 5 where a setting is 5.0."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from foveate.methods.registry import methods
from foveate.train.recipe import Recipe


def as_settings(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a part of a method; whole numbers are floats, lists tuples, where it has these."""
    return _typed(methods()[part].config_type, values)


def as_training(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return changes to a training recipe likewise."""
    return _typed(Recipe, values)


def _typed(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = {one.name: one.type for one in fields(config)}
    return {name: _as(hints.get(name), value) for name, value in values.items()}


def _as(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    takes_floats = hint is float or float in get_args(hint)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if takes_floats and whole else value
