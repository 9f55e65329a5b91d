"""`foveate features`: compute features of many pictures with a frozen CLIP and write them to files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, note_precision, notes_for_warnings
from foveate.data.listing import list_pictures
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.foreground.options import MaskValues

EXAMPLES = """
    foveate features photos/ --clip openai/clip-vit-base-patch16 --out features/
    foveate features photos/ --clip ViT-B/16 --masks masks/ --dtype float16 --out features/
    foveate features photos/ --clip ViT-B/16 --workers 8 --out features/
    foveate features photos/ --clip ViT-B/16 --ray --ray-address head:6379 --out /shared/features/
"""
GROUPS = {
    "reading pictures and masks": ("images", "masks", "mask_values", "invert_masks", "on_bad"),
    "what is kept": ("dtype", "shard"),
    "where it is made": ("device", "precision", "batch_size", "workers", "ray", "ray_address"),
}
_LISTED = 5
_UNNAMED = "picture"


def features(  # noqa: PLR0913  (a command's options)
    photos: str,
    *,
    out: str,
    clip: str = "tiny",
    images: str | None = None,
    masks: str | None = None,
    mask_values: MaskValues = "auto",
    invert_masks: bool = False,
    on_bad: Literal["error", "skip"] = "error",
    dtype: Literal["float32", "float16"] = "float32",
    shard: int = 4096,
    device: str | None = None,
    precision: Precision = "float32",
    batch_size: int = 64,
    workers: int | None = None,
    ray: bool = False,
    ray_address: str | None = None,
) -> None:
    """Compute features of many pictures with a frozen CLIP; repeat the command to resume.

    Args:
        photos: A source that fit reads, or a folder of pictures without classes.
        out: Folder of the features.
        clip: Hub id, folder or file of CLIP weights; "tiny" is the embedded CLIP for drawn scenes.
        images: Folder of a split JSON's pictures, if they are not beside the file.
        masks: Foreground masks (a folder, packed, COCO, boxes.csv); foregrounds are then encoded too.
        mask_values: Meaning of the pixel values in mask files.
        invert_masks: Invert masks that mark the background.
        on_bad: Stop at an unreadable picture or mask (error), or leave the picture out with a note
            (skip).
        dtype: Precision of the features in the files.
        shard: Pictures per file; a stopped worker loses at most one file.
        device: Device of the tower, e.g. cuda; by default cpu, or with --ray the cluster's GPUs if it
            has any.
        precision: Precision of the tower; auto is bfloat16 where the processor has it, and float16 on CUDA.
        batch_size: Pictures per batch.
        workers: Number of processes, each with its own tower (1); with --ray, of actors: one per GPU or
            core.
        ray: Use a Ray cluster: the one at --ray-address, or a new one on this computer.
        ray_address: HOST:PORT of a Ray cluster; the environment variable RAY_ADDRESS works too.
    """
    from foveate.data.feature_maker import FeatureJob
    from foveate.data.features import make_features

    if workers is not None and workers < 1:
        raise InputError(f"--workers is {workers}: give 1 or more")
    if ray_address and not ray:
        raise InputError("--ray-address is for Ray: give --ray too")
    folder = Path(out).expanduser()
    job = FeatureJob(
        clip=clip,
        dtype=dtype,
        precision=precision,
        masks=masks is not None,
        batch_size=batch_size,
        shard=shard,
        on_bad=on_bad,
        # On a cluster the actors find their GPUs; this process loads the weights only for their
        # fingerprint.
        device="cpu" if ray or device is None else device,
    )
    run = None
    if ray:
        from foveate.scale.features import on_ray

        run = on_ray(ray_address, workers, device)
    elif workers is not None and workers > 1:
        from foveate.scale.features import in_processes

        run = in_processes(workers)
    note_precision(job.precision)
    with notes_for_warnings(), Bars() as bars:
        loaded = _read(photos, images, masks, mask_values, invert_masks)
        result = make_features(
            loaded,
            folder,
            job,
            names=_names(loaded, photos),
            run=run,
            on_count=lambda done, total: bars.count("features", done, total),
        )
    for name, reason in result.left_out[:_LISTED]:
        note(f"{name}: {reason}")
    if result.left_out:
        note(f"left out {len(result.left_out)} of {len(loaded)} pictures")
    shards = f"{result.shards} shard{'s' * (result.shards != 1)}"
    reused = f", {result.reused} of them made before" if result.reused else ""
    Console(highlight=False).print(
        f"features of {result.pictures} pictures in {shards}{reused}: {folder}",
        soft_wrap=True,
        markup=False,
    )


def run(words: Sequence[str]) -> None:
    """Run the command."""
    features(**parse("features", features, words, groups=GROUPS, examples=EXAMPLES))


def _read(
    photos: str, images: str | None, masks: str | None, values: MaskValues, invert_masks: bool
) -> Photos:
    """Read labelled photos; pictures in a folder without class folders get one class without a name."""
    folder = Path(photos).expanduser()
    source: str | Photos = photos
    if folder.is_dir() and not any(entry.is_dir() for entry in folder.iterdir()):
        pictures = list_pictures(folder)
        if pictures and not any(folder.glob("split_*.json")):
            source = Photos((_UNNAMED,), tuple(Sample(picture.absolute(), 0) for picture in pictures))
    return load_photos(source, masks=masks, images=images, mask_values=values, invert_masks=invert_masks)


def _names(photos: Photos, source: str) -> list[str]:
    """Name pictures by their paths below the common folder; lazy pictures have names already."""
    paths = [sample.picture for sample in photos.samples if isinstance(sample.picture, Path)]
    if len(paths) < len(photos):
        return [sample.name for sample in photos.samples]
    root = Path(source).expanduser().absolute()
    if not all(path.is_relative_to(root) for path in paths):
        root = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(root).as_posix() for path in paths]
