"""Correct predictions of training pictures, epoch by epoch: logged by a run, read by a selector."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.errors import InputError
from foveate.memory import sent
from foveate.methods.base import Method
from foveate.readers import parse_table
from foveate.train.banking import chunk_on

ANSWERED = "right"
"""Key in a log line for whether each picture was classified correctly."""

LOG = "log.jsonl"


@torch.no_grad()
def answered(method: Method, photos: Photos) -> dict[str, bool]:
    """Classify each picture among the trained classes; return by name whether the prediction is right.

    Pictures are in the test view, not in training views.
    """
    device = method.clip.logit_scale.device
    pictures = eval_pictures(photos, method.clip.config, masks=False)
    training, right = method.training, list[bool]()
    method.eval()
    for batch in pictures.batches(None, chunk_on(method.clip)):
        features = method.features(sent(batch.images, device), "base")
        right += (method.logits(features, "base").argmax(dim=-1).cpu() == batch.labels).tolist()
    method.train(training)
    return dict(zip((sample.name for sample in photos.samples), right, strict=True))


def read_answered(log: Path, names: Sequence[str]) -> Bool[Tensor, "epochs pictures"]:
    """Read the logged predictions of these pictures, from the run's last stage.

    Args:
        log: Run folder, or its log file.
        names: Names of the pictures, as in `Sample.name`.

    Raises:
        InputError: The log does not exist, has no predictions, or lacks an epoch or a picture.
    """
    path = log / LOG if log.is_dir() else log
    lines = list(_lines(path))
    if not lines:
        raise InputError(f"{path} does not say which answers were right: fit with --log-answers")
    stage_lines = [line for line in lines if line.get("stage") == lines[-1].get("stage")]
    if [line.get("epoch") for line in stage_lines] != list(range(len(stage_lines))):
        raise InputError(f"{path} lacks the answers of some epochs: fit anew with --log-answers")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(
            f"{repeated[0]} is in the pool twice, and {path} knows pictures by name: list it once"
        )
    unknown = [name for name in names if any(name not in line[ANSWERED] for line in stage_lines)]
    if unknown:
        raise InputError(
            f"{path} has no answers about {len(unknown)} of {len(names)} pictures, first {unknown[0]}:"
            " fit the whole pool, --select uniform --fraction 1 --log-answers"
        )
    return torch.tensor([[line[ANSWERED][name] is True for name in names] for line in stage_lines])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the log lines with predictions."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                line = _parsed(path, number, text)
                if isinstance(line.get(ANSWERED), dict):
                    yield line
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give the folder of a run as --log") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no log of a run: give the folder of a run as --log") from error


def _parsed(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        return parse_table(text, "it")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}, line {number} is damaged: delete that line, or fit again") from error
