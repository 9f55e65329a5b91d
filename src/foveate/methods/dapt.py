"""DAPT, Decouple-before-Align: a picture's foreground and background each find their own texts.

It adds terms to the loss of the prompt learner it is trained with, its host. Nothing is learned besides what
the host learns, and an answer is the host's. (Distribution-Aware Prompt Tuning, arXiv 2309.03406, is another
method of the same short name.)

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import dapt_terms
from foveate.methods.backgrounds import Backgrounds
from foveate.methods.base import Method, encode_pictures
from foveate.methods.dapt_config import DaptConfig
from foveate.methods.dapt_tally import ViewTally
from foveate.methods.decoupling import SIDES, Decoupled, Decoupler
from foveate.methods.hosted import Hosted
from foveate.methods.maple import Maple
from foveate.types import Batch, Features, Origin, Scalar, TextFeatures


class Dapt(Hosted):
    """DAPT's terms over a host's loss; answers are the host's, at no cost of their own.

    Args:
        host: A method as it starts; it is trained here.
        config: Settings.
        generator: Not used: nothing of DAPT's own has a random start.

    Raises:
        InputError: The host is none that DAPT can be trained with, or a setting does not fit it.
    """

    def __init__(
        self, host: Method, config: DaptConfig | None = None, generator: torch.Generator | None = None
    ):
        config = config or DaptConfig()
        _check(host, config)
        super().__init__(host)
        self.config = config
        self.decoupler = Decoupler(host, self.config)
        self.backgrounds = Backgrounds(host, self.config)
        self.backgrounds.check()
        self.tally = self.last_tally = ViewTally()
        self.epoch, self.epochs, self._begun, self._used = 0, 1, False, 0
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    def prepare(self) -> None:
        super().prepare()
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.classes_set()

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        super().begin_epoch(epoch, epochs)
        self.epoch, self.epochs, self._begun = epoch, epochs, True
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.begin_epoch()

    def terms(self) -> dict[str, float]:
        """Return the weights of the terms of this epoch, those left out that have nothing to train."""
        wanted = self.config.weights(self.epoch, self.epochs)
        return {name: weight for name, weight in wanted.items() if name not in self._useless()}

    @torch.no_grad()
    def see(self, batch: Batch) -> dict[str, Tensor]:
        """Return what frozen towers say of a batch: what the host asks for, and both sides if they are held.

        Raises:
            InputError: The batch has no masks.
        """
        seen = self.host.see(batch)
        return seen | self.decoupler.see(batch) if self.decoupler.is_held else seen

    def seen_keys(self) -> dict[str, Origin]:
        if self.decoupler.gaze is not None and not self.tunes_vision:
            return {}  # the gaze needs pixels, which batches out of a bank of this host would not have
        keys = self.host.seen_keys()
        return keys | self.decoupler.origins() if self.decoupler.is_held else keys

    def losses(self, batch: Batch) -> dict[str, Scalar]:
        """Return the host's terms and those that this epoch has of DAPT's, means over the usable views."""
        terms, batch = self.terms(), replace(batch, frozen=self.seen(batch))
        d = self.decoupler.decouple(batch, needed=bool(terms))
        if d is not None and self.training:
            self.tally.count(d.share)
        if not terms and not self.config.official_quirks:
            return self.host.losses(batch)
        features = self.host.answer(batch)
        others: TextFeatures | None = None
        if "background" in terms or self.config.official_quirks:
            words, among = self.backgrounds.encode(), self.backgrounds.among_classes
            others = words[among:]
            if among:
                features = Features(features.image, torch.cat([features.text, words[:among]]))
        losses = self.host.losses_of(features, batch)
        self._used = 0 if d is None else int(d.usable.sum())
        if d is not None and self._used:
            losses |= {
                name: terms[name] * loss for name, loss in self._own(terms, features, d, others).items()
            }
        return losses

    def _own(
        self, terms: dict[str, float], whole: Features, d: Decoupled, others: TextFeatures | None
    ) -> dict[str, Scalar]:
        """Return DAPT's own terms, without their weights."""
        config, found, wanted = self.config, dict[str, Scalar](), terms.keys()
        back = front = whole.image[:, :0]  # unless a term looks at them
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
        """Return the terms that have nothing to train over this host, and why not."""
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

    def figures(self) -> dict[str, float]:
        """Return the host's, and what `ViewTally` counted in the epoch."""
        self.last_tally, self.tally = self.tally, ViewTally()
        return {**super().figures(), **self.last_tally.figures()}

    def notes(self) -> list[str]:
        """Say which terms were never there, which words were left out, which views taught the host alone."""
        told, config, weights = [*super().notes()], self.config, self.config.weights
        quirks = config.official_quirks
        if not self._begun:  # a stage that had ended before a run was stopped
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
        return told + self.last_tally.notes(
            "were used as they are" if quirks else "taught the host alone",
            "Raise crop_scale to have fewer"
            if self.decoupler.gaze is None
            else "They are those where no patch speaks for the label",
        )


def refuse_host(name: str, host: type[Method]) -> None:
    """Refuse a host that DAPT cannot be trained with.

    Raises:
        InputError: It learns nothing within the towers, has class texts for each picture, or a loss that
            takes no more terms.
    """
    if host.losses_of is not Method.losses_of and not host.text_follows_pictures:
        return
    why = "has no loss that terms can be added to"
    if host.text_follows_pictures:
        why = "has texts for each picture alone, and would read all background texts for each of them"
    elif not host.tunes_text and not host.tunes_vision:
        why = "learns nothing within the towers, where DAPT's terms have their effect"
    raise InputError(
        f"dapt: {name} {why}; take a host such as maple, ivlp, promptsrc, mmrl, vpt, coop or kgcoop"
    )


def _check(host: Method, config: DaptConfig) -> None:
    """Refuse what cannot be trained together."""
    refuse_host(type(host).__name__, type(host))
    if not host.takes_new_names:
        raise InputError(
            f"dapt: {type(host).__name__} has vectors of its own for each class, and none for background"
            " texts: take class_specific=false"
        )
    if config.official_quirks and not isinstance(host, Maple):
        raise InputError(
            f"dapt: official_quirks is what the released code does with MaPLe, not {type(host).__name__}:"
            " take dapt+maple, or leave it out"
        )
