"""Makes masks on a Ray cluster: actors receive paths and return masks; one process stores them in order."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import Cut, Cutter, MaskJob, Missed
from foveate.foreground.making import Made, MaskWriter, check_jobs, in_batches
from foveate.foreground.options import OnBad, OnCount
from foveate.foreground.proposers.base import Mask, Proposer
from foveate.foreground.records import MaskRecord, to_line
from foveate.foreground.store import MaskStore, png_bytes
from foveate.scale.actors import Answer, Pool, ask, pool_of
from foveate.scale.cluster import Cluster, joined


def make_masks_on_ray(  # noqa: PLR0913  (the arguments of make_masks)
    jobs: Sequence[MaskJob],
    proposer: Proposer,
    store: MaskStore,
    *,
    tidy: TidyConfig | None = None,
    on_bad: OnBad = "error",
    workers: int | None = None,
    opening: Callable[[], Proposer] | None = None,
    on_count: OnCount | None = None,
    address: str | None = None,
) -> Made:
    """Make masks on a Ray cluster; the store is the same as from `foveate.foreground.making.make_masks`.

    Actors make masks and this process stores them, in the order of jobs. A mask is smaller than 1 kB.

    Args:
        jobs: Jobs; each name occurs once. The cluster needs the pictures under the same paths.
        proposer: Gives its input kind and batch size; it makes no masks itself.
        store: The store to write to.
        tidy: Settings of the clean-up.
        on_bad: "error" stops at an unreadable picture, "skip" continues without it. Finished masks stay.
        workers: Number of actors; None: one for each GPU, or one for each core.
        opening: Creates the proposer in each actor. If it takes a `device`, it gets "cuda" if there are
            GPUs.
        on_count: Called with the progress.
        address: Address of the cluster (see `foveate.scale.cluster.joined`).

    Raises:
        InputError: There is no cluster, or as in `make_masks`. Finished masks stay.
        OSError: No space, or no permission.
    """
    if opening is None:
        raise ValueError("actors open the proposer themselves: give opening")
    check_jobs(jobs, proposer.name, proposer.reads_text)
    writer = MaskWriter(store, len(jobs), on_bad, on_count)
    batches = [*in_batches(writer.unfinished(jobs, proposer.reads_text), proposer.batch)]
    if not batches:
        return writer.result()
    questions = [
        json.dumps([[job.name, str(job.path.absolute()), job.label, job.prompt] for job in batch])
        for batch in batches
    ]
    try:
        with joined(address, workers) as cluster:
            pool, opening = _mask_pool(cluster, workers, opening)
            with closing(ask(questions, partial(_mask_answer, opening, tidy), pool)) as answers:
                for batch, answer in zip(batches, answers, strict=True):
                    writer.write(_cuts(batch, answer), proposer.name)
    except InputError as error:
        raise InputError(f"{error}{writer.progress}") from error
    return writer.result()


def _mask_pool(
    cluster: Cluster, workers: int | None, opening: Callable[[], Proposer]
) -> tuple[Pool, Callable[[], Proposer]]:
    """Give GPUs to proposers that use them."""
    settings = opening.keywords if isinstance(opening, partial) else {}
    if cluster.gpus and "device" in settings:
        return pool_of(cluster, workers, gpus=True), partial(opening, device="cuda")
    return pool_of(cluster, workers, gpus=False), opening


def _mask_answer(opening: Callable[[], Proposer], tidy: TidyConfig | None) -> Answer:
    cutter: list[Cutter] = []

    def answer(question: str) -> str:
        jobs = [
            MaskJob(name, Path(path), label, prompt) for name, path, label, prompt in json.loads(question)
        ]
        try:
            if not cutter:  # created here, where an error can be reported
                cutter.append(Cutter(opening(), tidy))
            return json.dumps([_told(outcome) for outcome in cutter[0](jobs)])
        except InputError as error:
            return json.dumps(str(error))

    return answer


def _told(outcome: Cut | Missed) -> list[str]:
    if isinstance(outcome, Missed):
        return [outcome.reason]
    return [to_line(outcome.record).decode(), base64.b64encode(png_bytes(outcome.mask)).decode()]


def _cuts(jobs: Sequence[MaskJob], answer: str) -> list[Cut | Missed]:
    outcomes = json.loads(answer)
    if isinstance(outcomes, str):
        raise InputError(outcomes)
    return [_cut(job, *outcome) for job, outcome in zip(jobs, outcomes, strict=True)]


def _cut(job: MaskJob, text: str, png: str | None = None) -> Cut | Missed:
    if png is None:
        return Missed(job, text)
    return Cut(job, MaskRecord(**json.loads(text)), _mask(base64.b64decode(png)))


def _mask(png: bytes) -> Mask:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image, dtype=bool)
