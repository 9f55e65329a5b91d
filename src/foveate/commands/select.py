"""`foveate select`: choose training photos from a larger set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from foveate.clip.precision import Precision
from foveate.clip.templates import fill
from foveate.commands.options import parse, settings_of
from foveate.commands.screen import Bars, note, note_embedded, note_precision, notes_for_warnings, print_table
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.data.tables import SELECTION
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import read_json
from foveate.select.configs import CONFIGS, Name

EXAMPLES = """
    foveate select photos/ --select herding --fraction 0.2 --out chosen.json
    foveate select photos/ --select cal --fraction 0.1 --clip ViT-B/16 --features feats/ --out chosen.json
    foveate fit chosen.json --method coop --out out/few
"""
GROUPS = {"reading pictures": ("images", "on_bad")}


def select(  # noqa: PLR0913  (a command's options)
    photos: str,
    *,
    out: str,
    select: Name,
    fraction: float,
    clip: str = "tiny",
    seed: int = 1,
    classes: Literal["all", "base"] = "all",
    template: str | None = None,
    features: str | None = None,
    log: str | None = None,
    images: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    device: str = "cpu",
    dtype: Precision = "float32",
    settings: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Choose training photos from a larger set, class by class.

    Args:
        photos: A source that fit reads; test pictures are not used.
        out: Split file (.json) to write; fit reads it.
        select: Selector; docs/select.md describes each.
        fraction: Share of each class to choose; at least one picture.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded CLIP for drawn scenes.
        seed: Seed of random choices.
        classes: Choose from all classes (all), or from the first half only (base), to measure the others
            as new.
        template: The data set's sentence, such as "a photo of a {}, a type of pet."
        features: Folder that foveate features wrote for these photos; then no photo is encoded.
        log: Folder of a run on the whole pool with --log-answers, for forgetting.
        images: Folder of a split JSON's pictures, if they are not beside the file.
        on_bad: Stop at an unreadable picture (error), or leave it out with a note (skip).
        device: Device of the tower, e.g. cuda.
        dtype: Precision of the towers; auto is bfloat16 where the processor has it, and float16 on CUDA.
        settings: Settings of each selector.
    """
    from foveate.clip.weights import load_clip
    from foveate.train.selecting import Selected, SelectionRequest
    from foveate.train.selecting import select as select_pictures
    from foveate.train.shots import choose

    path = Path(out).expanduser()
    _refuse(path)
    request = SelectionRequest(
        select,
        fraction,
        seed,
        _own(select, settings or {}),
        template,
        features=None if features is None else Path(features).expanduser(),
        log=None if log is None else Path(log).expanduser(),
    )
    if template is not None:
        fill(template, "name")
    source = load_photos(photos, images=images)
    for sample in source.samples[:1]:
        _file(sample)  # fails before hours of encoding; a source consists of files only, or of none
    towers = load_clip(clip, device=device, dtype=dtype)
    note_precision(towers.precision)
    selections: list[Selected] = []
    with notes_for_warnings(), Bars() as bars:

        def pick(pool: Photos) -> Photos:
            selections.append(select_pictures(pool, towers, request, bars.count))
            return selections[-1].photos

        chosen = choose(source, None, seed, select=pick, base_only=classes == "base", on_bad=on_bad)
    for line in chosen.notes:
        note(line)
    note_embedded(clip)
    _write(path, source, chosen.photos, {**selections[0].record, "clip": clip})
    counts = selections[0].pool.counts()
    rows = [[name, str(counts[name]), str(number)] for name, number in chosen.photos.counts().items()]
    print_table(["class", "photos", "chosen"], rows)
    note(f"{select} chose {len(chosen.photos)} of {len(selections[0].pool)} photos: {path}")


def run(words: Sequence[str]) -> None:
    """Run the command."""
    selector_settings = [option for part, kind in CONFIGS.items() for option in settings_of(part, kind)]
    select(**parse("select", select, words, settings=selector_settings, groups=GROUPS, examples=EXAMPLES))


def _own(name: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stray = next((part for part in settings if part != name), None)
    if stray:
        raise InputError(f"settings for {stray!r}, but --select is {name}: leave them out")
    return settings.get(name, {})


def _refuse(path: Path) -> None:
    """Refuse an unusable output path before the work starts; a file written by `select` may be replaced."""
    if path.suffix.lower() != ".json":
        raise InputError(f"{path}: fit knows a split file by its ending: call it {path.with_suffix('.json')}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: make it, or choose another --out")
    if not path.exists():
        return
    try:
        known = SELECTION in read_json(path)
    except (OSError, ValueError, TypeError):
        known = False
    if not known:
        raise InputError(f"{path} is there, and foveate select did not write it: choose another --out")


def _write(path: Path, source: Photos, chosen: Photos, record: dict[str, Any]) -> None:
    """Write the split file format of CoOp and its successors; the val and test splits do not change."""
    label_of = {name: row for row, name in enumerate(source.names)}
    other_splits = {split: source.split(split).samples for split in ("val", "test")}
    rows = {
        "train": [
            _row(sample, label_of[chosen.names[sample.label]], source, path) for sample in chosen.samples
        ]
    }
    rows |= {
        split: [_row(sample, sample.label, source, path) for sample in samples]
        for split, samples in other_splits.items()
    }
    write_atomically(path, json.dumps({**rows, SELECTION: record}, indent=1, ensure_ascii=False) + "\n")


def _row(sample: Sample, label: int, source: Photos, path: Path) -> list[Any]:
    """Return `[path, label, name]`; a path below the folder of the split file is relative."""
    picture, folder = _file(sample), path.absolute().parent
    path_in_list = picture.relative_to(folder) if picture.is_relative_to(folder) else picture
    return [path_in_list.as_posix(), label, source.names[label]]


def _file(sample: Sample) -> Path:
    if not isinstance(sample.picture, Path):
        raise InputError(f"{sample.name}: it is no file, which a list could name: take foveate fit --select")
    return sample.picture
