"""Choice of training photos from a pool, by a selector on the features of a frozen CLIP.

The caller passes only pictures of the train split, or of no split.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.data.feature_shards import FeatureShards
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos, Sample
from foveate.errors import InputError
from foveate.methods.base import Method, SentenceMethod
from foveate.methods.registry import REFERENCE, build
from foveate.seeds import stream
from foveate.select.choosing import choose
from foveate.select.configs import configure
from foveate.select.pool import PoolFeatures, budgets
from foveate.train.banking import clip_features
from foveate.train.folder import read_answered

Count = Callable[[str, int, int], None]
"""Called with what is done, the number that is finished, and the total."""

SHOTS = 16
"""Default number of pictures per class."""


@dataclass(frozen=True)
class SelectionRequest:
    """Settings of a choice of pictures.

    Attributes:
        name: Name of the selector.
        fraction: Share of each class to choose.
        seed: Seed of random choices.
        settings: Changes to the selector's default settings.
        template: The data set's sentence; None takes "a photo of a {}.".
        features: Folder written by `foveate features`; None encodes the pool.
        bank: Folder for the pool's features; None stores none.
        log: Run with logged predictions of the training pictures, for "forgetting".
    """

    name: str
    fraction: float
    seed: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    template: str | None = None
    features: Path | None = None
    bank: Path | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        configure(self.name, dict(self.settings))
        budgets([], self.fraction)
        if self.name == "forgetting" and self.log is None:
            raise InputError(
                "forgetting reads the log of a training: take foveate select --log, then fit what it writes"
            )
        if self.name != "forgetting" and self.log is not None:
            raise InputError(f"--log is for forgetting, and --select is {self.name}: leave it out")

    @property
    def words(self) -> str:
        """Description for a model card."""
        settings = "".join(f", {name} {value}" for name, value in sorted(self.settings.items()))
        return f"{self.name}{settings}, fraction {self.fraction:g}"


def shots_of(photos: Photos, shots: int | None, request: SelectionRequest | None) -> tuple[int | None, str]:
    """Return the number of shots per class; or None and a description of the selector.

    Args:
        photos: All pictures.
        shots: The requested number, if any.
        request: The requested selection, if any.
    """
    if request:
        return None, request.words
    if shots is None and photos.selection:
        return None, photos.selection
    return SHOTS if shots is None else shots, ""


@dataclass(frozen=True)
class Selected:
    """Result of a selector.

    Attributes:
        photos: The chosen pictures.
        pool: All pictures.
        record: All that the choice depends on, as JSON values.
    """

    photos: Photos
    pool: Photos
    record: dict[str, Any]


def select(pool: Photos, clip: Clip, request: SelectionRequest, count: Count | None = None) -> Selected:
    """Choose pictures from a pool.

    Args:
        pool: Training pictures of all training classes.
        clip: The frozen towers.
        request: Settings of the choice.
        count: Called with the progress of encoding, then with that of choosing, by class.

    Raises:
        InputError: A picture cannot be read, or the features or the log do not match the pool.
    """
    correct = None if request.log is None else read_answered(request.log, [s.name for s in pool.samples])
    method = build(REFERENCE, clip)
    method.set_classes(pool.names, request.template)
    encoding, choosing = (count and partial(count, what) for what in ("encoding the pool", "choosing"))
    if request.features:
        raw = _stored_features(pool, clip, request.features)
    else:
        raw = clip_features(pool, clip, request.bank, encoding)
    labels = torch.tensor([sample.label for sample in pool.samples])
    with torch.no_grad():
        texts = F.normalize(method.text_features().float(), dim=-1).cpu()
    features = PoolFeatures.of(raw, texts, labels, float(clip.scale), correct)
    budget = budgets(list(pool.counts().values()), request.fraction)
    generator = stream(request.seed, "select", request.name)
    rows = choose(request.name, features, budget, generator, watch=choosing, **request.settings)
    chosen = pool.with_samples([pool.samples[int(row)] for row in rows])
    return Selected(chosen, pool, _record(chosen, pool, method, request))


def _record(chosen: Photos, pool: Photos, method: Method, request: SelectionRequest) -> dict[str, Any]:
    assert isinstance(method, SentenceMethod)
    return {
        "method": request.name,
        "settings": dict(request.settings),
        "fraction": request.fraction,
        "seed": request.seed,
        "chosen": len(chosen),
        "pictures": len(pool),
        "pool": pool.digest()[:16],
        "weights": method.clip.fingerprint(),
        "template": method.plain.sentence,
        "version": version("foveate"),
    }


def _stored_features(pool: Photos, clip: Clip, folder: Path) -> Tensor:
    """Load `[N, D]` raw features written by `foveate features`.

    Raises:
        InputError: The features belong to other towers or another view, or a picture is missing.
    """
    shards, weights = FeatureShards.open(folder), clip.fingerprint()
    if shards.key["weights"] != weights:
        raise InputError(
            f"{folder} was made with weights {shards.key['weights']}, and these are {weights}: give the same"
            " --clip"
        )
    if shards.key["view"] != eval_pictures(pool, clip.config).view_key():
        raise InputError(f"{folder} was made of other views of the pictures: make it again")
    names = _stored_names(pool, shards.names, folder)
    row_of = {name: row for row, name in reversed(list(enumerate(shards.names)))}
    return shards.tensor()[[row_of[name] for name in names]].float()


def _stored_names(pool: Photos, names: tuple[str, ...], folder: Path) -> list[str]:
    """Return the names of pictures in that folder: paths below a common parent folder."""
    known = set(names)
    best: list[str | None] = [None]
    for parent in _parents(pool.samples[0]):
        paths = [_below(sample, parent) for sample in pool.samples]
        best = [name if name in known else None for name in paths]
        if None not in best:
            return [name for name in best if name is not None]
        if best[0] is not None:
            break
    absent = pool.samples[best.index(None)].name
    raise InputError(f"{folder} has no features of {absent}: make them of the same photos")


def _parents(sample: Sample) -> list[Path]:
    return list(sample.picture.parents) if isinstance(sample.picture, Path) else [Path()]


def _below(sample: Sample, parent: Path) -> str | None:
    path = sample.picture
    if not isinstance(path, Path):
        return sample.name
    return path.relative_to(parent).as_posix() if path.is_relative_to(parent) else None
