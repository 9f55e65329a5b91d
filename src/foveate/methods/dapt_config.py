"""Settings of DAPT, and which of its terms an epoch has.

- [0]: Decouple before Align: Visual Disentanglement Enhances Prompt Tuning, T-PAMI 47(11), 2025,
  https://arxiv.org/abs/2508.00395
"""

import math
from dataclasses import dataclass
from typing import Literal

from foveate.clip.templates import fill
from foveate.errors import InputError
from foveate.foreground.views import Fill
from foveate.methods.background_texts import TEMPLATE, words
from foveate.methods.choices import check_choices
from foveate.methods.cues import Cue, Refresh, Scaling, Source
from foveate.methods.dapt_terms import Distance, Target

OFFICIAL_SWITCH = 7
"""Epoch, counted from 0, with which the released code's second phase begins, however many there are."""


@dataclass(frozen=True)
class DaptConfig:
    """Settings of DAPT (Decouple-before-Align); defaults are the released code's, or ours where it errs.

    Attributes:
        cue: What tells the foreground of a view: its "mask", the "box" around that mask, or the "gaze" of the
            model itself, which needs no masks.
        pull_weight: Of L_v, which pulls the whole picture to its foreground, away from its background.
        foreground_weight: Of L_f, the foreground's alignment with its class.
        background_weight: Of L_b, the background's alignment with background texts.
        recompose_weight: Of L_reo, which wants foreground and background together to be the whole picture.
        phase_switch: Where L_v (and L_reo) end and L_f and L_b begin: a share of the epochs, or, from 1 on,
            an epoch counted from 0. None takes all of them all the time.
        margin: Of L_v.
        distance: Of L_v, between unit features.
        fill: What replaces removed pixels: "mean" (0 after normalisation), "black", "blur", "image_mean".
        backgrounds: Words of the background texts; empty takes 25 of the released code, and 7 more of a table
            where the data set's sentence tells of food.
        background_template: The sentence around them; methods that learn words put these in its place.
        on_collision: Whether backgrounds that name a class are left out.
        background_target: L_b's target: the likeliest background, or the whole distribution (the entropy).
        detach_background: Whether L_b trains texts alone.
        refresh: Whose gaze it is: the model's at each step, at each epoch's start, or before training.
        cam_source: The gaze of the model as it is tuned, or that of the frozen CLIP.
        cam_threshold: Share of the gaze's highest value from which on a pixel is foreground; None takes the
            gaze itself as a soft mask.
        cam_scale: Whether each view's gaze is scaled on its own, or by the highest value of the batch.
        official_quirks: Train as the released code does, over MaPLe: 7 background words among the classes, 25
            others as backgrounds, the second phase from epoch 7 on, masks used even if empty.
    """

    cue: Cue = "mask"
    pull_weight: float = 0.8
    foreground_weight: float = 0.1
    background_weight: float = 0.5
    recompose_weight: float = 0.0
    phase_switch: float | None = 0.7
    margin: float = 1.5
    distance: Distance = "euclidean"
    fill: Fill = "mean"
    backgrounds: tuple[str, ...] = ()
    background_template: str = TEMPLATE
    on_collision: Literal["drop", "keep"] = "drop"
    background_target: Target = "hard"
    detach_background: bool = False
    refresh: Refresh = "every_epoch"
    cam_source: Source = "current"
    cam_threshold: float | None = 0.5
    cam_scale: Scaling = "image"
    official_quirks: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        fill(self.background_template, "name")
        _check_backgrounds(self.backgrounds)
        for name in ("pull_weight", "foreground_weight", "background_weight", "recompose_weight"):
            if getattr(self, name) < 0:
                raise InputError(f"dapt: {name} is {getattr(self, name)}: give zero or more")
        if self.margin <= 0:
            raise InputError(f"dapt: margin is {self.margin}: give a number above zero")
        switch, cut = self.phase_switch, self.cam_threshold
        if switch is not None and (switch < 0 or (switch > 1 and switch != int(switch))):
            raise InputError(
                f"dapt: phase_switch is {switch}: give a share of the epochs below 1, or a whole number"
            )
        if cut is not None and not 0 < cut <= 1:
            raise InputError(f"dapt: cam_threshold is {cut}: give a share above 0 and up to 1, or None")
        if self.official_quirks and (self.cue == "gaze" or self.backgrounds):
            raise InputError(
                "dapt: official_quirks has the released code's own backgrounds, and masks from files alone:"
                " leave cue and backgrounds out"
            )

    def switch(self, epochs: int) -> int:
        """Return the epoch, counted from 0, with which the second phase begins."""
        if self.official_quirks:
            return OFFICIAL_SWITCH
        if self.phase_switch is None:
            return 0
        if self.phase_switch >= 1:
            return int(self.phase_switch)
        return math.ceil(self.phase_switch * epochs - 1e-9)  # 0.7 of 10 is 7, whatever rounding says

    def weights(self, epoch: int, epochs: int) -> dict[str, float]:
        """Return the weights of the terms that an epoch has; of a weight of 0 there is no term.

        Args:
            epoch: Counted from 0.
            epochs: How many there are in all.
        """
        second, joint = epoch >= self.switch(epochs), self.phase_switch is None and not self.official_quirks
        found: dict[str, float] = {}
        if joint or not second:
            found |= {"pull": self.pull_weight, "recompose": self.recompose_weight}
        if joint or second:
            found |= {"foreground": self.foreground_weight, "background": self.background_weight}
        return {name: weight for name, weight in found.items() if weight > 0}


def _check_backgrounds(backgrounds: tuple[str, ...]) -> None:
    """Refuse words that are none, and such as could not be told apart."""
    read = [" ".join(words(background)) for background in backgrounds]
    for background, word in zip(backgrounds, read, strict=True):
        if not word or read.count(word) > 1:
            what = "is there twice" if word else "has no word in it"
            raise InputError(f"dapt: background {background!r} {what}: leave it out")
