"""Fit `Trust` to a run's shots, once the method is trained. No other picture is looked at."""

from dataclasses import replace
from pathlib import Path

import torch

from foveate.data.feature_store import FeatureStore
from foveate.methods.base import Method, Wrapper
from foveate.methods.capabilities import ClosedForm
from foveate.methods.registry import REFERENCE, build
from foveate.train.banking import clip_features
from foveate.train.run import Run, bank_place
from foveate.train.shots import Chosen
from foveate.trust.folds import PartTrainer
from foveate.trust.novelty import Support
from foveate.trust.trust import Trust
from foveate.types import Labels, Logits

FOLDS = 4
"""Where a method is solved and not trained, so that folds cost next to nothing."""


def fit_trust(run: Run, chosen: Chosen, method: Method, folder: Path | None = None) -> Trust:
    """Return what a trained method knows of its own answers.

    Args:
        run: How it was trained; `folds` says in how many parts the shots are held back.
        chosen: The shots.
        method: The trained method, its trained classes set.
        folder: Of the run, while its bank is there; None keeps features in memory.
    """
    reference = build(REFERENCE, run.clip)
    reference.set_classes(chosen.photos.names, run.config.template)
    bank = None if run.config.bank == "off" else bank_place(run.config, folder)
    raw = clip_features(chosen.photos, run.clip, bank)
    features = raw[None].to(run.clip.logit_scale.device)
    labels = torch.tensor([sample.label for sample in chosen.photos.samples])
    with torch.no_grad():
        support = Support.of(raw, labels, reference.text_features().cpu())
        zero_shot = reference.logits(reference.pair(features)).float().cpu()
        if not method.learned():
            own = method.logits(method.pair(features)).float().cpu()
            return Trust.of(support, zero_shot, own, labels)
    return Trust.of(support, zero_shot, *_held(run, chosen, method, bank))


def _held(run: Run, chosen: Chosen, method: Method, bank: Path | None) -> tuple[Logits, Labels]:
    """Return logits and labels of held-back shots; none where nobody asked and they would cost a training."""
    # A fold of a wrapper would train its host again.
    alone = isinstance(method, ClosedForm) and not isinstance(method, Wrapper)
    solved = alone and not method.trainable() and run.backbone is None
    folds = run.config.folds if run.config.folds is not None else FOLDS if solved else 0
    if not folds:
        return torch.zeros(0, len(chosen.photos.names)), torch.zeros(0, dtype=torch.long)
    if isinstance(method, ClosedForm):  # to choose settings in each fold would take as long as the training
        own = {**run.config.settings.get(method.name, {}), **method.chosen_settings()}
        settings = {**run.config.settings, method.name: own}
        run = replace(run, config=replace(run.config, settings=settings))
    return PartTrainer(run.clip, chosen, FeatureStore(bank)).ask_in_turn(run.config, folds)
