"""`foveate check`: find problems in photos before training."""

import json as json_module
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, note_precision, notes_for_warnings, print_table
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.check.checking import Checked

EXAMPLES = """
    foveate check photos/ --clip openai/clip-vit-base-patch16
    foveate check photos.csv --group patient                 # and how much accuracy the groups fake
    foveate check photos/ --report check.html --write cleaned.csv
    foveate fit cleaned.csv --method coop --out out/clean
"""


def check(  # noqa: PLR0913  (a command's options)
    photos: str,
    *,
    clip: str = "tiny",
    group: str | None = None,
    write: str | None = None,
    report: str | None = None,
    json: bool = False,
    bank_dir: str | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
) -> None:
    """Find wrong labels, pictures that are there twice, leaks, bad pictures, and names that CLIP cannot read.

    Args:
        photos: Folder per class, CSV or JSONL (image,label[,mask,split]), CoOp split JSON, or hf:owner/name.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded one, for drawn scenes.
        group: What belongs together and must not be torn apart: folder, camera, burst, or a
            column of the list. Bursts are looked for in any case.
        write: File for a list (.csv) without pictures that are unreadable, there twice, or look wrongly
            labelled.
        report: File for a page (.html) with the pictures.
        json: Print JSON instead of a table.
        bank_dir: Folder of kept features, for later runs.
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the towers; auto is bfloat16 where the processor has it, and float16 on CUDA.
    """
    if write and not write.endswith(".csv"):
        raise InputError(f"--write {write}: give a file that ends in .csv")
    from foveate.check.checking import check_photos
    from foveate.check.groups import read_groups
    from foveate.clip.weights import load_clip
    from foveate.data.sources import load_photos

    with notes_for_warnings(), Bars() as bars:
        loaded = load_photos(photos)
        groups = read_groups(loaded, photos, group) if group else None
        towers = load_clip(clip, device=device, dtype=dtype)
        note_precision(towers.precision)
        bank = Path(bank_dir).expanduser() if bank_dir else None
        checked = check_photos(loaded, towers, groups=groups, bank=bank, watch=bars.count)
    if write:
        _write(checked, Path(write).expanduser())
    if report:
        from foveate.pages.checked import write_page

        write_page(checked, photos, Path(report).expanduser())
    if json:
        sys.stdout.write(json_module.dumps(_as_json(checked), indent=2, ensure_ascii=False) + "\n")
    else:
        _print(checked)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    check(**parse("check", check, words, examples=EXAMPLES))


def _as_json(checked: "Checked") -> dict[str, Any]:
    leak = None if checked.leak is None else {**asdict(checked.leak), "faked": checked.leak.faked}
    findings = [
        {key: value for key, value in asdict(finding).items() if key != "indices"}
        for finding in checked.findings
    ]
    return {"pictures": len(checked.photos), "counts": checked.counts(), "leak": leak, "findings": findings}


def _print(checked: "Checked") -> None:
    from foveate.check.checking import KINDS

    counts = ", ".join(f"{number} × {KINDS[kind]}" for kind, number in checked.counts().items())
    note(f"{len(checked.photos)} pictures: {counts or 'nothing is wrong with them'}")
    if checked.leak is not None:
        leak = checked.leak
        note(
            f"{leak.groups} groups: {leak.among_own:.1f} % right with others of a picture's group at hand,"
            f" {leak.without_own:.1f} % without: {leak.faked:.1f} points are the groups' own"
        )
    rows = [
        [finding.kind, finding.label, finding.told, " ".join(finding.pictures)]
        for finding in checked.findings
    ]
    print_table(["what", "class", "why", "pictures"], rows)


def _write(checked: "Checked", file: Path) -> None:
    from foveate.check.checking import as_csv
    from foveate.files import write_atomically

    cleaned = checked.cleaned()
    write_atomically(file, as_csv(cleaned, file.parent))
    note(f"{file} has {len(cleaned)} of {len(checked.photos)} pictures")
