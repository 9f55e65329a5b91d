"""`foveate demo`: see it work on drawn scenes."""

from collections.abc import Sequence
from pathlib import Path

from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.errors import InputError

EXAMPLES = """
    foveate demo
    foveate demo --seeds 1 --out out/quick
"""


def demo(*, out: str = "out/demo", seeds: int = 3) -> None:
    """Learn 20 species from 16 drawn scenes each, on an embedded CLIP, and test them at home and anywhere.

    Nine of ten training scenes stand on the home of their species: a method that learned the place loses
    elsewhere.

    Args:
        out: Folder for the tuned models, result.json, gaze.png and index.html.
        seeds: Trainings, each on scenes of its own; the table has means and deviations.
    """
    from foveate.demo import CLIP, run_demo, summary

    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give at least one")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with notes_for_warnings(), Bars() as bars:
        found = run_demo(folder, range(1, seeds + 1), bars)
    head, *rows = summary(found)
    print_table(head, rows, title=f"20 base and 20 new species of drawn scenes, percent right, {seeds} seeds")
    note(
        f"drawn scenes, {CLIP}: no figure here says anything of photographs. "
        f"See {folder / 'gaze.png'} and {folder / 'index.html'}"
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    demo(**parse("demo", demo, words, examples=EXAMPLES))
