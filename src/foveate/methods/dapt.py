"""DAPT, Decouple-before-Align: a picture's foreground and background each find their own texts.

It adds terms to the loss of the prompt learner it is trained with, its host. Nothing is learned besides what
the host learns, and an answer is the host's. (Distribution-Aware Prompt Tuning, arXiv 2309.03406, is another
method of the same short name.)

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import dapt_terms
from foveate.methods.backgrounds import Backgrounds
from foveate.methods.base import Method, Support, encode_pictures
from foveate.methods.dapt_config import DaptConfig
from foveate.methods.dapt_tally import ViewTally
from foveate.methods.decoupling import SIDES, Decoupled, Decoupler
from foveate.methods.maple import Maple
from foveate.types import (
    Batch,
    Branch,
    Features,
    ImageFeatures,
    Images,
    Logits,
    Origin,
    PerImage,
    Scalar,
    TextFeatures,
)


class Dapt(Method):
    """DAPT's terms over a host's loss.

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
        self.config = config or DaptConfig()
        _check(host, self.config)
        super().__init__(host.clip, host.head_weights)
        self.host, self.first_patch, self.looks = host, host.first_patch, host.looks
        self.tunes_vision, self.tunes_text = host.tunes_vision, host.tunes_text
        self.decoupler = Decoupler(host, self.config)
        self.backgrounds = Backgrounds(host, self.config)
        self.tally = self.last_tally = ViewTally()
        self.epoch, self.epochs, self._begun = 0, 1, False
        if host.names:
            self.set_classes(host.names, host.template, host.trained_names())

    # --- answers: the host's, at no cost of their own ---

    def prepare(self) -> None:
        own = self.names, self.template, self.trained
        if own != (self.host.names, self.host.template, self.host.trained):
            self.host.set_classes(self.names, self.template, self.trained_names())
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.classes_set()

    def encode_text(self) -> TextFeatures:
        return self.host.encode_text()

    def text_features(self) -> TextFeatures:
        return self.host.text_features()  # kept there

    def encode_images(self, images: Images) -> ImageFeatures:
        return self.host.encode_images(images)

    def pair(self, image: ImageFeatures) -> Features:
        return self.host.pair(image)

    def features(self, images: Images, branch: Branch | None = None) -> Features:
        return self.host.features(images, branch)

    def logits(self, features: Features, branch: Branch = "base") -> Logits:
        return self.host.logits(features, branch)

    def trust(self, features: Features) -> PerImage | None:
        return self.host.trust(features)

    def vision_origin(self) -> Origin:
        return self.host.vision_origin()

    @contextmanager
    def constant_text(self) -> Generator[None]:
        with super().constant_text(), self.host.constant_text():
            yield

    def caveats(self) -> list[str]:
        return self.host.caveats()

    def official_names(self) -> dict[str, str | list[str]]:
        """Return the host's: the released code keeps nothing else."""
        return {f"host.{name}": theirs for name, theirs in self.host.official_names().items()}

    # --- training ---

    def look(self, support: Support) -> None:
        self.host.look(support)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch, self.epochs, self._begun = epoch, epochs, True
        self.host.begin_epoch(epoch, epochs)
        if self.decoupler.gaze is not None:
            self.decoupler.gaze.begin_epoch()

    def finish(self) -> None:
        self.host.finish()

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
        if d is not None and bool(d.usable.any()):
            losses |= {
                name: terms[name] * loss for name, loss in self._own(terms, features, d, others).items()
            }
        return losses

    def _own(
        self, terms: dict[str, float], whole: Features, d: Decoupled, others: TextFeatures | None
    ) -> dict[str, Scalar]:
        """Return DAPT's own terms, without their weights."""
        config, found = self.config, dict[str, Scalar]()
        if "pull" in terms or "background" in terms:
            lets = "background" in terms and self.tunes_vision and not config.detach_background
            back = self.decoupler.features("background", d, grad=lets)
            if others is not None and "background" in terms:
                logits = self.host.logits(Features(back, others))
                found["background"] = dapt_terms.background_alignment(logits, config.background_target)
            if "pull" in terms:
                found["pull"] = self._pull(whole.image[:, d.usable], d, back)
        if "foreground" in terms:
            front = self.decoupler.features("foreground", d)
            logits = self.host.logits(Features(front, whole.text))
            found["foreground"] = dapt_terms.foreground_alignment(logits, d.batch.labels[d.usable])
        if "recompose" in terms:
            unit = dapt_terms.unit(whole.image[:, d.usable], self.head_weights)
            front, back = (encode_pictures(self.clip, self.decoupler.view(side, d))[0] for side in SIDES)
            found["recompose"] = dapt_terms.recomposition(unit, front, back)
        return found

    def _pull(self, whole: ImageFeatures, d: Decoupled, back: ImageFeatures) -> Scalar:
        front = self.decoupler.features("foreground", d)
        z, near, far = (dapt_terms.unit(image, self.head_weights) for image in (whole, front, back))
        return dapt_terms.pull_push(z, near, far, self.config.margin, self.config.distance)

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

    def figures(self) -> dict[str, float]:
        """Return the host's, and what `ViewTally` counted in the epoch."""
        self.last_tally, self.tally = self.tally, ViewTally()
        return {**self.host.figures(), **self.last_tally.figures()}

    def notes(self) -> list[str]:
        """Say which terms were never there, which words were left out, which views taught the host alone."""
        told, config, weights = [*self.host.notes()], self.config, self.config.weights
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
                f"dapt: with {self.epochs} epochs the second phase never begins, so there were no terms"
                f" {', '.join(sorted(never))}: train longer, or lower dapt.phase_switch"
            )
        dropped = self.backgrounds.dropped()
        if dropped:
            told.append(f"dapt: background words left out because they name a class: {', '.join(dropped)}")
        return told + self.last_tally.notes()


def refuse_host(name: str, host: type[Method]) -> None:
    """Refuse a host that DAPT cannot be trained with.

    Raises:
        InputError: It learns nothing, has class texts for each picture, or a loss that takes no more terms.
    """
    if host.losses_of is not Method.losses_of and not host.text_follows_pictures:
        return
    why = "has no loss that terms can be added to"
    if host.text_follows_pictures:
        why = "has texts for each picture alone, and would read all background texts for each of them"
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
