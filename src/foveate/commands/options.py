"""Options of commands, declared once on a typed function or on a dataclass.

cyclopts parses the words and prints the help. `foveate.configs` checks the values, as it does for option
files and for Python.
"""

import difflib
import inspect
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields, replace
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import yaml
from cyclopts import App, CycloptsError, Group, Parameter, Token
from cyclopts import exceptions as wrong
from docstring_parser import parse as parse_docstring

from foveate.configs import check, declared, expected, from_text, mapping, members
from foveate.errors import InputError
from foveate.files import home_of
from foveate.readers import read_yaml


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Declared name; a setting of a part has a dot.
        hint: Declared type.
        default: Default value; None if there is none.
        text: Description in the help.
        group: Headline in the help.
        required: Whether the option has no default.
        placed: Whether the option is positional.
        shown: Whether the help shows the option.
    """

    name: str
    hint: Any
    default: Any = None
    text: str = ""
    group: str = "options"
    required: bool = False
    placed: bool = False
    shown: bool = True

    @property
    def flag(self) -> str:
        """The option as typed; for a positional one, its name in the usage line."""
        return self.name.upper() if self.placed else "--" + self.name.replace("_", "-")

    @property
    def usage(self) -> str:
        """The option in the usage line."""
        if not self.placed:
            return f"{self.flag} {self.name.upper()}"
        several = f"{self.flag} ..." if list[str] in (self.hint, *get_args(self.hint)) else self.flag
        return several if self.required else f"[{several}]"


_COMMON = (
    Option("config", list[str], None, "YAML file with any of these options; what is typed wins."),
    Option("print_config", bool, False, "Print all that was given as such a file, and do nothing."),
)


def options_of(
    function: Callable[..., Any], groups: Mapping[str, Sequence[str]] | None = None
) -> list[Option]:
    """Return the options of a function: its parameters with the descriptions from its docstring.

    Args:
        function: A function; parameters before `*` in its signature are positional.
        groups: Names of options by headline of the help.
    """
    hints, texts = get_type_hints(function), _sentences(function)
    headlines = {name: title for title, names in (groups or {}).items() for name in names}
    return [
        Option(
            name,
            hints[name],
            None if parameter.default is parameter.empty else parameter.default,
            texts.get(name, ""),
            headlines.get(name, "options"),
            required=parameter.default is parameter.empty,
            placed=parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
        )
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "settings"
    ]


def settings_of(part: str, kind: type, *, shown: bool = True) -> list[Option]:
    """Return the settings of a part as options, from its dataclass: `--coop.tokens`."""
    title = summary_of(kind).rstrip(".")
    return [
        replace(option, name=f"{part}.{option.name}", shown=shown) for option in fields_of(kind, group=title)
    ]


def fields_of(
    kind: Any,
    *,
    group: str = "options",
    groups: Mapping[str, Sequence[str]] | None = None,
    placed: str = "",
    exclude: Sequence[str] = (),
) -> list[Option]:
    """Return the fields of a dataclass as options.

    Args:
        kind: The dataclass, or an instance whose values become the defaults.
        group: Headline of the help for these options.
        groups: Names of options under other headlines.
        placed: Name of the positional field.
        exclude: Names of fields to leave out.
    """
    config_type = kind if isinstance(kind, type) else type(kind)
    texts, hints = _sentences(config_type), declared(config_type)
    headlines = {name: title for title, names in (groups or {}).items() for name in names}
    return [
        Option(
            field.name,
            hints[field.name],
            _default(field) if config_type is kind else getattr(kind, field.name),
            texts.get(field.name, ""),
            headlines.get(field.name, group),
            required=field.name == placed,
            placed=field.name == placed,
        )
        for field in fields(config_type)
        if field.name not in exclude
    ]


def summary_of(described: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(described.__doc__ or "").split("\n\n")[0].split())


@dataclass(frozen=True)
class Command:
    """A command with its options.

    Attributes:
        name: The word after `foveate`.
        options: Options of the command.
        summary: Description for the help.
        examples: Examples, printed at the end of the help.
    """

    name: str
    options: Sequence[Option]
    summary: str = ""
    examples: str = ""

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Parse words; return the given values by option name. `--help` prints the help and exits.

        Raises:
            InputError: An option does not exist, or a value does not fit.
            SystemExit: `--help` was given.
        """
        known = {option.name: option for option in (*self.options, *_COMMON)}
        app = self.app()
        try:
            with _without_pydantic():
                command, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise InputError(f"{_in_words(error, known)} (see foveate {self.name} --help)") from error
        if bound.arguments.keys() & {"tokens"}:  # cyclopts' own --help
            command(*bound.args, **bound.kwargs)
            raise SystemExit(0)
        raw_by_option = {known[name.replace("__", ".")]: raw for name, raw in bound.arguments.items()}
        return {option.name: _value(option, raw) for option, raw in raw_by_option.items()}

    def read_file(self, file: str, *, unchecked: Sequence[str] = ()) -> dict[str, Any]:
        """Read a file of options.

        Args:
            file: Path of a YAML file.
            unchecked: Keys that are returned unchecked.

        Raises:
            InputError: The file does not exist or is not YAML, a key does not exist, or a value does not
                fit.
        """
        path = home_of(file)
        if not path.is_file():
            raise InputError(f"--config {file}: no such file")
        values = mapping(read_yaml(path), f"{file} holds no options: write them as `epochs: 5`, one a line")
        untouched = {name: values.pop(name) for name in unchecked if name in values}
        return {**self.check(values, file), **untouched}

    def check(self, values: Mapping[str, Any], title: str) -> dict[str, Any]:
        """Check a table of options; return values by option name. Settings of a part may be a nested table.

        Raises:
            InputError: A key does not exist, or a value does not fit; the message begins with `title`.
        """
        known, checked = {option.name: option for option in self.options}, dict[str, Any]()
        parts = {name.partition(".")[0] for name in known if "." in name}
        for key, value in values.items():
            name = key.replace("-", "_")
            inner = {name: value}
            if name in parts:
                message = f"{title}: {key} is {value!r}: give its settings, as in `{key}: {{name: value}}`"
                inner = {
                    f"{name}.{setting.replace('-', '_')}": item
                    for setting, item in mapping(value, message).items()
                }
            elif isinstance(value, dict) and value and name not in known:
                inner = {f"{name}.{setting}": item for setting, item in mapping(value, "").items()}
            for dotted, item in inner.items():
                if dotted not in known:
                    raise InputError(f"{title}: there is no option {dotted!r}; {meant(dotted, known)}")
                # YAML reads the word `off` as false.
                parsed = "off" if item is False and "off" in get_args(known[dotted].hint) else item
                checked[dotted] = check(f"{title}: {known[dotted].flag}", parsed, known[dotted].hint)
        return checked

    def demand(self, values: Mapping[str, Any]) -> None:
        """Refuse values by option name that lack a required option.

        Raises:
            InputError: Some are missing; the message lists them.
        """
        missing = [
            option.flag for option in self.options if option.required and values.get(option.name) is None
        ]
        if missing:
            raise InputError(f"missing: {', '.join(missing)} (see foveate {self.name} --help)")

    def app(self) -> App:
        """Return the command as a cyclopts app."""
        options = (*self.options, *_COMMON)
        placed = [option for option in options if option.placed]
        required = [option for option in options if option.required and not option.placed]
        app = App(
            name=f"foveate {self.name}",
            help=self.summary,
            usage=" ".join(
                [f"foveate {self.name}", *(option.usage for option in (*placed, *required)), "[options]"]
            ),
            help_epilogue=f"Examples:\n{inspect.cleandoc(self.examples)}" if self.examples else None,
            help_format="plaintext",
            version_flags=[],
            default_parameter=Parameter(negative_iterable=(), show_env_var=False),
        )
        titles = dict.fromkeys(option.group for option in options)
        groups = {title: Group(title, sort_key=index) for index, title in enumerate(titles)}

        def placeholder() -> None:
            """Placeholder for the command: cyclopts reads the options from its signature."""

        ordered = [*placed, *(option for option in options if not option.placed)]
        placeholder.__signature__ = inspect.Signature([_parameter(option, groups) for option in ordered])  # pyright: ignore[reportFunctionMemberAccess]
        app.default(placeholder)
        app["--help"].group = groups["options"]
        return app


def parse(
    name: str,
    function: Callable[..., Any],
    words: Sequence[str],
    *,
    settings: Sequence[Option] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    examples: str = "",
) -> dict[str, Any]:
    """Parse the words after `foveate NAME` as arguments of a function.

    Args:
        name: Name of the command.
        function: Function whose parameters are the options.
        words: The words after the name.
        settings: Further options; the function receives them as `settings`, a table of tables.
        groups: Names of options by headline of the help; all other options come first.
        examples: Examples, printed at the end of the help.

    Raises:
        InputError: An option does not exist, a value does not fit, or a required option is missing.
    """
    options = options_of(function, groups)
    command = Command(name, [*options, *settings], summary_of(function), examples)
    typed = command.read(words)
    printed, files = typed.pop("print_config", False), typed.pop("config", [])
    values = {key: value for file in files for key, value in command.read_file(file).items()} | typed
    if printed:
        print_options(values)
    command.demand(values)
    arguments = {option.name: values.get(option.name, option.default) for option in options}
    return {**arguments, "settings": nested(values)[1]} if settings else arguments


def nested(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Separate plain options from settings of parts; a dot marks a setting ("coop.tokens")."""
    plain, settings = dict[str, Any](), dict[str, dict[str, Any]]()
    for name, value in values.items():
        part, dot, inner = name.partition(".")
        if dot:
            settings.setdefault(part, {})[inner] = value
        else:
            plain[name] = value
    return plain, settings


def asks_for_help(words: Sequence[str]) -> bool:
    """Return whether the words contain `-h` or `--help`."""
    return any(word in ("-h", "--help") for word in words)


def peek(name: str, option: str, words: Sequence[str]) -> str | None:
    """Return the value of one option and ignore all other words; the help depends on it."""
    app = App(name=f"foveate {name}", version_flags=[], help_flags=[])

    def placeholder(**options: str) -> None:
        """Placeholder for the command."""

    parameter = _parameter(Option(option, str | None), {"options": Group("options")})
    placeholder.__signature__ = inspect.Signature([parameter])  # pyright: ignore[reportFunctionMemberAccess]
    app.default(placeholder)
    try:
        with _without_pydantic():
            _, bound, _, _ = app.parse_known_args(list(words))
    except CycloptsError:
        return None
    return bound.arguments[option][-1] if option in bound.arguments else None


def print_options(values: Mapping[str, Any]) -> None:
    """Print options as a file for `--config`, then exit.

    Raises:
        SystemExit: Always.
    """
    plain, settings = nested(values)
    sets = {part: {name: _plain(value) for name, value in inner.items()} for part, inner in settings.items()}
    sys.stdout.write(yaml.safe_dump({**plain, **sets}, sort_keys=False, allow_unicode=True))
    raise SystemExit(0)


def meant(typed: str, known: Iterable[str]) -> str:
    """Return a hint at the option that was probably meant."""
    names = list(known)
    # Users often omit the part of a setting: --tokens for --coop.tokens.
    by_suffix = [name for name in names if name.rpartition(".")[2] == typed]
    matches = by_suffix or difflib.get_close_matches(typed, names, n=1)
    return f"did you mean --{matches[0].replace('_', '-')}?" if matches else "is it one of another command?"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _default(field: "Field[Any]") -> Any:
    return None if field.default is MISSING else field.default


def _sentences(described: Any) -> dict[str, str]:
    """Return descriptions of parameters or attributes by name; "[0]" becomes "the paper"."""
    params = parse_docstring(described.__doc__ or "").params
    return {
        param.arg_name: " ".join((param.description or "").split()).replace("[0]", "the paper")
        for param in params
    }


def _parameter(option: Option, groups: Mapping[str, Group]) -> inspect.Parameter:
    cyclopts_parameter = Parameter(
        name=None if option.placed else option.flag,
        help=option.text,
        group=groups[option.group],
        show=option.shown,
        show_default=option.default not in (None, False, ()),
        negative=None if option.default is True else (),
        converter=_token_values,
        allow_repeating=True,  # the last one counts
    )
    return inspect.Parameter(
        option.name.replace(".", "__"),
        inspect.Parameter.POSITIONAL_OR_KEYWORD if option.placed else inspect.Parameter.KEYWORD_ONLY,
        default=option.default,
        annotation=Annotated[option.hint, cyclopts_parameter],
    )


@contextmanager
def _without_pydantic() -> Generator[None]:
    """Hide pydantic: cyclopts validates with it if it is imported, and the words have no types yet."""
    pydantic = sys.modules.pop("pydantic", None)
    try:
        yield
    finally:
        if pydantic is not None:
            sys.modules["pydantic"] = pydantic


def _token_values(kind: Any, tokens: Sequence[Token]) -> list[str]:
    """Return the words as typed."""
    return [token.value for token in tokens]


def _value(option: Option, raw: Any) -> Any:
    """Return the value of an option from its words; a flag without a value is a bool already."""
    if isinstance(raw, bool):
        return raw
    kind = next((member for member in members(option.hint) if member is not NoneType), option.hint)
    if get_origin(kind) is list:
        return list(raw)
    if get_origin(kind) is tuple and ... not in get_args(kind):  # a fixed number of words in a row
        return tuple(raw)
    if get_origin(kind) is tuple:
        words = [word.strip() for text in raw for word in text.strip("[]").split(",") if word.strip()]
        return tuple(from_text(option.flag, word, get_args(kind)[0]) for word in words)
    return from_text(option.flag, raw[-1], option.hint)


def _in_words(error: CycloptsError, known: Mapping[str, Option]) -> str:
    """Return the message for an error of cyclopts, in the style of all messages."""
    if isinstance(error, wrong.UnknownOptionError):
        typed = (error.token.keyword or error.token.value).partition("=")[0]
        return f"there is no option {typed}; {meant(typed.lstrip('-').replace('-', '_'), known)}"
    if isinstance(error, wrong.MissingArgumentError) and error.argument is not None:
        option = next((item for item in known.values() if item.flag == error.argument.name), None)
        need = "" if option is None else expected(option.hint).removesuffix(" or none")
        what = need if need.endswith("values") else "a value" + ("" if need in ("", "text") else f": {need}")
        return f"{error.argument.name} needs {what}"
    if isinstance(error, wrong.RepeatArgumentError):
        return f"{error.token.keyword} stands twice: give it once"
    if isinstance(error, wrong.UnusedCliTokensError | wrong.ArgumentOrderError):
        return f"too many words: {' '.join(error.unused_tokens or [])}; names with spaces need quotes"
    return " ".join(str(error).split())
