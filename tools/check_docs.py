"""Check README and docs against the code they tell of.

Links and anchors lead somewhere; `foveate.…` in backticks exists; options behind `foveate COMMAND` exist;
the page of a method has a row for each of its settings, with its default; every public name and command is
told of. Python snippets parse; those that begin with "```python run" run, page by page, in one namespace and
an empty folder; those that begin with "```python from FILE" stand in that file, word for word.

Run it as `python tools/check_docs.py`.
"""

import ast
import contextlib
import inspect
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import foveate
from foveate.cli import COMMANDS, python_name
from foveate.commands.proposer_options import proposer_settings
from foveate.methods.registry import methods
from foveate.select.configs import CONFIGS

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
SNIPPET = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
DOTTED = re.compile(r"`(foveate(?:\.\w+)+)`")
COMMAND = re.compile(r"^\s*foveate (\w+)(.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what a link can point at within a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_links(page: Path, text: str) -> Iterator[str]:
    """Complain of links that lead nowhere."""
    for target, anchor in LINK.findall(FENCED.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        there = page.parent / target if target else page
        if not there.exists():
            yield f"{target} does not exist"
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            yield f"{target} has no heading #{anchor}"


def check_names(text: str) -> Iterator[str]:
    """Complain of names in backticks that the package does not have."""
    for name in sorted(set(DOTTED.findall(text))):
        if not exists(name):
            yield f"there is no {name}"


def exists(name: str) -> bool:
    """Return whether `foveate.a.b.c` is a module, or something in one."""
    found: object = foveate
    for depth, part in enumerate(name.split(".")[1:], 2):
        if not hasattr(found, part):
            try:
                import_module(".".join(name.split(".")[:depth]))
            except ImportError:
                return part in getattr(found, "__annotations__", {})
        found = getattr(found, part)
    return True


def check_options(text: str) -> Iterator[str]:
    """Complain of options that a command does not have."""
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    for command, words in COMMAND.findall(blocks):
        if command not in COMMANDS:
            yield f"there is no command foveate {command}"
            continue
        name = python_name(command)
        module = import_module(f"foveate.commands.{name}")
        known = {"config", "help", "print_config"}
        if command == "fit":
            known |= {option.name for option in module.declared("coop").options}
        else:  # `foveate data` has several
            own = getattr(module, "COMMANDS", {name: getattr(module, name, None)})
            known = known.union(*(inspect.signature(function).parameters for function in own.values()))
        configs = {part: made.config_type for part, made in methods().items()}
        known |= {f"{part}.{field.name}" for part, config in configs.items() for field in fields(config)}
        known |= {
            f"{part}.{field.name}" for part, made in proposer_settings().items() for field in fields(made)
        }
        known |= {f"{part}.{field.name}" for part, made in CONFIGS.items() for field in fields(made)}
        for option in re.findall(r"--([\w.-]+)", words.split(" #")[0]):
            if option.replace("-", "_") not in known:
                yield f"foveate {command} has no option --{option}"


def check_snippets(text: str) -> Iterator[str]:
    """Complain of Python that does not parse, does not run, or is not where it says it comes from."""
    space: dict[str, object] = {"__name__": "snippet"}
    for kind, snippet in SNIPPET.findall(text):
        try:
            ast.parse(snippet)
        except SyntaxError as error:
            yield f"a Python snippet does not parse: {error}"
            continue
        if kind.startswith(" from ") and snippet not in (ROOT / kind[6:]).read_text(encoding="utf-8"):
            yield f"a snippet is not in {kind[6:]} word for word: it begins {snippet[:40]!r}"
        if kind == " run":
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(snippet, "snippet", "exec"), space)
            except Exception:
                yield f"a snippet fails: {traceback.format_exc(limit=-1)}\n{snippet}"


def check_settings() -> Iterator[str]:
    """Complain of settings that the page of their method does not tell of."""
    for part, made in methods().items():
        page = ROOT / "docs" / "methods" / f"{part}.md"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        for field in fields(made.config_type):
            default = repr(field.default).replace("'", '"')
            if f"| `{field.name}` | `{default}` |" not in text:
                yield f"docs/methods/{part}.md has no row | `{field.name}` | `{default}` |"
    text = (ROOT / "docs" / "select.md").read_text(encoding="utf-8")
    for made in CONFIGS.values():
        for field in fields(made):
            default = repr(field.default).replace("'", '"')
            if f"| `{field.name}` | `{default}` |" not in text:
                yield f"docs/select.md has no row | `{field.name}` | `{default}` |"


def complaints(page: Path) -> list[str]:
    """Return what is wrong with one page."""
    text = page.read_text(encoding="utf-8")
    wrong = [*check_links(page, text), *check_names(text), *check_options(text), *check_snippets(text)]
    return [f"{page.relative_to(ROOT)}: {line}" for line in wrong]


def main() -> int:
    """Print complaints; return 1 if there are any."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # snippets may write
        wrong += [line for page in pages for line in complaints(page)]
        os.chdir(ROOT)
    told = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    wrong += [f"no page tells of {name}" for name in foveate.__all__ if not re.search(rf"\b{name}\b", told)]
    wrong += [f"no page tells of foveate {name}" for name in COMMANDS if f"foveate {name}" not in told]
    wrong += check_settings()
    print("\n".join(wrong) or f"docs: {len(pages)} pages are in order")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
