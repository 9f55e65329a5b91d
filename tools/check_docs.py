"""Check README and docs: links lead somewhere, Python parses, every public name and command is told of.

Run it as `python tools/check_docs.py`.
"""

import ast
import re
import sys
from pathlib import Path

import foveate
from foveate.cli import COMMANDS

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)


def complaints(page: Path) -> list[str]:
    """Return what is wrong with one page."""
    text = page.read_text(encoding="utf-8")
    where = page.relative_to(ROOT)
    wrong = [
        f"{where}: {target} does not exist"
        for target, _ in LINK.findall(text)
        if "://" not in target and not (page.parent / target).exists()
    ]
    for snippet in SNIPPET.findall(text):
        try:
            ast.parse(snippet)
        except SyntaxError as error:
            wrong.append(f"{where}: a Python snippet does not parse: {error}")
    return wrong


def main() -> int:
    """Print complaints; return 1 if there are any."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    wrong = [line for page in pages for line in complaints(page)]
    told = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    wrong += [f"no page tells of {name}" for name in foveate.__all__ if name not in told]
    wrong += [f"no page tells of foveate {name}" for name in COMMANDS if f"foveate {name}" not in told]
    print("\n".join(wrong) or f"docs: {len(pages)} pages are in order")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
