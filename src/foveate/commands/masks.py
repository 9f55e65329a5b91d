"""`foveate masks`: make foreground masks of photos."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from foveate.clip.templates import fill
from foveate.commands.masking import (
    REPORT,
    Judge,
    MaskOrder,
    Worth,
    as_json,
    class_rows,
    judge_by_clip,
    judge_by_model,
    make,
    pack_all,
    worth_rows,
    worths_of,
    write_reports,
)
from foveate.commands.options import parse, peek, settings_of
from foveate.commands.proposer_options import part_of, proposer_settings
from foveate.commands.screen import Bars, note_embedded, notes_for_warnings, print_table
from foveate.configs import nearest
from foveate.data.jobs import mask_jobs
from foveate.errors import InputError
from foveate.evaluate.mask_scores import MaskSet, masks_of
from foveate.evaluate.metrics import mean
from foveate.files import write_atomically
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import MaskJob
from foveate.foreground.making import Made
from foveate.foreground.proposers.base import MASK_PROMPTS, mask_prompt
from foveate.foreground.records import MaskRecord
from foveate.foreground.values import MaskValues

Records = Sequence[MaskRecord]

EXAMPLES = """
    foveate masks photos/ --proposer classical --out masks/
    foveate masks photos/ --clip openai/clip-vit-base-patch16 --shots 16 --out masks/
    foveate masks photos/ --proposer classical,u2net --compare truth/ --out masks/
    foveate masks pets/ --proposer seem --prompts OxfordPets --out masks/ \\
        --seem.root SEEM/ --seem.weights seem_focall_v0.pt
    foveate masks photos/ --proposer files --tree somebodys/masks/ --out masks/
"""

GROUPS = {
    "which pictures": ("images", "classes", "shots", "seed", "on_bad"),
    "what to look for": ("template", "prompts"),
    "masks that are there already": ("tree", "mask_values", "invert_masks"),
    "how far to trust the masks": ("compare", "model"),
    "where they are made": ("workers", "ray", "ray_address", "device"),
}


def masks(  # noqa: PLR0913  (a command's options)
    photos: str,
    *,
    out: str,
    proposer: str = "clip-self",
    clip: str = "tiny",
    refine: Literal["auto", "grabcut", "none"] = "auto",
    pack: str | None = None,
    images: str | None = None,
    classes: Literal["all", "base"] = "all",
    shots: int | None = None,
    seed: int = 1,
    on_bad: Literal["error", "skip"] = "error",
    template: str | None = None,
    prompts: str | None = None,
    tree: str | None = None,
    mask_values: MaskValues = "auto",
    invert_masks: bool = False,
    compare: str | None = None,
    model: str | None = None,
    workers: int | None = None,
    ray: bool = False,
    ray_address: str | None = None,
    device: str = "cpu",
    settings: dict[str, Any] | None = None,
) -> None:
    """Make foreground masks of photos; repeat the command to resume or to update changed photos.

    Args:
        photos: A source that fit reads from files, or a folder of pictures without classes.
        out: Folder of the masks, one PNG per picture; several proposers get one subfolder each.
        proposer: Programs that find the foreground, separated by commas. "files" copies existing masks
            from --tree.
        clip: Hub id, folder or file of CLIP weights, for clip-self and --compare; "tiny" is the embedded
            CLIP for drawn scenes.
        refine: Refine masks with GrabCut where the proposer is coarse (auto), wherever it gives a heat
            map (grabcut), or never (none).
        pack: Folder for the finished masks in packed form: a few files instead of millions.
        images: Folder of a split JSON's pictures, if they are not beside the file.
        classes: Pictures of all classes (all), or of the first half of the classes (base).
        shots: Only the pictures that fit draws for training with this number of shots; by default all
            pictures.
        seed: Seed of that draw and of the crops in the quality report.
        on_bad: Stop at an unreadable picture (error), or leave it out with a note (skip).
        template: Text prompt for proposers that read texts, such as "a photo of a {}."; by default the
            class name.
        prompts: Data set whose text prompt from the FVG-PT paper is used, such as OxfordPets.
        tree: Existing masks in any layout: a folder, packed masks, a COCO file, boxes.csv.
        mask_values: Meaning of the pixel values in --tree; auto detects it.
        invert_masks: Invert masks that mark the background.
        compare: Folder of exact masks; reports the mean IoU per class.
        model: Folder of an fvgpt classifier; its foreground gate reports its trust in the masks.
        workers: Number of processes, each with its own proposer; 1 by default. With --ray, the number of
            actors; one per GPU or core by default.
        ray: Use a Ray cluster: the one at --ray-address, or a new one on this computer.
        ray_address: HOST:PORT of a Ray cluster; the environment variable RAY_ADDRESS works too.
        device: Device of networks, e.g. cuda.
        settings: Settings of each proposer.
    """
    names = [name.strip() for name in proposer.split(",") if name.strip()]
    jobs = mask_jobs(
        photos,
        out=Path(out),
        images=images,
        base_only=classes == "base",
        shots=shots,
        seed=seed,
        prompt=_prompt(template, prompts),
    )
    order = MaskOrder(
        jobs=jobs,
        names=names,
        out=Path(out).expanduser(),
        common={"clip": clip, "device": device},
        settings=settings or {},
        tidy=TidyConfig(refine=refine),
        key={"template": template, "prompts": prompts},
        on_bad=on_bad,
        workers=workers,
        ray=ray,
        ray_address=ray_address,
        pack=Path(pack).expanduser() if pack else None,
        tree=Path(tree).expanduser() if tree else None,
        values=mask_values,
        invert=invert_masks,
    )
    order.check()
    if "clip-self" in map(part_of, names):
        note_embedded(clip)
    with notes_for_warnings(), Bars() as bars:
        truth = masks_of(jobs, Path(compare).expanduser()) if compare else None
        judge = _judge(jobs, model, compare, clip, template, device)
        made = {name: make(order, name, bars) for name in names}
        records = {name: entries for name, (_, entries) in made.items()}
        reports = {
            name: write_reports(order, name, entries, seed) for name, entries in records.items() if entries
        }
        worths = worths_of(_found(order, records), truth, judge, bars) if truth or judge else {}
        pack_all(order)
    heads = ["proposer", "made", "there before", "skipped", "full pictures", "mean area", "mean score"]
    print_table(heads, [_made_row(name, *outcome) for name, outcome in made.items()])
    for name, rows in reports.items():
        print_table(["quality", name], rows)
    _print_worths(worths, judge, order.out)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    shown_parts = [part_of(name) for name in (peek("masks", "proposer", words) or "clip-self").split(",")]
    settings = [
        option
        for part, kind in proposer_settings().items()
        for option in settings_of(part, kind, shown=part in shown_parts)
    ]
    masks(**parse("masks", masks, words, settings=settings, groups=GROUPS, examples=EXAMPLES))


def _prompt(template: str | None, prompts: str | None) -> Callable[[str], str] | None:
    """Return a function from a class name, which may be empty, to a text prompt; None without a prompt."""
    if template is not None and prompts is not None:
        raise InputError("--template and --prompts both say what to look for: leave one out")
    if template is not None:
        fill(template, "name")
        return lambda label: fill(template, label) if label else ""
    if prompts is None:
        return None
    if prompts.casefold() not in map(str.casefold, MASK_PROMPTS):
        raise InputError(f"--prompts knows no data set {prompts!r}; {nearest(prompts, MASK_PROMPTS)}")
    return partial(mask_prompt, prompts)


def _judge(
    jobs: Sequence[MaskJob],
    model: str | None,
    compare: str | None,
    clip: str,
    template: str | None,
    device: str,
) -> Judge | None:
    """Return the judge of the masks: a trained gate, or else the target that gates are trained on."""
    if model is not None:
        return judge_by_model(model, None if clip == "tiny" else clip, device)
    return judge_by_clip(jobs, clip, template, device) if compare else None


def _found(order: MaskOrder, records: Mapping[str, Records]) -> dict[str, MaskSet]:
    """Return the existing masks of each proposer that has any."""
    mask_sets: dict[str, MaskSet] = {}
    for name, proposer_records in records.items():
        names = {record.name for record in proposer_records}
        if names:
            jobs = [job for job in order.jobs if job.name in names]
            mask_sets[name] = masks_of(jobs, order.folder(name))
    return mask_sets


def _made_row(name: str, made: Made, records: Records) -> list[str]:
    """Return a table row for the masks of one proposer."""
    numbers = (made.made, made.kept, len(made.skipped), sum(record.fallback for record in records))
    means = [mean([mask.area for mask in records]), mean([mask.score for mask in records])] if records else []
    return [name, *map(str, numbers), *(f"{value:.3f}" for value in means)]


def _print_worths(worths: Mapping[str, Worth], judge: Judge | None, out: Path) -> None:
    if not worths:
        return
    compared = [name for name, worth in worths.items() if worth.overlap]
    if compared:
        print_table(["mean IoU", *compared], class_rows(worths))
    print_table(*worth_rows(worths, judge))
    (out / REPORT).mkdir(exist_ok=True)
    write_atomically(out / REPORT / "compare.json", json.dumps(as_json(worths, judge), indent=2) + "\n")
