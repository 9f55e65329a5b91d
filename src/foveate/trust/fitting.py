"""Fits `Trust` to the shots of a run, after training. It uses no other pictures."""

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
"""Default number of folds of a method that is solved, not trained, so that folds cost almost nothing."""


def fit_trust(run: Run, chosen: Chosen, method: Method, folder: Path | None = None) -> Trust:
    """Return the trust of a trained method.

    Args:
        run: The run that trained it; its `folds` is the number of parts in which shots are held back.
        chosen: The shots.
        method: The trained method, with its trained classes set.
        folder: Run folder, while its bank exists; None keeps features in memory.
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
            method_logits = method.logits(method.pair(features)).float().cpu()
            return Trust.of(support, zero_shot, method_logits, labels)
    return Trust.of(support, zero_shot, *_held(run, chosen, method, bank))


def _held(run: Run, chosen: Chosen, method: Method, bank: Path | None) -> tuple[Logits, Labels]:
    """Return logits and labels of held-back shots; none if they need a training that was not requested."""
    # A fold of a wrapper would train its host again.
    closed_form = isinstance(method, ClosedForm) and not isinstance(method, Wrapper)
    solved = closed_form and not method.trainable() and run.backbone is None
    folds = run.config.folds if run.config.folds is not None else FOLDS if solved else 0
    if not folds:
        return torch.zeros(0, len(chosen.photos.names)), torch.zeros(0, dtype=torch.long)
    if isinstance(method, ClosedForm):  # choosing settings in each fold would take as long as the training
        method_settings = {**run.config.settings.get(method.name, {}), **method.chosen_settings()}
        settings = {**run.config.settings, method.name: method_settings}
        run = replace(run, config=replace(run.config, settings=settings))
    return PartTrainer(run.clip, chosen, FeatureStore(bank)).ask_in_turn(run.config, folds)
