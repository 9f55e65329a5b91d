"""From the words on the command line to the arguments of a typed function."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn, get_origin

from jsonargparse import ArgumentParser

from foveate.commands.options import Option, first_paragraph, function_options, help_text, part_options
from foveate.errors import InputError

_OWN = {
    "config": Option("config", str, None, "YAML file with any of these options; given ones win."),
    "print_config": Option("print_config", bool, None, "Print all options as such a file, and do nothing."),
    "help": Option("help", bool, None, "Show this."),
}


class Parser(ArgumentParser):
    """Says what is wrong in one line.

    Attributes:
        options: What there is, to explain what was expected.
        file: The config file, if one was given.
    """

    options: Mapping[str, Option]
    file: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the command line prints.

        Raises:
            InputError: Always.
        """
        line = " ".join(message.split())
        raise InputError(f"{_in_words(line, self.options, self.file)} (see {self.prog} --help)")


def parse(  # noqa: PLR0913  (all but the first three by name)
    name: str,
    function: Callable[..., Any],
    words: Sequence[str],
    *,
    positional: str = "model",
    listed: str | None = None,
    settings: Mapping[str, type] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    examples: str = "",
) -> dict[str, Any]:
    """Read the words behind `foveate NAME` as arguments of `function`.

    Options may be written with dashes or underscores and stand anywhere, and a yes-or-no option needs no
    `true`. `--help` prints and exits.

    Args:
        name: Of the command.
        function: Its parameters are the options.
        words: What stands behind the name.
        positional: The parameter given without an option's name; None, if all have one.
        listed: A positional that takes one word or more.
        settings: Per part of a method, its settings' dataclass; what is given of them is returned as
            `settings`, a dictionary of dictionaries.
        groups: Options by the headline of the help they stand under; the others come first.
        examples: Shown under the help.

    Raises:
        InputError: An option that does not exist, or a value that does not fit.
    """
    options = {key: one for key, one in function_options(function).items() if key != "settings"}
    free = [replace(options[key], free=True) for key in (positional, listed) if key]
    named = {key: one for key, one in options.items() if key not in (positional, listed)}
    own = {part: part_options(part, config) for part, config in (settings or {}).items()}
    known = {**named, **{key: one for part in own.values() for key, one in part.items()}, **_OWN}
    if any(word in ("-h", "--help") for word in words):
        shown = _grouped(named, groups or {}) | _part_titles(settings or {}, own)
        summary, usage = first_paragraph(function.__doc__), _usage(name, free, named, listed)
        sys.stdout.write(help_text(usage, summary, free, shown, examples))
        raise SystemExit(0)
    tidy = _tidy(words, known, f"(see foveate {name} --help)")
    parser = Parser(prog=f"foveate {name}")
    parser.options = {**known, **{one.name: one for one in free}}
    parser.file = _config_file(tidy)
    _add_arguments(parser, function, positional, listed, named)
    for part, config in (settings or {}).items():
        parser.add_class_arguments(config, part)
    values = parser.parse_args(tidy).as_dict()
    values.pop("config", None)
    if settings:
        given = {part: values.pop(part) for part in settings}
        changed = {part: _changed(given[part], config) for part, config in settings.items()}
        values["settings"] = {part: some for part, some in changed.items() if some}
    return values


def _add_arguments(
    parser: Parser,
    function: Callable[..., Any],
    positional: str | None,
    listed: str | None,
    named: Iterable[str],
) -> None:
    parser.add_argument("--config", action="config")
    every: set[str | int] = set(inspect.signature(function).parameters)
    if positional:
        parser.add_function_arguments(function, as_group=False, as_positional=True, skip=every - {positional})
    parser.add_function_arguments(function, as_group=False, skip=every - set(named))
    if listed:
        parser.add_argument(listed, nargs="+")


def _usage(name: str, free: Sequence[Option], named: Mapping[str, Option], listed: str | None) -> str:
    first = [one.name.upper() + (" ..." if one.name == listed else "") for one in free]
    needed = [one.left for one in named.values() if one.required]
    return " ".join(["foveate", name, *first, *needed, "[options]"])


def _grouped(named: Mapping[str, Option], groups: Mapping[str, Sequence[str]]) -> dict[str, list[Option]]:
    elsewhere = {key for keys in groups.values() for key in keys}
    shown = {"options": [one for key, one in named.items() if key not in elsewhere] + list(_OWN.values())}
    return shown | {title: [named[key] for key in keys] for title, keys in groups.items()}


def _part_titles(
    settings: Mapping[str, type], parts: Mapping[str, Mapping[str, Option]]
) -> dict[str, list[Option]]:
    titles = {part: first_paragraph(config.__doc__).rstrip(".") for part, config in settings.items()}
    return {titles[part]: list(own.values()) for part, own in parts.items() if own}


def _tidy(words: Sequence[str], known: Mapping[str, Option], hint: str) -> list[str]:
    """Write options the parser's way: known by their whole names, with a value each, before the rest."""
    options: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += left
            break
        if not word.startswith("--"):
            rest.append(word)
            continue
        typed, equals, value = word.partition("=")
        option = known.get(typed[2:].replace("-", "_"))
        if option is None:
            raise InputError(f"there is no option {typed}; {_nearest(typed, known.values())} {hint}")
        if option.name == "print_config":
            options.append("--print_config" + equals + value)
            continue
        if not equals:
            value = _value(option, left, hint)
        if get_origin(option.hint) is tuple and not value.startswith("["):
            value = f"[{value}]"
        options.append(f"--{option.name}={value}")
    options.sort(key=lambda word: not word.startswith("--config="))  # what is typed wins over the file
    return options + (["--", *rest] if any(word.startswith("-") for word in rest) else rest)


def _value(option: Option, left: list[str], hint: str) -> str:
    """Take the value of an option from the words that follow it."""
    if option.hint is bool:
        return left.pop(0).lower() if left and left[0].lower() in ("true", "false") else "true"
    if not left or left[0].startswith("--"):
        wanted = "" if option.expected == "text" else f": {option.expected}"
        raise InputError(f"{option.flag} needs a value{wanted} {hint}")
    return left.pop(0)


def _nearest(typed: str, options: Iterable[Option]) -> str:
    flags = [option.flag for option in options]
    # A setting is often typed without its part: --tokens for --coop.tokens.
    inner = [flag for flag in flags if flag.rpartition(".")[2] == typed[2:].replace("_", "-")]
    near = inner or difflib.get_close_matches(typed.replace("_", "-"), flags, n=1)
    return f"did you mean {near[0]}?" if near else "is it one of another command?"


def _config_file(words: Sequence[str]) -> str | None:
    files = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    for file in files:
        if not Path(file).is_file():
            raise InputError(f"--config {file}: no such file")
    return files[-1] if files else None


def _in_words(line: str, options: Mapping[str, Option], file: str | None) -> str:
    """Say it as a person would who knows the options and not the parser."""
    within = f"{file}: " if file else ""
    required = re.search(r"arguments are required: (.*)", line)
    if required:
        return f"missing: {', '.join(options[name].flag for name in required[1].split(', '))}"
    unknown = re.search(r"Option '([^']+)' is not accepted", line)
    if unknown and file:
        return f"{within}there is no option {unknown[1]!r}; {_nearest('--' + unknown[1], options.values())}"
    wrong = re.search(r'Parser key "([^"]+)"', line)
    if wrong and wrong[1] in options:
        given = re.search(r".*(?:Got value|Given value): (.*)", line)
        value = f" is {given[1]!r}" if given else " does not fit"
        return f"{options[wrong[1]].flag}{value}: give {options[wrong[1]].expected}"
    extra = re.search(r"unrecognized arguments: (.*)", line)
    if extra:
        return f"too many words: {extra[1]}; names with spaces need quotes"
    return within + line


def _changed(given: Mapping[str, Any], config: type) -> dict[str, Any]:
    """Return the settings that differ from their defaults."""
    defaults = asdict(config())
    plain = {
        name: tuple(value) if isinstance(defaults[name], tuple) else value for name, value in given.items()
    }
    return {name: value for name, value in plain.items() if value != defaults[name]}
