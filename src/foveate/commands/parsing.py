"""From the words on the command line to the arguments of a typed function."""

import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn, get_origin

from jsonargparse import ArgumentParser

from foveate.commands.config_file import Config, Known, nearest, read_configs
from foveate.commands.options import Help, Option, first_paragraph, function_options, part_options
from foveate.errors import InputError

_OWN = {
    "config": Option("config", str, None, "YAML file with any of these options; given ones win."),
    "print_config": Option("print_config", bool, None, "Print all options as such a file, and do nothing."),
    "help": Option("help", bool, None, "Show this."),
}


class Told(SystemExit):
    """The end of a command that was asked for its help, which is printed on the way out.

    Attributes:
        help: What was told.
    """

    def __init__(self, help: Help) -> None:
        super().__init__(0)
        self.help = help
        sys.stdout.write(help.text())


class Parser(ArgumentParser):
    """Says what is wrong in one line.

    Attributes:
        options: What there is, to explain what was expected.
        file: The config file that is being read, if one was given.
    """

    options: Mapping[str, Option]
    file: str | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the command line prints.

        Raises:
            InputError: Always.
        """
        line = " ".join(message.split())
        in_file = re.match(r'Parser key "config": (.*)', line)
        if in_file:  # what this very method said while the file was read
            raise InputError(f"{self.file}: {in_file[1]}")
        raise InputError(f"{_in_words(line, self.options)} (see {self.prog} --help)")


@dataclass
class Words:
    """The words behind `foveate NAME`, tidied, and the files of options among them.

    Attributes:
        parser: Of the command.
        options: Those that were typed, but `--config`.
        rest: The other words.
        config: What the files of options say; None without any.
        settings: Per part of a method, its settings' dataclass.
    """

    parser: Parser
    options: list[str]
    rest: list[str]
    config: Config | None
    settings: Mapping[str, type]

    def typed(self, name: str) -> bool:
        """Return whether an option was typed."""
        return any(word.partition("=")[0] == f"--{name}" for word in self.options)

    def take(self, name: str) -> str | None:
        """Take an option's value out of what was typed."""
        found = [word for word in self.options if word.startswith(f"--{name}=")]
        self.options = [word for word in self.options if word not in found]
        return found[-1].partition("=")[2] if found else None

    def arguments(self, config: Config | None) -> dict[str, Any]:
        """Return the arguments of the command's function; what is typed wins over `config`.

        Raises:
            InputError: Something is missing, or a value does not fit.
        """
        self.parser.file = config.title if config else None
        given = [f"--config={json.dumps(config.values)}"] if config else []
        rest = ["--", *self.rest] if any(word.startswith("-") for word in self.rest) else self.rest
        values = self.parser.parse_args([*given, *self.options, *rest]).as_dict()
        values.pop("config", None)
        if self.settings:
            parts = {part: values.pop(part) for part in self.settings}
            changed = {part: self._changed(part, own) for part, own in parts.items()}
            values["settings"] = {part: some for part, some in changed.items() if some}
        return values

    def _changed(self, part: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that differ from their defaults, and those that were typed."""
        defaults = asdict(self.settings[part]())
        plain = {
            name: tuple(value) if isinstance(defaults[name], tuple) else value
            for name, value in given.items()
        }
        return {
            name: value
            for name, value in plain.items()
            if value != defaults[name] or self.typed(f"{part}.{name}")
        }


def parse(name: str, function: Callable[..., Any], words: Sequence[str], **how: Any) -> dict[str, Any]:
    """Read the words behind `foveate NAME` as arguments of `function`; `read_words` tells how.

    Raises:
        InputError: An option that does not exist, or a value that does not fit.
    """
    read = read_words(name, function, words, **how)
    return read.arguments(read.config)


def read_words(  # noqa: PLR0913  (all but the first three by name)
    name: str,
    function: Callable[..., Any],
    words: Sequence[str],
    *,
    positional: str = "model",
    listed: str | None = None,
    settings: Mapping[str, type] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    examples: str = "",
    rows: bool = False,
    not_in_rows: Collection[str] = (),
) -> Words:
    """Tidy the words behind `foveate NAME`, and read the files of options.

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
        rows: Whether a file of options may have rows.
        not_in_rows: Options that are the same for all rows.

    Raises:
        InputError: An option that does not exist, on the command line or in a file.
    """
    options = {key: one for key, one in function_options(function).items() if key != "settings"}
    free = [replace(options[key], free=True) for key in (positional, listed) if key]
    named = {key: one for key, one in options.items() if key not in (positional, listed)}
    own = {part: part_options(part, config) for part, config in (settings or {}).items()}
    known = {**named, **{key: one for part in own.values() for key, one in part.items()}, **_OWN}
    if any(word in ("-h", "--help") for word in words):
        shown = _grouped(named, groups or {}) | _part_titles(settings or {}, own)
        summary, usage = first_paragraph(function.__doc__), _usage(name, free, named, listed)
        raise Told(
            Help(
                usage,
                summary,
                [(one.flag, one.text) for one in free],
                {title: [(one.left, one.right) for one in some] for title, some in shown.items()},
                examples,
            )
        )
    typed, rest = _tidy(words, known, f"(see foveate {name} --help)")
    parser = Parser(prog=f"foveate {name}")
    parser.options = {**known, **{one.name: one for one in free}}
    _add_arguments(parser, function, positional, listed, named)
    for part, config in (settings or {}).items():
        parser.add_class_arguments(config, part)
    files = [word.partition("=")[2] for word in typed if word.startswith("--config=")]
    in_file = {key: one for key, one in parser.options.items() if key not in _OWN}
    config = read_configs(files, Known(in_file, own.keys(), rows, not_in_rows))
    typed = [word for word in typed if not word.startswith("--config=")]
    return Words(parser, typed, rest, config, settings or {})


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
        needed = inspect.signature(function).parameters[listed].default is inspect.Parameter.empty
        parser.add_argument(listed, nargs="+" if needed else "*")


def _usage(name: str, free: Sequence[Option], named: Mapping[str, Option], listed: str | None) -> str:
    first = [one.name.upper() + (" ..." if one.name == listed else "") for one in free]
    first = [text if one.required else f"[{text}]" for text, one in zip(first, free, strict=True)]
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


def _tidy(words: Sequence[str], known: Mapping[str, Option], hint: str) -> tuple[list[str], list[str]]:
    """Return options written the parser's way, by their whole names and with a value each, and the rest."""
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
            raise InputError(f"there is no option {typed}; {nearest(typed, known.values())} {hint}")
        if option.name == "print_config":
            options.append("--print_config" + equals + value)
            continue
        if not equals:
            value = _value(option, left, hint)
        if get_origin(option.hint) is tuple and not value.startswith("["):
            value = f"[{value}]"
        options.append(f"--{option.name}={value}")
    return options, rest


def _value(option: Option, left: list[str], hint: str) -> str:
    """Take the value of an option from the words that follow it."""
    if option.hint is bool:
        return left.pop(0).lower() if left and left[0].lower() in ("true", "false") else "true"
    if not left or left[0].startswith("--"):
        wanted = "" if option.expected == "text" else f": {option.expected}"
        raise InputError(f"{option.flag} needs a value{wanted} {hint}")
    return left.pop(0)


def _in_words(line: str, options: Mapping[str, Option]) -> str:
    """Say it as a person would who knows the options and not the parser."""
    required = re.search(r"arguments are required: (.*)", line)
    if required:
        return f"missing: {', '.join(options[name].flag for name in required[1].split(', '))}"
    wrong = re.search(r'Parser key "([^"]+)"', line)
    if wrong and wrong[1] in options:
        given = re.search(r".*(?:Got value|Given value): (.*)", line)
        value = f" is {given[1]!r}" if given else " does not fit"
        return f"{options[wrong[1]].flag}{value}: give {options[wrong[1]].expected}"
    extra = re.search(r"unrecognized arguments: (.*)", line)
    if extra:
        return f"too many words: {extra[1]}; names with spaces need quotes"
    return line
