"""From the words on the command line to the arguments of a typed function."""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from foveate.errors import InputError


class Parser(ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the command line prints.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{' '.join(message.split())} (see {self.prog} --help)")


def parse(
    name: str,
    function: Callable[..., Any],
    words: Sequence[str],
    *,
    listed: str | None = None,
    settings: Mapping[str, type] | None = None,
    examples: str = "",
) -> dict[str, Any]:
    """Read the words behind `foveate NAME` as arguments of `function`.

    Options may be written with dashes or underscores, and a yes-or-no option without its `true`.

    Args:
        name: Of the command.
        function: Its parameters without a default are positional, the others options.
        words: What stands behind the name.
        listed: A positional that takes one word or more.
        settings: Per part of a method, its settings' dataclass; what is given of them is returned as
            `settings`, a dictionary of dictionaries.
        examples: Shown under the help.

    Raises:
        InputError: An option that does not exist, or a value that does not fit.
    """
    text = inspect.cleandoc(function.__doc__ or "").split("\n\n")[0]
    parser = Parser(prog=f"foveate {name}", description=f"{text}\n\n{_examples(examples)}")
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    skip: set[str | int] = {
        name for name in inspect.signature(function).parameters if name in ("settings", listed)
    }
    parser.add_function_arguments(function, as_positional=True, skip=skip, fail_untyped=False)
    if listed:
        parser.add_argument(listed, nargs="+", help="one or more")
    for part, config in (settings or {}).items():
        parser.add_class_arguments(config, part)
    values = parser.parse_args(_tidy(words, function)).as_dict()
    values.pop("config", None)
    if settings:
        given = {part: values.pop(part) for part in settings}
        values["settings"] = {part: _changed(given[part], config) for part, config in settings.items()}
        values["settings"] = {part: changed for part, changed in values["settings"].items() if changed}
    return values


def _tidy(words: Sequence[str], function: Callable[..., Any]) -> list[str]:
    """Write options the parser's way: underscores, and every switch with its value."""
    hints = inspect.signature(function).parameters
    switches = {f"--{name}" for name, parameter in hints.items() if parameter.annotation is bool}
    tidy: list[str] = []
    for place, word in enumerate(words):
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            word = "--" + option[2:].replace("-", "_") + equals + value
        tidy.append(word)
        following = words[place + 1].lower() if place + 1 < len(words) else ""
        if word in switches and following not in ("true", "false"):
            tidy.append("true")
    return tidy


def _changed(given: Mapping[str, Any], config: type) -> dict[str, Any]:
    defaults = asdict(config())
    return {
        name: tuple(value) if isinstance(defaults[name], tuple) else value
        for name, value in given.items()
        if value
        != (
            list(defaults[name])
            if isinstance(defaults[name], tuple) and isinstance(value, list)
            else defaults[name]
        )
    }


def _examples(text: str) -> str:
    return f"examples:\n{textwrap.indent(inspect.cleandoc(text), '  ')}" if text else ""
