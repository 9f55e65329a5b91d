"""Fit `Trust` to a run's shots, once the method is trained. No other picture is looked at."""

from dataclasses import replace
from pathlib import Path

import torch

from foveate.clip.model import Clip
from foveate.data.samples import Photos
from foveate.methods.base import Method, encode_pictures
from foveate.methods.capabilities import ClosedForm
from foveate.methods.frozen import CLIP, clip_spec
from foveate.methods.linear_probe import LinearProbe
from foveate.methods.registry import REFERENCE, build
from foveate.train.banking import BankPlan, open_bank, seen_as_asked
from foveate.train.run import Run
from foveate.train.shots import Chosen
from foveate.trust.folds import held_out_answers
from foveate.trust.novelty import Support
from foveate.trust.trust import Trust
from foveate.types import ImageFeatures, Labels, Logits

FOLDS = 4
"""Where a method is solved and not trained, so that folds cost next to nothing."""


def fit_trust(run: Run, chosen: Chosen, method: Method, bank: Path | None = None) -> Trust:
    """Return what a trained method knows of its own answers.

    Args:
        run: How it was trained; `folds` says in how many parts the shots are held back.
        chosen: The shots.
        method: The trained method, its trained classes set.
        bank: Where the run keeps features, to be read again.
    """
    reference = build(REFERENCE, run.clip)
    reference.set_classes(chosen.photos.names, run.config.template)
    features = _features(run.clip, chosen.photos, bank)
    labels = torch.tensor([sample.label for sample in chosen.photos.samples])
    with torch.no_grad():
        support = Support.of(features[0].cpu(), labels, reference.text_features().cpu())
        zero_shot = reference.logits(reference.pair(features)).float().cpu()
        if not method.learned():
            own = method.logits(method.pair(features)).float().cpu()
            return Trust.of(support, zero_shot, own, labels)
    return Trust.of(support, zero_shot, *_held(run, chosen, method, bank))


def _held(run: Run, chosen: Chosen, method: Method, bank: Path | None) -> tuple[Logits, Labels]:
    """Return logits and labels of held-back shots; none where nobody asked and they would cost a training."""
    solved = isinstance(method, ClosedForm) and not method.trainable() and run.backbone is None
    folds = run.config.folds if run.config.folds is not None else FOLDS if solved else 0
    if not folds:
        return torch.zeros(0, len(chosen.photos.names)), torch.zeros(0, dtype=torch.long)
    if isinstance(method, LinearProbe):  # to look for C in each fold would take as long as the training
        own = {**run.config.settings.get(method.name, {}), "c": float(method.c)}
        settings = {**run.config.settings, method.name: own}
        run = replace(run, config=replace(run.config, settings=settings))
    return held_out_answers(run, chosen, folds, bank)


@torch.no_grad()
def _features(clip: Clip, photos: Photos, bank: Path | None) -> ImageFeatures:
    """Return `[1, N, D]` raw features of pictures, as the untouched CLIP sees them; a bank keeps them."""
    device, pictures = clip.logit_scale.device, seen_as_asked(photos, clip.config)
    kept = open_bank(BankPlan(bank), pictures, clip)
    (batch,) = kept.batches(
        0,
        len(pictures),
        specs={CLIP: clip_spec(clip)},
        make=lambda few: {CLIP: encode_pictures(clip, few.images.to(device)).cpu()},
        shuffle=False,
    )
    return batch.frozen[CLIP].to(device)
