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
from foveate.datasets.catalogue import MIRROR, WITH_MASKS, find, keys, species_keys, world_keys
from foveate.datasets.checking import Check, check_set
from foveate.datasets.draws import StoredDraw, import_draw, make_draw, write_draw
from foveate.datasets.foreign import shots_and_seed
from foveate.datasets.opening import open_set
from foveate.datasets.pasting import TESTS, paste_set
from foveate.datasets.places import locate
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
    place, tree = Path(root).expanduser(), None if masks is None else Path(masks).expanduser()
    wanted = [find(name).key for name in sets] if sets else [*keys(), *_drawn_there(place)]
    done: list[Check] = []
    with Bars() as bars:
        for number, key in enumerate(wanted):
            done.append(check_set(place, key, masks=tree))
            bars.count("sets", number + 1, len(wanted))
    _print_json(done) if json else _print_checks(done, named=bool(sets))
    if not _fine(done, named=bool(sets), masked=bool(sets and masks)):
        raise SystemExit(1)


def world(root: str, sets: list[str] | None = None, *, seed: int = SEED) -> None:
    """Draw small data sets of scenes with exact masks; complete sets on disk are kept.

    Args:
        root: Folder of the data sets; each gets its own subfolder.
        sets: Data sets, such as species or world-1; by default all.
        seed: Seed of names, homes and scenes.
    """
    folder, wanted = Path(root).expanduser(), sets or (*species_keys(), *world_keys())
    with Bars() as bars:
        made = draw_sets(folder, wanted, seed=seed, on_count=partial(bars.count, "drawing scenes"))
    rows: list[list[str]] = []
    for key in wanted:
        one = find(key)
        assert one.world is not None
        counts = [str(number) for number in (one.classes, one.train, one.test)]
        rows.append([one.key, "drawn" if one.key in made else "there before", *counts, one.world.about])
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
    folder, tree = Path(root).expanduser(), None if masks is None else Path(masks).expanduser()
    rows: list[list[str]] = []
    for name in sets:
        with Bars() as bars:
            told = partial(bars.count, f"pasting {find(name).key}")
            made = paste_set(folder, name, grounds, masks=tree, seed=seed, tests=tests, on_count=told)
        numbers = map(str, (made.tests, made.masked, made.objects, made.classes))
        state = "pasted" if made.made else "there before"
        rows.append([find(name).key, state, *numbers, str(made.folder)])
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
    made = [_drawn(Path(root).expanduser(), name, shots, seed) for name in sets]
    _write(made, Path(out).expanduser())


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
    path, one = Path(file).expanduser(), find(sets[0])
    told = shots_and_seed(path)
    if told is None and (shots is None or seed is None):
        raise InputError(f"{path}: its name does not say shots and seed: give --shots and --seed")
    shots, seed = (told[0] if shots is None and told else shots), (told[1] if seed is None and told else seed)
    photos = open_set(Path(root).expanduser(), one.key, splits=("train", "val"))
    assert shots is not None
    assert seed is not None
    found = import_draw(path, photos, one.key, shots, seed, note)
    own = make_draw(photos, one.key, shots, seed)
    same = "the same as foveate draws" if own.hash == found.hash else "another draw than foveate's own"
    note(f"{path.name}: {same} for {shots} shots, seed {seed}")
    _write([found], Path(out).expanduser())


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


def _drawn_there(root: Path) -> list[str]:
    drawn = (*species_keys(), *world_keys())
    return [key for key in drawn if locate(root, find(key)) is not None] if root.is_dir() else []


def _fine(done: Sequence[Check], named: bool, masked: bool) -> bool:
    """Return whether all checked sets are complete: the named sets, or without names at least one on disk."""
    asked = [one for one in done if named or one.state != "not there"]
    return bool(asked) and all(one.usable and (one.masks or not masked) for one in asked)


def _print_json(done: Sequence[Check]) -> None:
    rows = [{**asdict(one), "usable": one.usable} for one in done]
    sys.stdout.write(json.dumps(rows, indent=1) + "\n")


def _print_checks(done: Sequence[Check], named: bool) -> None:
    heads = ["set", "state", "layout", "classes", "train", "val", "test", "absent", "masks", "names"]
    rows = [_row(one) for one in done]
    if sys.stdout.isatty():  # people get no empty columns; programs always find the same columns
        filled = [place for place in range(len(heads)) if any(row[place] for row in rows)]
        heads, rows = [heads[place] for place in filled], [[row[place] for place in filled] for row in rows]
    print_table(heads, rows)
    for one in done:
        for fault in one.faults if named or one.folder else ():
            note(f"{one.title}: {fault}")
    # A list that cannot be read has its own line with the remedy.
    wanted = [one for one in done if not one.usable and (one.counts or not one.folder)]
    if wanted:
        print_table(["to be had", "at"], [[one.title, find(one.key).source] for one in wanted])
        note(f"with their split files, but for ImageNet: {MIRROR}")
        note(f"with masks, the eleven sets of FVG-PT: {WITH_MASKS}")
    numbers = Counter(one.state for one in done)
    note(", ".join(f"{number} {state}" for state, number in numbers.items()))


def _row(one: Check) -> list[str]:
    numbers = [str(one.counts.get(what, "")) for what in ("classes", "train", "val", "test")]
    masked = f"{one.masks['train']}/{one.counts['train']}" if one.masks else ""
    names = one.names_hash[:8]
    if names and one.official_names_hash:
        names = "official" if one.names_hash == one.official_names_hash else f"{names} other"
    return [one.title, one.state, one.layout, *numbers, str(one.absent or ""), masked, names]


def _drawn(root: Path, name: str, shots: int, seed: int) -> StoredDraw:
    key = find(name).key
    return make_draw(open_set(root, key, splits=("train", "val")), key, shots, seed)


def _write(made: Sequence[StoredDraw], out: Path) -> None:
    rows: list[list[str]] = []
    for one in made:
        path = out / one.dataset / f"shot_{one.shots}-seed_{one.seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_draw(path, one)
        numbers = (len(one.train), len(one.val))
        rows.append([one.dataset, *map(str, numbers), one.hash[:12], str(path)])
    print_table(["set", "train", "val", "hash", "file"], rows)
