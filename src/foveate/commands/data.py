"""`foveate data`: check data sets on disk, make sets for tests, and write few-shot draws to files."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, notes_for_warnings, print_table
from foveate.datasets.catalogue import MIRROR, WITH_MASKS, find, keys, locate, species_keys, world_keys
from foveate.datasets.checking import Check, check_set
from foveate.datasets.draws import StoredDraw, import_draw, make_draw, shots_and_seed, write_draw
from foveate.datasets.opening import open_set
from foveate.datasets.pasting import TESTS, paste_set
from foveate.datasets.world_sets import SEED, draw_sets
from foveate.errors import InputError

HELP = """Usage: foveate data check|world|paste|draw|import ROOT ... [options]

Look at data sets on disk, make sets for tests, and keep few-shot draws as files.

  check      tell what is there of each data set, what is missing, and where it can be had
  world      draw small data sets of scenes with exact masks, for any protocol
  paste      put the objects of photographs on grounds of other pictures, to test on
  draw       write which pictures a few-shot draw takes, with a hash
  import     read such a draw that CoOp's code pickled, or of 2SFS's JSON lines

Examples:
  foveate data check data/
  foveate data world data/
  foveate data paste data/ caltech101 --grounds sun397
  foveate data draw data/ dtd eurosat --shots 16 --seed 1 --out draws/
  foveate data import data/ dtd --file shot_16-seed_1.pkl --out draws/
"""


def check(root: str, sets: list[str] | None = None, *, masks: str | None = None, json: bool = False) -> None:
    """Report for each data set which files are there, which are missing, and where to get them.

    The exit code is 1 if a named set, or a set on disk, is incomplete by its own list.

    Args:
        root: Folder of the data sets, in any known layout.
        sets: Data sets by key, title or configuration name; by default the whole catalogue.
        masks: Folder of masks, or folder with one folder of masks per set; by default beside the
            pictures.
        json: Print the full report as JSON, with each missing picture.
    """
    folder, mask_folder = Path(root).expanduser(), None if masks is None else Path(masks).expanduser()
    set_keys = [find(name).key for name in sets] if sets else [*keys(), *_drawn_sets_in(folder)]
    results: list[Check] = []
    with Bars() as bars:
        for number, key in enumerate(set_keys):
            results.append(check_set(folder, key, masks=mask_folder))
            bars.count("sets", number + 1, len(set_keys))
    _print_json(results) if json else _print_checks(results, named=bool(sets))
    if not _fine(results, named=bool(sets), masked=bool(sets and masks)):
        raise SystemExit(1)


def world(root: str, sets: list[str] | None = None, *, seed: int = SEED) -> None:
    """Draw small data sets of scenes with exact masks; complete sets on disk are kept.

    Args:
        root: Folder of the data sets; each gets its own subfolder.
        sets: Data sets, such as species or world-1; by default all.
        seed: Seed of names, homes and scenes.
    """
    folder, set_keys = Path(root).expanduser(), sets or (*species_keys(), *world_keys())
    with Bars() as bars:
        new_keys = draw_sets(folder, set_keys, seed=seed, on_count=partial(bars.count, "drawing scenes"))
    rows: list[list[str]] = []
    for key in set_keys:
        entry = find(key)
        assert entry.world is not None
        counts = [str(number) for number in (entry.classes, entry.train, entry.test)]
        rows.append(
            [entry.key, "drawn" if entry.key in new_keys else "there before", *counts, entry.world.about]
        )
    print_table(["set", "state", "classes", "train", "test", "what it is"], rows)


def paste(
    root: str,
    sets: list[str],
    *,
    grounds: str,
    masks: str | None = None,
    seed: int = 1,
    tests: int = TESTS,
) -> None:
    """Put objects of test pictures on other grounds, in ROOT/SET-pasted, for the test conditions of a sweep.

    Args:
        root: Folder of the data sets.
        sets: Data sets of photographs with masks.
        grounds: Data set whose test pictures are the grounds that no training shows.
        masks: Folder of masks, or folder with one folder of masks per set; by default beside the
            pictures.
        seed: Seed of the choice of objects and grounds.
        tests: The most objects of a class.
    """
    folder, mask_folder = Path(root).expanduser(), None if masks is None else Path(masks).expanduser()
    rows: list[list[str]] = []
    for name in sets:
        with Bars() as bars:
            on_count = partial(bars.count, f"pasting {find(name).key}")
            pasted = paste_set(
                folder, name, grounds, masks=mask_folder, seed=seed, tests=tests, on_count=on_count
            )
        numbers = map(str, (pasted.tests, pasted.masked, pasted.objects, pasted.classes))
        state = "pasted" if pasted.made else "there before"
        rows.append([find(name).key, state, *numbers, str(pasted.folder)])
    print_table(["set", "state", "test", "with mask", "objects", "classes", "folder"], rows)


def draw(root: str, sets: list[str], *, out: str, shots: int = 16, seed: int = 1) -> None:
    """Write the pictures of a few-shot draw, with a hash, to OUT/SET/shot_16-seed_1.json.

    Args:
        root: Folder of the data sets.
        sets: Data sets to draw from.
        out: Output folder.
        shots: Pictures per class.
        seed: Seed of the draw.
    """
    draws = [_drawn(Path(root).expanduser(), name, shots, seed) for name in sets]
    _write(draws, Path(out).expanduser())


def import_(
    root: str, sets: list[str], *, file: str, out: str, shots: int | None = None, seed: int | None = None
) -> None:
    """Read a few-shot draw from a pickle of CoOp's code or from 2SFS's JSON lines; no code in it is run.

    Args:
        root: Folder of the data sets.
        sets: The one data set of the draw.
        file: E.g. shot_16-seed_1.pkl, or shot_16-seed_1_train.jsonl.
        out: Output folder.
        shots: Pictures per class; by default from the file's name.
        seed: Seed of the draw; by default from the file's name.
    """
    if len(sets) != 1:
        raise InputError(f"a draw is of one data set, and here are {len(sets)}: {', '.join(sets)}")
    path, entry = Path(file).expanduser(), find(sets[0])
    pair = shots_and_seed(path)
    if pair is None and (shots is None or seed is None):
        raise InputError(f"{path}: its name does not say shots and seed: give --shots and --seed")
    shots, seed = (pair[0] if shots is None and pair else shots), (pair[1] if seed is None and pair else seed)
    photos = open_set(Path(root).expanduser(), entry.key, splits=("train", "val"))
    assert shots is not None
    assert seed is not None
    theirs = import_draw(path, photos, entry.key, shots, seed, note)
    ours = make_draw(photos, entry.key, shots, seed)
    verdict = "the same as foveate draws" if ours.hash == theirs.hash else "another draw than foveate's own"
    note(f"{path.name}: {verdict} for {shots} shots, seed {seed}")
    _write([theirs], Path(out).expanduser())


COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "world": world,
    "paste": paste,
    "draw": draw,
    "import": import_,
}

EXAMPLES = {
    "check": """
    foveate data check data/
    foveate data check data/ dtd Caltech101 --json
    """,
    "world": """
    foveate data world data/
    foveate data world data/ species species-free
    """,
    "paste": """
    foveate data paste data/ caltech101 oxford_pets --grounds sun397
    foveate data paste data/ dtd --grounds sun397 --masks masks/
    """,
    "draw": "foveate data draw data/ dtd --shots 16 --seed 1 --out draws/",
    "import": "foveate data import data/ dtd --file shot_16-seed_1.pkl --out draws/",
}


def run(words: Sequence[str]) -> None:
    """Run the command."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return
    if words[0] not in COMMANDS:
        raise InputError(f"foveate data has no {words[0]!r}; there are {', '.join(COMMANDS)}")
    name, function = words[0], COMMANDS[words[0]]
    read = parse(f"data {name}", function, words[1:], examples=EXAMPLES[name])
    with notes_for_warnings():
        function(**read)


def _drawn_sets_in(root: Path) -> list[str]:
    set_keys = (*species_keys(), *world_keys())
    return [key for key in set_keys if locate(root, find(key)) is not None] if root.is_dir() else []


def _fine(results: Sequence[Check], named: bool, masked: bool) -> bool:
    """Return whether all checked sets are complete: the named sets, or without names at least one on disk."""
    relevant = [result for result in results if named or result.state != "not there"]
    return bool(relevant) and all(result.usable and (result.masks or not masked) for result in relevant)


def _print_json(results: Sequence[Check]) -> None:
    rows = [{**asdict(result), "usable": result.usable} for result in results]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


def _print_checks(results: Sequence[Check], named: bool) -> None:
    heads = ["set", "state", "layout", "classes", "train", "val", "test", "absent", "masks", "names"]
    rows = [_row(result) for result in results]
    if sys.stdout.isatty():  # people get no empty columns; programs always find the same columns
        filled = [index for index in range(len(heads)) if any(row[index] for row in rows)]
        heads, rows = [heads[index] for index in filled], [[row[index] for index in filled] for row in rows]
    print_table(heads, rows)
    for result in results:
        for fault in result.faults if named or result.folder else ():
            note(f"{result.title}: {fault}")
    # A list that cannot be read has its own line with the remedy.
    unavailable = [result for result in results if not result.usable and (result.counts or not result.folder)]
    if unavailable:
        print_table(["to be had", "at"], [[result.title, find(result.key).source] for result in unavailable])
        note(f"with their split files, but for ImageNet: {MIRROR}")
        note(f"with masks, the eleven sets of FVG-PT: {WITH_MASKS}")
    numbers = Counter(result.state for result in results)
    note(", ".join(f"{number} {state}" for state, number in numbers.items()))


def _row(result: Check) -> list[str]:
    numbers = [str(result.counts.get(part, "")) for part in ("classes", "train", "val", "test")]
    masked = f"{result.masks['train']}/{result.counts['train']}" if result.masks else ""
    names = result.names_hash[:8]
    if names and result.official_names_hash:
        names = "official" if result.names_hash == result.official_names_hash else f"{names} other"
    return [result.title, result.state, result.layout, *numbers, str(result.absent or ""), masked, names]


def _drawn(root: Path, name: str, shots: int, seed: int) -> StoredDraw:
    key = find(name).key
    return make_draw(open_set(root, key, splits=("train", "val")), key, shots, seed)


def _write(draws: Sequence[StoredDraw], out: Path) -> None:
    rows: list[list[str]] = []
    for stored in draws:
        path = out / stored.dataset / f"shot_{stored.shots}-seed_{stored.seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_draw(path, stored)
        numbers = (len(stored.train), len(stored.val))
        rows.append([stored.dataset, *map(str, numbers), stored.hash[:12], str(path)])
    print_table(["set", "train", "val", "hash", "file"], rows)
