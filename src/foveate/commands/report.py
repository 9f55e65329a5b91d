"""`foveate report`: tables and charts of a sweep's results, beside published figures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from foveate.commands.options import parse
from foveate.commands.screen import note
from foveate.errors import InputError
from foveate.foreground.proposers.registry import demand

EXAMPLES = """
    foveate report out/table1 --against paper
    foveate report out/table1 --compare "CoOp + FVG-PT" CoOp
    foveate report out/world --out docs/world --format html
"""


def report(
    sweep: str,
    *,
    against: Literal["paper"] | None = None,
    compare: tuple[str, str] | None = None,
    out: str | None = None,
    format: Literal["all", "html", "md", "tex", "csv"] = "all",
    draws: int = 2000,
    seed: int = 0,
) -> None:
    """Make tables and charts of a sweep's results: HTML, Markdown, LaTeX and CSV.

    Args:
        sweep: Folder written by foveate sweep.
        against: Published figures beside the results; paper: those of FVG-PT, with DAPT's averages.
        compare: Two rows, by name or method, for a significance test: per set and on average.
        out: Folder of the report; by default SWEEP/report.
        format: Write this format only.
        draws: Number of bootstrap draws for 95 % intervals.
        seed: Seed of the bootstrap.
    """
    if not 100 <= draws <= 1_000_000:
        raise InputError(
            f"--draws is {draws}: give 100 or more, intervals of fewer say nothing; and up to 1,000,000"
        )
    folder = Path(sweep).expanduser()
    target = Path(out).expanduser() if out else folder / "report"
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is no folder: give another one to --out")
    demand("report", "foveate report", "pandas", "jinja2", "matplotlib", "scipy")
    from foveate.report.model import count  # these libraries need a second to import
    from foveate.report.sections import build
    from foveate.report.writing import write

    built = build(folder, against=against == "paper", draws=draws, seed=seed, compare=compare)
    for warning in built.warnings:
        note(warning)
    for section in built.sections:
        if section.missing:
            missing = count(len(section.missing), "run")
            note(f"{section.heading}: {missing} missing, first {section.missing[0]}")
    for path in write(built, target, format):
        sys.stdout.write(f"{path}\n")


def run(words: Sequence[str]) -> None:
    """Run the command."""
    report(**parse("report", report, words, examples=EXAMPLES))
