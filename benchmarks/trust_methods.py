"""What methods say of drawn shots that were held back, and of all pictures, after one training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.data.feature_store import FeatureStore
from foveate.data.loader import eval_pictures
from foveate.data.samples import Photos
from foveate.evaluate.answers import answer
from foveate.evaluate.encoding import encode_all, specs_for_answers
from foveate.methods.base import Method
from foveate.methods.linear_probe import Problem
from foveate.methods.registry import needs_masks
from foveate.train.banking import chunk_on
from foveate.train.config import RunConfig
from foveate.train.shots import Chosen, without_masks
from foveate.trust.folds import PartTrainer
from trust_worlds import SHOTS, World

FOLDS = 4
Learned = Callable[[Tensor], Tensor]
"""Unit features to logits."""


@dataclass(frozen=True)
class Said:
    """Logits of a method that learned from a draw of shots.

    Attributes:
        held: `[M, C]` of shots that were held back in turn.
        owners: `[M]` their labels.
        pool: `[N, C]` of the pool, shots included, among the known names.
        both: `[N + K, C + U]` of the pool and of near unknowns, among all names; None for methods that know
            nothing of other names.
    """

    held: Tensor
    owners: Tensor
    pool: Tensor
    both: Tensor | None = None


def zero_shot(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """CLIP as it is."""
    return lambda x: scale * x @ texts.T


def tip_adapter(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """Tip-Adapter with alpha 1 and beta 5.5."""
    owners = F.one_hot(labels, len(texts)).to(shots.dtype)
    return lambda x: scale * x @ texts.T + (5.5 * (x @ shots.T - 1)).exp() @ owners


def linear_probe(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """Logistic regression with C 10."""
    weight, bias = Problem(shots.double(), labels, len(texts)).solve(10.0)
    return lambda x: (x.double() @ weight.T + bias).float()


SOLVED = {kind.__name__: kind for kind in (zero_shot, tip_adapter, linear_probe)}
TRAINED = ("coop", "kgcoop", "fvgpt+coop", "mmrl")


def solved(name: str, world: World, seed: int) -> Said:
    """Solve a method on the features of a draw of shots, its folds too."""
    kind, rows, scale = SOLVED[name], world.draw(seed), float(world.clip.scale)
    shots, labels = F.normalize(world.features["pool"][rows], dim=-1), world.labels("pool")[rows]
    all_texts = F.normalize(world.texts, dim=-1)
    texts = all_texts[: len(world.names)]
    turns = torch.arange(len(rows)) % SHOTS % FOLDS
    held = torch.zeros(len(rows), len(texts))
    for turn in range(FOLDS):
        out = turns == turn
        held[out] = kind(shots[~out], labels[~out], texts, scale)(shots[out])
    pool, near = (F.normalize(world.features[of], dim=-1) for of in ("pool", "near"))
    both = scale * torch.cat([pool, near]) @ all_texts.T if name == "zero_shot" else None
    return Said(held, labels, kind(shots, labels, texts, scale)(pool), both)


class Trainer:
    """Trains methods on a draw of shots, step by step, as `fit --folds 4` does.

    Methods share the features of the views; a plug-in finds its backbone trained.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._seed, self._shelf = world, seed, FeatureStore()
        self._shots = world.shots(world.draw(seed))
        self._parts: dict[bool, PartTrainer] = {}

    def said(self, name: str) -> Said:
        """Train it, on all shots and without each fold."""
        world, masks = self._world, needs_masks(name, {})
        shots = self._shots if masks else without_masks(self._shots)
        chosen = Chosen(shots, shots.with_samples([]), shots=SHOTS)
        trainer = self._parts.setdefault(masks, PartTrainer(world.clip, chosen, self._shelf))
        config = RunConfig(method=name, seed=self._seed + 1)
        held, owners = trainer.ask_in_turn(config, FOLDS)
        method = trainer.train(config, range(len(shots)))
        pool, near = (without_masks(world.photos[kind]) for kind in ("pool", "near"))
        base = self._ask(method, pool, "base")
        method.set_classes([*world.names, *world.new], None, world.names)
        both = torch.cat([self._ask(method, one, "mixed") for one in (pool, near)])
        method.set_classes(world.names)
        return Said(held, owners, base, both)

    @torch.no_grad()
    def _ask(self, method: Method, photos: Photos, branch: str) -> Tensor:
        specs = specs_for_answers(method.eval(), branch, foreground=False, clip=False)
        pictures = eval_pictures(photos, method.clip.config)
        with method.constant_text():
            seen = encode_all(method, pictures, specs, lambda _: self._shelf, chunk=chunk_on(method.clip))
            return answer(method, seen, photos, branch).logits.float()
