"""`foveate demo`: see it work on drawn scenes."""

from collections.abc import Sequence
from pathlib import Path

from foveate.commands.parsing import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.demo import run_demo

EXAMPLES = """
    foveate demo
    foveate demo --seed 2 --out out/demo2
"""


def demo(out: str = "out/demo", seed: int = 1) -> None:
    """Learn 12 classes from 16 drawn scenes each, on the embedded CLIP, and look where it looks.

    In training each class stands on one place, in the test anywhere: a method that learned the place fails.

    Args:
        out: Folder for the tuned model, result.json and gaze.png.
        seed: Of scenes and training.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with notes_for_warnings(), Bars() as bars:
        rows = run_demo(folder, seed, on_step=bars.step, on_count=bars.count)
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
    print_table(columns, cells, title="12 base and 12 new classes of drawn scenes, percent right")
    note(
        f"embedded CLIP, drawn scenes: no figure here says anything of photographs. See {folder / 'gaze.png'}"
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    demo(**parse("demo", demo, words, positional="", examples=EXAMPLES))
