"""`foveate explain`: draw and measure the gaze of a classifier."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, note_precision, notes_for_warnings, print_table
from foveate.data.naming import split_names
from foveate.errors import InputError
from foveate.files import home_of
from foveate.foreground.options import Fill

EXAMPLES = """
    foveate explain out/pets new.jpg                                # what it looked at, as a picture
    foveate explain out/pets new.jpg --about beagle --compare       # beside the backbone and CLIP
    foveate explain out/pets                                        # measured on what fit left over
    foveate explain out/pets --data test/ --masks masks/ --curve
"""


def explain(  # noqa: PLR0913  (a command's options)
    model: str,
    photos: list[str] | None = None,
    *,
    data: str | None = None,
    masks: str | None = None,
    split: Literal["base", "new", "all"] | None = None,
    classes: str | None = None,
    only: bool = False,
    about: str = "answer",
    how: Literal["hirescam", "gradcam", "rollout"] = "hirescam",
    target: Literal["logit", "probability"] = "probability",
    layer: int = -1,
    branch: Literal["base", "new", "mixed"] | None = None,
    compare: bool = False,
    curve: bool = False,
    bins: int = 8,
    cases: int = 12,
    steps: int = 8,
    tau: float = 2.0,
    fill: Fill = "mean",
    out: str = "out/explain",
    on_bad: Literal["error", "skip"] = "error",
    clip: str | None = None,
    device: str = "cpu",
    dtype: Precision | None = None,
) -> None:
    """Draw heat maps of a classifier's gaze in photos, or measure it on labelled photos beside baselines.

    Args:
        model: Folder written by fit, or a hub id.
        photos: Pictures and folders of pictures; without any, labelled pictures are measured.
        data: Labelled pictures; the test split if there is one. By default those that fit did not draw.
        masks: Folder of the foreground masks of --data.
        split: Labelled pictures of trained classes (base), of other classes (new), or of both (all). The
            default is the first of these in the data.
        classes: Additional class names for photos, separated by commas.
        only: Use the names of --classes only.
        about: Class to explain: the predicted class (answer), the label (labelled pictures only), or a
            name.
        how: Gradient times activation (hirescam), one weight per channel (gradcam), or attention only
            (rollout).
        target: Quantity whose gradient is computed.
        layer: Block of the image tower, counted from 0; negative numbers count from the end.
        branch: Label space of the explained answer; by default it follows from the class names.
        compare: Draw the backbone and zero-shot CLIP too; labelled pictures always include them.
        curve: Plot accuracy against the foreground shift index; needs masks.
        bins: Number of points per curve.
        cases: Number of repaired and of broken pictures on the page.
        steps: Number of steps of deletion and insertion; 0 leaves both out and is much faster.
        tau: Temperature of the foreground shift index.
        fill: Replacement for removed pixels.
        out: Output folder.
        on_bad: Stop at an unreadable picture or mask (error), or leave it out with a note (skip).
        clip: CLIP weights, if they are now in another place than during training.
        device: Device of the towers, e.g. cuda.
        dtype: Precision of the towers; by default that of the training. auto: bfloat16 where the processor
            has it, float16 on CUDA.
    """
    from foveate.classifier import Classifier
    from foveate.commands.asking import readable, tested_photos
    from foveate.commands.explaining import ExplainPlan, explain_photos, explain_set
    from foveate.commands.finding import find_pictures, good_pictures
    from foveate.explain.measure import LABEL, LookConfig
    from foveate.foreground.proposers.registry import demand

    names = split_names(classes)
    if photos:
        _refuse("labelled pictures: leave the photos out", data=data, split=split, curve=curve)
    else:
        _refuse("photos: name some", classes=classes, only=only, compare=compare)
    if only and not names:
        raise InputError("--only leaves no names to choose from: give some with --classes")
    if photos and about == LABEL and LABEL not in names:
        raise InputError("--about label: photos have no label; name a class")
    config = LookConfig(how, target, layer, about, tau, fill, steps)
    plan = ExplainPlan(config, _folder(out), branch, bins=bins, cases=cases, curve=curve)
    if curve:
        demand("plots", "--curve", "matplotlib")
    with notes_for_warnings(), Bars() as bars:
        classifier = Classifier.from_pretrained(model, clip=clip, device=device, dtype=dtype)
        note_precision(classifier.precision)
        names = split_names(classes, classifier.config.names if classifier.config else ())
        simpler = classifier.simpler() if compare or not photos else []
        chain = [*reversed(simpler), classifier]
        if photos:
            for member in chain:
                member.ask_about(names, only=only)
            paths = find_pictures(photos)
            paths = good_pictures(paths) if on_bad == "skip" else paths
            table = explain_photos(chain, paths, masks, plan, bars)
        else:
            test_photos = readable(
                tested_photos(home_of(model), data, masks, classifier), on_bad, masked=True
            )
            table = explain_set(chain, test_photos, split or classifier.splits(test_photos)[0], plan, bars)
    print_table(*table)
    note(f"written to {plan.folder}")


def run(words: Sequence[str]) -> None:
    """Run the command."""
    explain(**parse("explain", explain, words, examples=EXAMPLES))


def _refuse(what: str, **options: object) -> None:
    """Refuse options that have no effect here."""
    for name, value in options.items():
        if value:
            raise InputError(f"--{name} is for {what}, or leave --{name} out")


def _folder(out: str) -> Path:
    """Return the output folder; it is created when something is written."""
    folder = home_of(out)
    blocked = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if blocked is not None:
        raise InputError(f"{blocked} is a file: give a folder to write to with --out")
    return folder
