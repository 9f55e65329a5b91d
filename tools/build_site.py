"""Prepare the pages of the site, and build it: `python tools/build_site.py`.

docs/ is copied to out/site. Links that leave docs/ lead to copies of those files as pages of the site, so
that nothing points at what is not in it. Each page of docs/ has to be named in zensical.toml, and each page
named there has to exist. Built pages may fetch nothing from elsewhere.

Pages open from the disk; only the search needs a server: `python -m http.server -d site`.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import site_pages

ROOT = Path(__file__).parents[1]
DOCS, STAGE, SITE, CONFIG = ROOT / "docs", ROOT / "out" / "site", ROOT / "site", ROOT / "zensical.toml"
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(https?:)?//[^\"'\s>]*")
LANGUAGES = {".py": "python", ".json": "json", ".yaml": "yaml", ".toml": "toml", ".sh": "sh"}
BESIDE = "repository"
"""Folder of the site with files that are not in docs/."""
MADE = {"api.md": site_pages.api, "options.md": site_pages.options}
"""Pages that are made from the code."""


def named(entries: list[Any]) -> Iterator[str]:
    """Yield the pages that a part of the navigation names."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            if isinstance(value, list):
                yield from named(value)
            else:
                yield value


def check_nav() -> Iterator[str]:
    """Complain of pages that the navigation forgets, names twice, or invents."""
    nav = list(named(tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} | MADE.keys()
    yield from (f"zensical.toml does not name docs/{page} in nav" for page in sorted(pages - set(nav)))
    yield from (f"zensical.toml names docs/{page}, which does not exist" for page in sorted(set(nav) - pages))
    yield from (f"zensical.toml names docs/{page} twice" for page in sorted(set(nav)) if nav.count(page) > 1)


class Stage:
    """The pages on their way into the site."""

    def __init__(self) -> None:
        self.waiting: dict[Path, Path] = {}  # file of the repository: its page

    def make(self) -> None:
        """Copy docs/, and whatever its pages link to."""
        shutil.rmtree(STAGE, ignore_errors=True)
        shutil.copytree(DOCS, STAGE)
        for page in DOCS.rglob("*.md"):
            self.write(page, STAGE / page.relative_to(DOCS), page.read_text(encoding="utf-8"))
        for name, make in MADE.items():
            (STAGE / name).write_text(make(), encoding="utf-8")
        done: set[Path] = set()
        while self.waiting.keys() - done:
            for file, page in sorted(self.waiting.items()):
                if file not in done:
                    done.add(file)
                    page.parent.mkdir(parents=True, exist_ok=True)
                    self.write(file, page, as_page(file))

    def write(self, file: Path, page: Path, text: str) -> None:
        """Write a page, its links mended."""
        parts: list[str] = []
        end = 0
        for fence in FENCE.finditer(text):
            parts += [self._mended(text[end : fence.start()], file, page), _fenced(fence[0])]
            end = fence.end()
        page.write_text("".join([*parts, self._mended(text[end:], file, page)]), encoding="utf-8")

    def _mended(self, text: str, file: Path, page: Path) -> str:
        def mend(link: re.Match[str]) -> str:
            before, target, after = link.groups()
            there = (file.parent / target).resolve()
            if "://" in target or target.startswith("mailto:") or not there.exists():
                return link[0]
            if there.is_relative_to(DOCS):
                home = STAGE / there.relative_to(DOCS)
            else:
                name = there.relative_to(ROOT).as_posix() + ("/index" if there.is_dir() else "")
                home = STAGE / BESIDE / (name if name.endswith(".md") else f"{name}.md")
                self.waiting[there] = home
            return f"{before}{Path(os.path.relpath(home, page.parent)).as_posix()}{after}"

        return LINK.sub(mend, text)


def _fenced(block: str) -> str:
    """Keep the language of a block alone: "python run" and "python from FILE" are for tools/check_docs.py."""
    block = re.sub(r"^```(\w+) from (\S+)", r'```\1 title="\2"', block)
    return re.sub(r"^```(\w+) run$", r"```\1", block, flags=re.MULTILINE)


def as_page(file: Path) -> str:
    """Return a file of the repository as a page that the search leaves out."""
    name = file.relative_to(ROOT).as_posix()
    hidden = "---\nsearch:\n  exclude: true\n---\n\n"
    if file.is_dir():
        inside = sorted(one.name for one in file.iterdir() if one.is_file() and not one.name.startswith("."))
        return f"{hidden}# {name}\n\n" + "".join(f"- [{one}]({file.name}/{one})\n" for one in inside)
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return hidden + text
    fence = "````" if "```" in text else "```"
    return f"{hidden}# {name}\n\n{fence}{LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def check_fetched() -> Iterator[str]:
    """Complain of pages that would fetch something from elsewhere when they are read."""
    for page in sorted(SITE.rglob("*.html")):
        for found in FETCHED.finditer(page.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT)} fetches {found[0]}"


def main() -> int:
    """Build the site; print complaints, and return 1 if there are any."""
    wrong = list(check_nav())
    if not wrong:
        Stage().make()
        command = [Path(sys.executable).with_name("zensical"), "build", "--strict", "-f", CONFIG]
        plain = {**os.environ, "NO_COLOR": "1"}
        built = subprocess.run(command, capture_output=True, text=True, check=False, env=plain)
        if built.returncode:
            said = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)
            wrong.append(said.partition("Traceback")[0].strip())
        wrong += check_fetched()
    print("\n".join(wrong) or f"site: {len(list(SITE.rglob('*.html')))} pages, open {SITE / 'index.html'}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
