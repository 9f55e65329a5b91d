"""Pages of the site that are made from the code: every public name, and every command's help."""

import dataclasses
import inspect
import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import foveate
from foveate.cli import COMMANDS, main
from foveate.methods.base import Method

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
WIDTH = 88  # columns of a command's help and of a signature
GROUPS = {
    "Photos in, answers out": ("Classifier", "Prediction"),
    "Labelled pictures": ("load_photos", "Photos", "Sample"),
    "CLIP": ("load_clip", "Clip"),
    "Training": ("fit", "Recipe"),
    "Mistakes": ("InputError",),
    "What every method is": ("Method",),
}
"""All other names are methods and their settings."""


def options() -> str:
    """Return what each command's `--help` says."""
    parts = ["# Options", "What `foveate COMMAND --help` says. [Commands](cli.md) tells how to use them."]
    os.environ["COLUMNS"] = str(WIDTH)
    for name in COMMANDS:
        said = io.StringIO()
        with redirect_stdout(said):
            main([name, "--help"])
        parts += [f"## foveate {name}", f"```text\n{said.getvalue().strip()}\n```"]
    return "\n\n".join(parts) + "\n"


def api() -> str:
    """Return all public names with their signatures and docstrings."""
    told = (
        "All that `from foveate import ...` gives. Anything else is imported from its module, and may change."
    )
    parts = ["# Python API", told]
    grouped = {name for names in GROUPS.values() for name in names}
    others = tuple(name for name in foveate.__all__ if name not in grouped)
    for title, names in {**GROUPS, "Methods and their settings": others}.items():
        parts.append(f"## {title}")
        parts += [part for name in names for part in _entry(name, getattr(foveate, name))]
    return "\n\n".join(parts) + "\n"


def _entry(name: str, found: Any) -> Iterator[str]:
    yield f"### {name}"
    plainly = inspect.isclass(found) and issubclass(found, Exception | Method) and found is not Method
    abstract = found is Method or (inspect.isclass(found) and issubclass(found, Exception))
    if not abstract:
        yield _signature(name, found)
    yield from _told(found)
    if inspect.isclass(found) and not plainly:  # what a method does is told of once, at `Method`
        for word, member in vars(found).items():
            if not word.startswith("_") and (kind := _kind(member)):
                yield f"#### {name}.{word}"
                yield _signature(word, kind) if not isinstance(member, property) else "A property."
                yield from _told(kind)


def _kind(member: Any) -> Any:
    """Return the function of a method, class method or property; None of anything else."""
    if isinstance(member, property):
        return member.fget
    found = getattr(member, "__func__", member)
    return found if inspect.isfunction(found) else None


def _signature(name: str, found: Any) -> str:
    try:
        signature = inspect.signature(found)
    except ValueError:
        return f"```python\n{name}(...)\n```"
    own = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    words = [_plain(str(one)) for one in own]
    keyword = next((i for i, one in enumerate(own) if one.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if keyword is not None and not any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in own):
        words.insert(keyword, "*")
    back = signature.return_annotation
    end = (
        ""
        if back is inspect.Signature.empty or inspect.isclass(found)
        else f" -> {_plain(inspect.formatannotation(back))}"
    )
    line = f"{name}({', '.join(words)}){end}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){end}"])
    return f"```python\n{line}\n```"


def _plain(text: str) -> str:
    """Leave out the modules that types come from."""
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    text = re.sub(r"Float\[Tensor, ['\"]([^'\"]*)['\"]\]", r"Tensor[\1]", text)
    return re.sub(r"\b(?:\w+\.)+(?=[A-Za-z_])", "", text)


def _told(found: Any) -> Iterator[str]:
    """Yield a docstring's paragraphs, its sections as lists."""
    doc = inspect.cleandoc(found.__doc__ or "")
    if dataclasses.is_dataclass(found) and doc.startswith(f"{getattr(found, '__name__', '')}("):
        return
    for block in re.split(r"\n\n+", doc):
        title, colon, rest = block.partition(":\n")
        if colon and title in SECTIONS:
            yield f"**{title}**"
            yield _listed(rest)
        elif block.startswith("    "):
            yield f"```python\n{inspect.cleandoc(block)}\n```"
        elif block:
            yield _safe(block)


def _listed(rest: str) -> str:
    items: list[str] = []
    for line in rest.splitlines():
        begin = re.match(r"    (\w+): (.*)", line)
        if begin:
            items.append(f"- `{begin[1]}`: {begin[2]}")
        elif items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(f"- {line.strip()}")
    return _safe("\n".join(items))


def _safe(text: str) -> str:
    """Keep Markdown from reading references and stars of a docstring as its own."""
    return re.sub(r"\[(\d)\]", r"\\[\1\\]", text).replace("<", "&lt;")
