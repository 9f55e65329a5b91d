"""`foveate demo`: see it work on drawn scenes."""

from collections.abc import Sequence
from pathlib import Path

from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.demo import run_demo
from foveate.errors import InputError

EXAMPLES = """
    foveate demo
    foveate demo --seeds 1 --out out/quick
"""


def demo(out: str = "out/demo", seeds: int = 3) -> None:
    """Learn 12 classes from 16 drawn scenes each, on the embedded CLIP, and look where it looks.

    In training each class stands on one place, in the test anywhere: a method that learned the place fails.

    Args:
        out: Folder for the tuned models, result.json and gaze.png.
        seeds: Tasks to draw and learn; the table has the means.
    """
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give at least one")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with notes_for_warnings(), Bars() as bars:
        rows = run_demo(folder, range(1, seeds + 1), on_step=bars.step, on_count=bars.count)
    columns = ["method", "train", "base", "new", "HM", "all", "shift base", "shift new", "gaze on object"]
    cells = [
        [
            row.method,
            *(f"{value:.1f}" for value in (row.train, row.base, row.new, row.hm, row.both)),
            *(f"{value:.3f}" for value in (row.shift_base, row.shift_new)),
            f"{100 * row.gaze:.0f} %",
        ]
        for row in rows
    ]
    print_table(
        columns, cells, title=f"12 base and 12 new classes of drawn scenes, percent right, {seeds} seeds"
    )
    note(
        f"embedded CLIP, drawn scenes: no figure here says anything of photographs. See {folder / 'gaze.png'}"
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    demo(**parse("demo", demo, words, positional="", examples=EXAMPLES))
