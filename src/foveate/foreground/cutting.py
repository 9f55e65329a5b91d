"""Makes masks of a few pictures: decode, call the proposer, clean up; in this process or in a worker."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.files import sha256_of
from foveate.foreground.cleanup import Tidied, TidyConfig, tidy
from foveate.foreground.opening import BadPicture
from foveate.foreground.pictures import open_picture
from foveate.foreground.proposers.base import Mask, Proposal, Proposer, Request
from foveate.foreground.store import MaskRecord

_FAILED = "failed"


@dataclass(frozen=True)
class MaskJob:
    """One picture that needs a mask.

    Attributes:
        name: Its path relative to the root folder, with "/" between the parts.
        path: The file.
        label: Its class name; empty if it is unknown.
        prompt: The search text for a proposer that reads texts.
    """

    name: str
    path: Path
    label: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Cut:
    """A picture's mask, ready to store.

    Attributes:
        job: The job.
        record: The metadata of the mask.
        mask: The foreground.
    """

    job: MaskJob
    record: MaskRecord
    mask: Mask


@dataclass(frozen=True)
class Missed:
    """A picture whose mask could not be made.

    Attributes:
        job: The job.
        reason: The fault.
    """

    job: MaskJob
    reason: str


class Cutter:
    """Makes masks, a few pictures at a time; it has no state between calls.

    Args:
        proposer: The proposer to call.
        config: Settings of the clean-up.
    """

    def __init__(self, proposer: Proposer, config: TidyConfig | None = None) -> None:
        self.proposer = proposer
        self._config = config or TidyConfig()

    def __call__(self, jobs: Sequence[MaskJob]) -> list[Cut | Missed]:
        """Return the result of each job, in order; a picture that cannot be decoded gives a `Missed`.

        The proposer may fail on one picture (raise a `BadPicture`, or anything except an `InputError`).
        The other pictures still get their masks. The failed one gets the whole picture with score 0, and
        its record gives the reason (`failure`).

        Raises:
            InputError: The proposer cannot work at all.
        """
        opened = [_open(job) for job in jobs]
        decoded = [item for item in opened if isinstance(item, _DecodedJob)]
        answers = iter(self._ask([item.request for item in decoded]) if decoded else [])
        return [item if isinstance(item, Missed) else self._cut(item, next(answers)) for item in opened]

    def _ask(self, requests: Sequence[Request]) -> "list[Proposal | str]":
        """Return each proposal, or the reason of its failure; after a failure, retry one by one."""
        try:
            return [*self._proposals(requests)]
        except Exception as error:  # networks, libraries and a full GPU memory raise anything
            if isinstance(error, InputError) and not isinstance(error, BadPicture):
                raise
            if len(requests) == 1:
                return [_reason(error)]
            return [answer for request in requests for answer in self._ask([request])]

    def _proposals(self, requests: Sequence[Request]) -> list[Proposal]:
        proposals = self.proposer.propose(requests)
        if len(proposals) != len(requests):
            raise ValueError(f"{len(proposals)} answers about {len(requests)} pictures")
        return proposals

    def _cut(self, decoded: "_DecodedJob", answer: Proposal | str) -> Cut:
        picture = decoded.request.picture
        if isinstance(answer, Proposal):
            try:
                tidied = self._tidied(picture, answer)
                return Cut(decoded.job, decoded.record(tidied, dict(answer.meta)), tidied.mask)
            except InputError:
                raise
            except Exception as error:  # wrong mask size, or an OpenCV error
                answer = _reason(error)
        full_mask = np.ones((picture.height, picture.width), dtype=bool)
        tidied = Tidied(full_mask, 0.0, 1.0, fallback=True, refined=False)
        return Cut(decoded.job, decoded.record(tidied, {_FAILED: answer}), full_mask)

    def _tidied(self, picture: Image.Image, proposal: Proposal) -> Tidied:
        if not math.isfinite(proposal.score):
            raise ValueError(f"its score is {proposal.score}")
        return tidy(picture, proposal, coarse=self.proposer.coarse, config=self._config)


def failure(record: MaskRecord) -> str | None:
    """Return why the proposer failed on this picture; None if it did not fail."""
    reason = record.meta.get(_FAILED)
    return None if reason is None else str(reason)


@dataclass(frozen=True)
class _DecodedJob:
    """A decoded picture and its request to the proposer."""

    job: MaskJob
    request: Request
    sha256: str

    def record(self, tidied: Tidied, meta: dict[str, object]) -> MaskRecord:
        request = self.request
        return MaskRecord(
            name=request.name,
            sha256=self.sha256,
            width=request.picture.width,
            height=request.picture.height,
            area=tidied.area,
            score=tidied.score,
            label=request.label,
            prompt=request.prompt,
            fallback=tidied.fallback,
            refined=tidied.refined,
            meta=meta,
        )


def _open(job: MaskJob) -> _DecodedJob | Missed:
    try:
        picture = open_picture(job.path)
        return _DecodedJob(job, Request(job.name, picture, job.label, job.prompt), sha256_of(job.path))
    except BadPicture as error:
        return Missed(job, error.reason)
    except OSError as error:  # removed or locked after it was decoded
        return Missed(job, error.strerror or _reason(error))


def _reason(error: Exception) -> str:
    prefix = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return " ".join(f"{prefix}{error}".split())
