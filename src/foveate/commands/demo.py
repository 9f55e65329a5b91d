"""`foveate demo`: train and test on drawn scenes, without any data."""

from collections.abc import Sequence

from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.errors import InputError
from foveate.files import home_of

EXAMPLES = """
    foveate demo
    foveate demo --seeds 1 --out out/quick
"""


def demo(*, out: str = "out/demo", seeds: int = 4, workers: int | None = None) -> None:
    """Train on 16 drawn scenes of each of 20 species, with the embedded CLIP; test at home and elsewhere.

    Nine of ten training scenes show a species in its home. A method that learned the background fails
    elsewhere.

    Args:
        out: Folder for the tuned models, result.json, gaze.png and index.html.
        seeds: Number of trainings, each on its own scenes; the table shows means and standard
            deviations.
        workers: Number of processes, one seed in each; by default one for each core. The figures do not
            depend on it.
    """
    from foveate.demo import CLIP, run_demo, summary
    from foveate.scale.cluster import own_cpus

    if seeds < 1:
        raise InputError(f"--seeds is {seeds}: give at least one")
    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}: give at least one")
    folder = home_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    with notes_for_warnings(), Bars() as bars:
        figures = run_demo(folder, range(1, seeds + 1), bars, workers or own_cpus())
    head, *rows = summary(figures)
    print_table(head, rows, title=f"20 base and 20 new species of drawn scenes, percent right, {seeds} seeds")
    note(
        f"drawn scenes, {CLIP}: no figure here says anything of photographs. "
        f"See {folder / 'gaze.png'} and {folder / 'index.html'}"
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    demo(**parse("demo", demo, words, examples=EXAMPLES))
