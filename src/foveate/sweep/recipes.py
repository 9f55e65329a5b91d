"""Training settings by source: a paper, its released code, or a method's own authors.

The sources differ, so every result names its source. The rules are data, in `recipes.yaml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast

import yaml

from foveate.configs import typed
from foveate.methods.registry import methods, parts
from foveate.train.recipe import Recipe

Source = Literal["paper", "released-code", "upstream"]
_EVERY = "every"
_EFFECTS = ("training", "settings")


@dataclass(frozen=True)
class Case:
    """Values that are compared with the conditions of the rules.

    Attributes:
        protocol: Key of the protocol.
        method: Method, e.g. "fvgpt+coop".
        dataset: Key of the training set.
        shots: Pictures of each class; 0 if a selector chooses them.
    """

    protocol: str
    method: str
    dataset: str
    shots: int

    @property
    def values(self) -> dict[str, object]:
        """Return the values that rules may use."""
        values: dict[str, object] = {
            "protocol": self.protocol,
            "method": self.method,
            "dataset": self.dataset,
            "shots": self.shots,
        }
        return {**values, "backbone": parts(self.method)[-1]}


@dataclass(frozen=True)
class Settled:
    """Settings from a source.

    Attributes:
        training: Changes to the training recipe.
        settings: Changes to the settings, for each part of the method.
    """

    training: dict[str, Any]
    settings: dict[str, dict[str, Any]]


def settle(source: Source, case: Case) -> Settled:
    """Return a source's settings for a case; later rules override earlier ones."""
    training: dict[str, Any] = {}
    settings: dict[str, dict[str, Any]] = {}
    known, part_names = case.values, parts(case.method)
    for rule in (*_rules()[_EVERY], *_rules()[source]):
        if not _fits(rule, known):
            continue
        training |= rule.get("training", {})
        for part, values in rule.get("settings", {}).items():
            if part in part_names:
                settings[part] = {**settings.get(part, {}), **values}
    typed_settings = {
        part: typed(methods()[part].config_type, values, part) for part, values in settings.items()
    }
    return Settled(typed(Recipe, training, ""), typed_settings)


def _fits(rule: Mapping[str, Any], known: Mapping[str, object]) -> bool:
    conditions = {name: value for name, value in rule.items() if name not in _EFFECTS}
    return all(
        known[name] in (value if isinstance(value, list) else [value]) for name, value in conditions.items()
    )


@cache
def _rules() -> dict[str, list[dict[str, Any]]]:
    text = files("foveate.sweep").joinpath("recipes.yaml").read_text(encoding="utf-8")
    return cast("dict[str, list[dict[str, Any]]]", yaml.safe_load(text))
