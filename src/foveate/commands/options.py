"""What a command can be told: options by name, with type, default and sentence, and the help made of them.

Everything is read from the typed function, from its docstring, and from the settings of a method's parts.
"""

import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin

_LEFT = 30  # columns for an option's name
_KINDS = {int: "N", float: "X"}


@dataclass(frozen=True)
class Option:
    """One thing to be given.

    Attributes:
        name: As the function calls it; with a dot where it belongs to a part of the method.
        hint: Its type, without None.
        default: None where there is none.
        text: What it is.
        required: Whether it has no default.
        free: Whether it is given by its place, without its name.
    """

    name: str
    hint: Any
    default: Any
    text: str
    required: bool = False
    free: bool = False

    @property
    def flag(self) -> str:
        """As it is typed, or as the usage line calls it."""
        return self.name.upper() if self.free else "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What may be given, in words."""
        if self.hint is bool:
            return "true or false"
        if self.hint in (int, float):
            return "a whole number" if self.hint is int else "a number"
        if get_origin(self.hint) is tuple:
            return f"some of {', '.join(self.choices)}, with commas between them"
        return f"one of {', '.join(self.choices)}" if self.choices else "text"

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it must be one of (or some of); none where anything goes."""
        hint = get_args(self.hint)[0] if get_origin(self.hint) is tuple else self.hint
        return get_args(hint) if get_origin(hint) is Literal else ()

    @property
    def left(self) -> str:
        """What stands before its sentence in the help."""
        if self.hint is bool and not self.default:
            return self.flag
        words = "|".join(self.choices)
        own = words if words and len(f"{self.flag} {words}") < _LEFT - 1 else None
        kind = "true|false" if self.hint is bool else own or _KINDS.get(self.hint, "…")
        return f"{self.flag} {kind if kind != '…' else self.name.rpartition('.')[2].upper()}"

    @property
    def right(self) -> str:
        """Its sentence, with words to choose from and the default."""
        hidden = [word for word in self.choices if word not in self.left and word not in self.text]
        some = "Some" if get_origin(self.hint) is tuple else "One"
        text = f"{self.text} {some} of {', '.join(self.choices)}." if hidden else self.text
        if self.default is None or self.default is False:
            return text
        values = cast("tuple[str, ...]", self.default if isinstance(self.default, tuple) else (self.default,))
        return f"{text} [{','.join(str(value) for value in values)}]".replace("[True]", "[true]")


def function_options(function: Callable[..., Any]) -> dict[str, Option]:
    """Read the options of a function: its parameters, and their sentences in its docstring."""
    texts = _sentences(function.__doc__ or "")
    options: dict[str, Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        options[name] = Option(name, _bare(parameter.annotation), default, texts.get(name, ""), required)
    return options


def part_options(part: str, config: type) -> dict[str, Option]:
    """Read the settings of one part of a method, from its dataclass."""
    texts = _sentences(config.__doc__ or "")
    found = [
        Option(f"{part}.{field.name}", _bare(field.type), field.default, texts.get(field.name, ""))
        for field in fields(config)
    ]
    return {option.name: option for option in found}


@dataclass(frozen=True)
class Help:
    """What `--help` shows, before it is cut to the terminal's width.

    Attributes:
        usage: Of the command, in one line.
        summary: What it does.
        free: What is given by its place: name and sentence.
        groups: Options under their headlines: how they are typed, and their sentence.
        examples: Lines to type.
    """

    usage: str
    summary: str
    free: Sequence[Sequence[str]]
    groups: Mapping[str, Sequence[Sequence[str]]]
    examples: str

    def text(self) -> str:
        """Return it as wide as the terminal is."""
        width = min(shutil.get_terminal_size((100, 24)).columns, 120)
        parts = [f"usage: {self.usage}", textwrap.fill(self.summary, width)]
        if self.free:
            parts.append("\n".join(_entry(left, right, width) for left, right in self.free))
        for title, options in self.groups.items():
            entries = [_entry(left, right, width) for left, right in options]
            parts.append("\n".join([f"{title}:", *entries]))
        if self.examples:
            parts.append(f"examples:\n{textwrap.indent(inspect.cleandoc(self.examples), '  ')}")
        return "\n\n".join(parts) + "\n"


def first_paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())


def _entry(left: str, right: str, width: int) -> str:
    lines = textwrap.wrap(right, max(30, width - _LEFT))
    if len(left) > _LEFT - 4:
        return "\n".join([f"  {left}", *(" " * _LEFT + line for line in lines)])
    first, *others = lines or [""]
    return "\n".join([f"  {left:<{_LEFT - 2}}{first}".rstrip(), *(" " * _LEFT + line for line in others)])


def _bare(hint: Any) -> Any:
    """Take None out of a union: what is left is what can be typed."""
    if get_origin(hint) not in (Union, UnionType):
        return hint
    kept = [one for one in get_args(hint) if one is not NoneType]
    return kept[0] if len(kept) == 1 else hint


def _sentences(doc: str) -> dict[str, str]:
    """Read `name: sentence` entries of a docstring's Args or Attributes."""
    _, _, section = re.sub(
        r"^\s*(Args|Attributes):\s*$", "\x00", inspect.cleandoc(doc), flags=re.M
    ).partition("\x00\n")
    found: dict[str, list[str]] = {}
    name = ""
    for line in section.splitlines():
        begin = re.match(r"    (\w+): (.*)", line)
        if begin:
            name = begin[1]
            found[name] = [begin[2]]
        elif line.startswith("     ") and name:
            found[name].append(line.strip())
        elif line.strip():
            break
    # [0] is how docstrings call a method's paper.
    return {name: " ".join(lines).replace("[0]", "the paper") for name, lines in found.items()}
