"""DAPT, Decouple-before-Align: separate alignment of a picture's foreground and background with texts.

DAPT adds terms to the loss of its host, the prompt learner that it is trained with. Only the host's
tensors are learned, and predictions are the host's. (Distribution-Aware Prompt Tuning, arXiv 2309.03406,
is another method with the same short name.)

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import dapt_terms
from foveate.methods.backgrounds import Backgrounds
from foveate.methods.base import Method, Wrapper, encode_pictures, is_kind
from foveate.methods.capabilities import (
    BatchSplit,
    Diagnostics,
    ExtraTexts,
    GradientRule,
    Tally,
    TextPerImage,
)
from foveate.methods.configs import DaptConfig
from foveate.methods.dapt_views import SIDES, Decoupled, Decoupler, Gaze
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_features
from foveate.methods.maple import Maple
from foveate.types import Batch, Features, PerImage, Scalar, TextFeatures


class Dapt(Wrapper, FrozenFeatures, Diagnostics, BatchSplit):
    """DAPT's terms added to a host's loss; predictions are the host's, at no extra cost.

    Args:
        host: An untrained method; it is trained here.
        config: Settings.
        generator: Not used: DAPT has no random initial values.

    Raises:
        InputError: DAPT cannot train this host, or a setting does not fit it.
    """

    name, title, config_type = "dapt", "DAPT", DaptConfig

    def __init__(
        self, host: Method, config: DaptConfig | None = None, generator: torch.Generator | None = None
    ):
        super().__init__(host)
        self.config = config = config or DaptConfig()
        if config.official_quirks and not isinstance(host, Maple):
            raise InputError(
                f"dapt: official_quirks is what the released code does with MaPLe, not {type(host).__name__}:"
                " take dapt+maple, or leave it out"
            )
        scaling = config.cam_threshold, config.cam_scale
        gaze = Gaze(host, config.refresh, config.cam_source, *scaling) if config.cue == "gaze" else None
        quirks, boxed = config.official_quirks, config.cue == "box"  # the released code uses blank views too
        self.decoupler = Decoupler(host, gaze, config.fill, boxed=boxed, use_all=quirks)
        self.backgrounds = Backgrounds(
            cast("ExtraTexts", host),  # `check_host` has checked this
            config.backgrounds,
            config.background_template,
            keep_all=config.on_collision == "keep",
            as_released=quirks,
        )
        self.backgrounds.check()
        self.tally = self.last_tally = Tally()
        self.epoch, self.epochs, self._begun, self._used = 0, 1, False, 0
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    @classmethod
    def check_host(cls, name: str, host: Method | type[Method]) -> None:
        """Refuse a host without learned tensors in the towers, or one that cannot encode background texts."""
        why = None
        if is_kind(host, TextPerImage):
            why = "has texts for each picture alone, and would read all background texts for each of them"
        elif not host.tunes_text and not host.tunes_vision:
            why = "learns nothing within the towers, where DAPT's terms have their effect"
        elif not is_kind(host, ExtraTexts) or is_kind(host, GradientRule):
            why = "has no loss that terms can be added to: it reads no texts besides those of its classes"
        if why:
            raise InputError(
                f"dapt: {name} {why}; take a host such as maple, ivlp, promptsrc, mmrl, vpt, coop or kgcoop"
            )
        if not host.takes_new_names:
            raise InputError(
                f"dapt: {name} has vectors of its own for each class, and none for background texts: take"
                " class_specific=false"
            )

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        super().set_classes(names, template, trained)
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.classes_set()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch, self.epochs, self._begun = epoch, epochs, True
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.begin_epoch()

    def terms(self) -> dict[str, float]:
        """Return the weights of this epoch's terms, without terms that train nothing."""
        wanted = self.config.weights(self.epoch, self.epochs)
        return {name: weight for name, weight in wanted.items() if name not in self._useless()}

    def frozen(self) -> dict[str, Frozen]:
        """Declare the host's features, and those of both sides of views if the image tower is frozen."""
        if self.tunes_vision:
            return frozen_features(self.host)
        if self.decoupler.gaze is not None:
            return {}  # the gaze needs pixels; batches from a bank of this host have none
        sides = self.config.foreground_weight or self.config.background_weight
        return frozen_features(self.host) | (self.decoupler.frozen() if sides else {})

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the host's terms and DAPT's terms of this epoch, as means over the usable views."""
        terms = self.terms()
        d = self.decoupler.decouple(batch, needed=bool(terms))
        if d is not None and self.training:
            self.tally.add(**watched(d.share))
        if not terms and not self.config.official_quirks:
            return self.host.losses(features, batch)
        others: TextFeatures | None = None
        if "background" in terms or self.config.official_quirks:
            words, among = self.backgrounds.encode(), self.backgrounds.among_classes
            others = words[among:]
            if among:
                features = Features(features.image, torch.cat([features.text, words[:among]]))
        losses = self.host.losses(features, batch)
        self._used = 0 if d is None else int(d.usable.sum())
        if d is not None and self._used:
            losses |= {
                name: terms[name] * loss for name, loss in self._own(terms, features, d, others).items()
            }
        return losses

    def _own(
        self, terms: dict[str, float], whole: Features, d: Decoupled, others: TextFeatures | None
    ) -> dict[str, Scalar]:
        """Return DAPT's own terms, unweighted."""
        config, found, wanted = self.config, dict[str, Scalar](), terms.keys()
        back = front = whole.image[:, :0]  # unless a term uses them
        if wanted & {"pull", "background"}:
            lets = "background" in wanted and self.tunes_vision and not config.detach_background
            back = self.decoupler.features("background", d, grad=lets)
        if wanted & {"pull", "foreground"}:
            front = self.decoupler.features("foreground", d)
        if "background" in wanted and others is not None:
            logits = self.host.logits(Features(back, others))
            found["background"] = dapt_terms.background_alignment(logits, config.background_target)
        unit = partial(dapt_terms.unit, weights=self.head_weights)
        if "pull" in wanted:
            z = unit(whole.image[:, d.usable]), unit(front), unit(back)
            found["pull"] = dapt_terms.pull_push(*z, config.margin, config.distance)
        if "foreground" in wanted:
            logits = self.host.logits(Features(front, whole.text))
            found["foreground"] = dapt_terms.foreground_alignment(logits, d.batch.labels[d.usable])
        if "recompose" in wanted:
            sides = (encode_pictures(self.clip, self.decoupler.view(side, d))[0] for side in SIDES)
            found["recompose"] = dapt_terms.recomposition(unit(whole.image[:, d.usable]), *sides)
        return found

    def _useless(self) -> dict[str, str]:
        """Return the terms that train nothing over this host, with reasons."""
        host, found = type(self.host).__name__, dict[str, str]()
        if not self.tunes_vision:
            found |= dict.fromkeys(("pull", "recompose"), f"{host} learns nothing of pictures")
        if not self.tunes_text:
            found["foreground"] = f"{host} learns nothing of texts"
        if not self.tunes_text and self.config.detach_background:
            found["background"] = found["foreground"]
        if len(self.backgrounds.names()) < 2:
            found["background"] = "fewer than two background words are left"
        return found

    def averaged_over(self) -> dict[str, int]:
        return dict.fromkeys(self.terms(), self._used)

    def whole_batch_reason(self) -> str | None:
        if self.config.cue != "gaze" or self.config.cam_scale != "batch":
            return None
        return (
            "dapt.cam_scale is 'batch', the highest gaze of a batch as a whole, which processes that share it"
            " do not see: take --dapt.cam-scale image, or one process"
        )

    def warnings(self) -> list[str]:
        """Return warnings: unused terms, left-out background words, views that trained only the host."""
        told, config, weights = list[str](), self.config, self.config.weights
        quirks = config.official_quirks
        if not self._begun:  # the stage was finished before the run resumed
            return told
        ever = {name for epoch in range(self.epochs) for name in weights(epoch, self.epochs)}
        useless = {name: why for name, why in self._useless().items() if name in ever}
        told += [
            f"dapt: the term {name} has nothing to train and is left out: {why}"
            for name, why in useless.items()
        ]
        never = weights(max(config.switch(self.epochs), self.epochs), self.epochs).keys() - ever
        if never:
            told.append(
                f"dapt: with epochs={self.epochs} the second phase never begins, so there were no terms"
                f" {', '.join(sorted(never))}: train longer{'' if quirks else ', or lower dapt.phase_switch'}"
            )
        dropped = self.backgrounds.dropped()
        if dropped:
            told.append(f"dapt: background words left out because they name a class: {', '.join(dropped)}")
        return told + one_sided(
            self.last_tally,
            "were used as they are" if quirks else "taught the host alone",
            "Raise crop_scale to have fewer"
            if self.decoupler.gaze is None
            else "They are those where no patch speaks for the label",
        )


def watched(share: PerImage) -> dict[str, Tensor]:
    """Return counts for the views of a batch: `empty` ones, `full` ones, and the `area`.

    Args:
        share: `[B]` share of the foreground in each view.
    """
    return {"views": torch.ones_like(share), "empty": share <= 0, "full": share >= 1, "area": share}


def one_sided(tally: Tally, used: str, advice: str) -> list[str]:
    """Return a warning on views with an empty foreground or background, if there were any.

    Args:
        tally: Counts of the epoch.
        used: How such views were used.
        advice: Remedy.
    """
    shares = tally.shares()
    if not shares or not shares["empty"] + shares["full"]:
        return []
    return [
        f"dapt: {100 * shares['empty']:.1f} % of the last epoch's views had no foreground in them and"
        f" {100 * shares['full']:.1f} % nothing else; these {used}. {advice}"
    ]
