"""Settings of all methods in this package, in a module without PyTorch.

So the help of `foveate fit` is fast. [0] is the paper that the method's module names.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.configs import ADDED
from foveate.errors import InputError
from foveate.foreground.options import Fill
from foveate.methods.config import MethodConfig

Position = Literal["end", "middle", "front"]
"""Place of the class name: after the learned vectors, in the middle, or before them."""

TextKind = Literal["plain", "sentence", "prompt", "mean", "known", "shifted", "fixed"]
"""How class texts are made.

`plain`: CLIP encodes a sentence. `sentence`: a tuned text tower encodes it. `prompt`: a name stands among
learned vectors. `mean`: the mean of several such prompts. `known`: a prompt, and CLIP's feature of the
sentence. `shifted`: a prompt whose vectors each picture shifts. `fixed`: only for trained names.
"""

Indicator = Literal["entropy", "cosine", "area"]
PriorIndicator = Literal["entropy", "prior_entropy", "cosine", "trust"]
Term = Literal["base", "gate", "distill", "prior", "prior_kl"]
TERMS: tuple[Term, ...] = ("base", "gate", "distill", "prior", "prior_kl")

Cue = Literal["mask", "box", "gaze"]
Refresh = Literal["every_step", "every_epoch", "once"]
Source = Literal["current", "frozen"]
Scaling = Literal["image", "batch"]
Distance = Literal["euclidean", "cosine"]
Target = Literal["hard", "soft"]

TEMPLATE = "a clean origami {}."
"""The sentence around DAPT's background words, as in weakly supervised segmentation with CLIP."""

OFFICIAL_SWITCH = 7
"""First epoch, counted from 0, of the second phase in DAPT's released code."""


@dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Settings of zero-shot CLIP.

    Attributes:
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    template: str | None = None


@dataclass(frozen=True)
class CoOpConfig(MethodConfig):
    """Settings of CoOp.

    Attributes:
        tokens: Number of learned vectors (M in [0]); 16 in [0], 4 in FVG-PT's tables.
        position: Place of the class name relative to the learned vectors.
        class_specific: One set of vectors per class ([0], CSC); such a model cannot take new classes.
        init: Words that initialise the vectors, e.g. "a photo of a"; their number then replaces
            `tokens`. None draws from N(0, 0.02²).
    """

    tokens: int = 4
    position: Position = "end"
    class_specific: bool = False
    init: str | None = None

    @property
    def without_new_names(self) -> str | None:
        return "class_specific" if self.class_specific else None


@dataclass(frozen=True)
class CoCoOpConfig(MethodConfig):
    """Settings of CoCoOp.

    Attributes:
        tokens: Number of learned vectors; the first tokens of `init` initialise them.
        init: Words that initialise the vectors; further words stay in the prompt. None draws from N(0,
            0.02²).
    """

    recipe: ClassVar = {"lr": 0.002, "batch_size": 1}

    tokens: int = 4
    init: str | None = "a photo of a"


@dataclass(frozen=True)
class KgCoOpConfig(MethodConfig):
    """Settings of KgCoOp.

    Attributes:
        tokens: Number of learned vectors; the first tokens of `init` initialise them.
        init: Words that initialise the vectors; further words stay in the prompt. None draws from N(0,
            0.02²).
        weight: Weight of the knowledge term (λ in [0]); 8 in [0], 2 in FVG-PT's code.
        template: The fixed target sentence; None takes the data set's, or "a photo of a {}.".
    """

    tokens: int = 4
    init: str | None = "a photo of a"
    weight: float = 2.0
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(weight=(self.weight >= 0, "zero or more"))


@dataclass(frozen=True)
class ProGradConfig(MethodConfig):
    """Settings of ProGrad.

    Attributes:
        tokens: Number of learned vectors.
        init: Words that initialise the last vectors; the vectors before them start at zero. None draws
            all from N(0, 0.02²).
        weight: Share of the conflicting component removed from the gradient (λ in [0]): 1 all, 0
            nothing.
        temperature: Temperature of both predictions before they are compared.
        template: The fixed sentence of zero-shot CLIP; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 100, "lr": 0.002, "batch_size": 32}

    tokens: int = 16
    init: str | None = "a photo of a"
    weight: float = 1.0
    temperature: float = 1.0
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            weight=(self.weight >= 0, "zero or more"),
            temperature=(self.temperature > 0, "a number above zero"),
        )


@dataclass(frozen=True)
class MmrlConfig(MethodConfig):
    """Settings of MMRL.

    Attributes:
        tokens: Number of shared tokens.
        width: Width of these tokens, before a block's projection maps them to the tower's width.
        first_block: First block with tokens, counted from 1; None takes 6, or half of the shallower
            tower's blocks if these are fewer than 12.
        last_block: Last block with its own tokens; None takes 12, or the shallower tower's last block.
        alpha: Weight of the class token's logits, in the loss and in the fusion of heads; the
            representation tokens have the rest.
        regulariser: λ, the weight of the regularisation towards CLIP's own features.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"optimiser": "adamw", "lr": 0.001, "crop_scale": 0.5}

    tokens: int = 5
    width: int = 512
    first_block: int | None = None
    last_block: int | None = None
    alpha: float = 0.7
    regulariser: float = 1.0
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            tokens=(self.tokens >= 1, "at least 1"),
            width=(self.width >= 1, "at least 1"),
            alpha=(0 <= self.alpha <= 1, "a share between 0 and 1"),
            regulariser=(self.regulariser >= 0, "zero or more"),
        )


@dataclass(frozen=True)
class IvlpConfig(MethodConfig):
    """Settings of IVLP.

    Attributes:
        tokens: Number of learned text tokens per block.
        vision_tokens: Number of learned image tokens per block.
        text_depth: Number of text blocks with tokens, from the first; None takes 12, or all of a
            shallower tower.
        vision_depth: Number of image blocks with tokens, likewise; 0 adds none to the image tower.
        init: Words that initialise the first block's text tokens; further words stay in the prompt. None
            draws from N(0, 0.02²), as for all other tokens.
    """

    recipe: ClassVar = {"epochs": 5}

    tokens: int = 2
    vision_tokens: int = 2
    text_depth: int | None = None
    vision_depth: int | None = None
    init: str | None = "a photo of a"


@dataclass(frozen=True)
class PromptSRCConfig(IvlpConfig):
    """Settings of PromptSRC.

    Attributes:
        tokens: Number of learned text tokens per block.
        vision_tokens: Number of learned image tokens per block.
        text_depth: Number of text blocks with tokens, from the first; None takes 9, or three quarters of
            a shallower tower.
        vision_depth: Number of image blocks with tokens, likewise; 0 adds none to the image tower.
        init: Words that initialise the first block's text tokens; further words stay in the prompt. None
            draws from N(0, 0.02²), as for all other tokens.
        text_weight: Weight of the consistency term of class texts (λ₂ in [0]).
        image_weight: Weight of the consistency term of picture features (λ₁ in [0]).
        logit_weight: Weight of the consistency term of logits; not weighted in [0].
    """

    recipe: ClassVar = {"lr": 0.0025, "batch_size": 32, "average_mean": 15.0}

    tokens: int = 4
    vision_tokens: int = 4
    text_weight: float = 25.0
    image_weight: float = 10.0
    logit_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = ("text_weight", "image_weight", "logit_weight")
        self.demand(**{name: (getattr(self, name) >= 0, "zero or more") for name in weights})


@dataclass(frozen=True)
class VptConfig(MethodConfig):
    """Settings of VPT.

    Attributes:
        tokens: Number of learned image tokens per block.
        depth: Number of image blocks with tokens, from the first; None takes 12, or all of a shallower
            tower.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 5, "lr": 0.0025}

    tokens: int = 8
    depth: int | None = None
    template: str | None = None


@dataclass(frozen=True)
class MapleConfig(MethodConfig):
    """Settings of MaPLe.

    Attributes:
        tokens: Number of learned tokens per block, in each tower.
        depth: Number of blocks with tokens in both towers, from the first; None takes 9, or three
            quarters of a shallower tower.
        init: Words that initialise the first block's text tokens; further words stay in the prompt. None
            draws from N(0, 0.02²), as for deeper blocks.
    """

    recipe: ClassVar = {"epochs": 5}

    tokens: int = 2
    depth: int | None = None
    init: str | None = "a photo of a"


@dataclass(frozen=True)
class HiCroPLConfig(MethodConfig):
    """Settings of HiCroPL.

    Attributes:
        tokens: Number of learned tokens per block, in each tower.
        depth: Number of blocks with tokens in both towers, from the first; None takes 12, or all of the
            shallower tower.
        cross_layer: Number of first blocks whose text tokens change the image tokens (k in [0]); in the
            blocks after them image tokens change text tokens. None takes half of the depth.
        init: Words that initialise the first block's text tokens; further words stay in the prompt. None
            draws from N(0, 0.02²), as for all other tokens.
        weight: Weight of the two consistency terms (λ).
        overwrite: Whether each training step replaces learned tokens by mapped ones and leaves the mappers
            as they start, as the released code does; else the mappers learn.
        template: The sentence of CLIP's own class texts; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 50, "optimiser": "adamw", "lr": 0.0025, "batch_size": 32}

    tokens: int = 16
    depth: int | None = None
    cross_layer: int | None = None
    init: str | None = None
    weight: float = 12.0
    overwrite: bool = False
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(weight=(self.weight >= 0, "zero or more"))


@dataclass(frozen=True)
class TcpConfig(MethodConfig):
    """Settings of TCP.

    Attributes:
        tokens: Number of learned vectors, and of class-aware tokens; the first tokens of `init`
            initialise the vectors.
        init: Words that initialise the vectors; further words stay in the prompt. None draws from N(0,
            0.02²).
        block: Text block, counted from 1, before which class-aware tokens replace the vectors; None
            takes 9, or the block after two thirds of a tower with fewer than 12 blocks.
        weight: Weight of the knowledge term.
        template: The fixed sentence that gives the class-aware tokens and the target of the text
            features; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 50, "optimiser": "adamw", "lr": 0.002, "batch_size": 32}

    tokens: int = 4
    init: str | None = "a photo of a"
    block: int | None = None
    weight: float = 8.0
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(weight=(self.weight >= 0, "zero or more"))


@dataclass(frozen=True)
class MmaConfig(MethodConfig):
    """Settings of MMA.

    Attributes:
        width: Inner width of the adapters.
        first_block: First block with an adapter, counted from 1; None takes 5, or the block after one
            third of a tower with fewer than 12 blocks. The last adapter is in the shallower tower's last
            block, or in the 12th if that comes first.
        scale: Factor of an adapter's output.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 5, "lr": 0.0015, "batch_size": 16, "warmup_epochs": 0}

    width: int = 32
    first_block: int | None = None
    scale: float = 0.001
    template: str | None = DEFAULT_TEMPLATE

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(width=(self.width >= 1, "at least 1"), scale=(self.scale > 0, "a number above zero"))


@dataclass(frozen=True)
class ClipLoraConfig(MethodConfig):
    """Settings of CLIP-LoRA.

    Attributes:
        rank: r, the rank of each update.
        alpha: The factor of an update is alpha / √r.
        dropout: Dropout rate of an update's input during training.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    part: ClassVar[str] = "clip_lora"
    recipe: ClassVar = {
        **{"epochs": 160, "optimiser": "adamw", "lr": 0.0002, "weight_decay": 0.01},
        **{"batch_size": 32, "warmup_epochs": 0},
    }
    rank: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            rank=(self.rank >= 1, "at least 1"),
            alpha=(self.alpha > 0, "a number above zero"),
            dropout=(0 <= self.dropout < 1, "a share from 0 to below 1"),
        )


@dataclass(frozen=True)
class LnTuningConfig(MethodConfig):
    """Settings of LN-tuning.

    Attributes:
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    part: ClassVar[str] = "ln_tuning"
    recipe: ClassVar = {
        **{"epochs": 58, "optimiser": "adamw", "lr": 0.0002, "weight_decay": 0.01},
        **{"batch_size": 32, "warmup_epochs": 0},
    }
    template: str | None = None


@dataclass(frozen=True)
class TwoStageConfig(MethodConfig):
    """Settings of the second stage of 2SFS: none but the recipe, which is the host's."""

    part: ClassVar[str] = "two_stage"


@dataclass(frozen=True)
class ProdaConfig(MethodConfig):
    """Settings of ProDA.

    Attributes:
        prompts: Number of prompts. A quarter has the class name before its vectors, a quarter in the
            middle, the others after them.
        tokens: Number of learned vectors per prompt.
        batch: Prompts per step.
        weight: Weight of the penalty on similar prompts.
    """

    recipe: ClassVar = {"epochs": 100, "lr": 0.001}

    prompts: int = 32
    tokens: int = 16
    batch: int = 4
    weight: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            prompts=(self.prompts >= 2, "at least 2, a distribution has several"),
            batch=(2 <= self.batch <= self.prompts, f"2 to {self.prompts}, the number of prompts"),
            tokens=(self.tokens >= 1, "at least 1"),
            weight=(self.weight >= 0, "zero or more"),
        )


@dataclass(frozen=True)
class ClipAdapterConfig(MethodConfig):
    """Settings of CLIP-Adapter.

    Attributes:
        ratio: Share of the bottleneck's output in the feature (α in [0]); 0 is zero-shot CLIP.
        reduction: Ratio of the feature's width to the bottleneck's width.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    part: ClassVar[str] = "clip_adapter"
    recipe: ClassVar = {"epochs": 20, "optimiser": "adamw", "lr": 0.001, "batch_size": 32}
    ratio: float = 0.2
    reduction: int = 4
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            ratio=(0 <= self.ratio <= 1, "a share, from 0 to 1"), reduction=(self.reduction >= 1, "1 or more")
        )


@dataclass(frozen=True)
class TipAdapterConfig(MethodConfig):
    """Settings of Tip-Adapter.

    Attributes:
        tuned: Whether the keys are trained, starting at the features (Tip-Adapter-F); else nothing is
            trained.
        alpha: Weight of the cached pictures' logits beside CLIP's own logits (α in [0]).
        beta: How sharply a cached picture's weight falls with its distance (β in [0]).
        validate: Whether to choose alpha and beta on a few validation pictures, if the data has any.
        views: Number of views of each training picture; a key is the mean of their features.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    part: ClassVar[str] = "tip_adapter"
    recipe: ClassVar = {
        **{"epochs": 20, "optimiser": "adamw", "lr": 0.001, "weight_decay": 0.01, "batch_size": 256},
        **{"warmup_epochs": 0, "crop_scale": 0.5},
    }
    tuned: bool = False
    alpha: float = 1.17
    beta: float = 1.0
    validate: bool = False
    views: int = 10
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            alpha=(self.alpha >= 0, "zero or more"),
            beta=(self.beta >= 0, "zero or more"),
            views=(self.views >= 1, "1 or more"),
        )

    @property
    def needs_val(self) -> bool:
        return self.validate


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """Settings of the linear probe.

    Attributes:
        c: C, the weight of the data term against the penalty; None searches for it.
        validate: Whether to search on a few validation pictures, if the data has any. Else training
            pictures are held out in turn.
        template: The sentence around names that were not trained; None takes the data set's, or "a photo
            of a {}.".
    """

    part: ClassVar[str] = "linear_probe"
    recipe: ClassVar = {"epochs": 1, "batch_size": 64, "augment": "none"}
    c: float | None = None
    validate: bool = True
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(c=(self.c is None or self.c > 0, "a number above zero, or none to look for it"))

    @property
    def needs_val(self) -> bool:
        return self.validate


@dataclass(frozen=True)
class LpPlusPlusConfig(MethodConfig):
    """Settings of LP++.

    Attributes:
        epochs: Number of full-batch steps.
        alpha_every: Number of epochs between two steps of α.
        reset_alpha_grad: Whether a step of α uses the gradient of its own epoch, as in [0]; else it uses
            the sum over all epochs so far, as in the authors' code.
        validate: Whether to keep the epoch with the best accuracy on a few validation pictures, if the
            data has any; else the last epoch.
        template: The sentence around a class name; None takes the data set's, or "a photo of a {}.".
    """

    recipe: ClassVar = {"epochs": 1, "batch_size": 64, "crop_scale": 0.5}

    epochs: int = 300
    alpha_every: int = 10
    reset_alpha_grad: bool = False
    validate: bool = True
    template: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(epochs=(self.epochs >= 1, "1 or more"), alpha_every=(self.alpha_every >= 1, "1 or more"))

    @property
    def needs_val(self) -> bool:
        return self.validate


@dataclass(frozen=True)
class FvgPtConfig(MethodConfig):
    """Settings of FVG-PT; the defaults follow the paper, or our choice where the paper leaves it open.

    Attributes:
        tau: Temperature of the logits in the distillation (τ_d; Sec. 4.1).
        lambda_distill: Weight of the distillation (λ_d); the paper takes 5 for MMRL.
        lambda_gate: Weight of the foreground gate's loss.
        lambda_prior: Weight of the two losses of the prior branch (λ_new).
        adapter_hidden: Hidden width of the two adapters (dim_FDC).
        gate_hidden: Hidden width of the two gates (dim_RG).
        gate_depth: Number of linear layers of a gate, 1 to 3.
        bias: Whether gates and adapters have biases.
        adapter_input: Whether features are adapted as they are ("raw") or at unit length ("unit").
        adapter_init: Last adapter layer at the start: N(0, 1e-3²) ("small"), 0 ("zero") or PyTorch's.
        adapters: Which sides are adapted (FDC); "none" leaves the backbone's base logits as they are.
        heads: With two image features (MMRL): adapt both alike ("shared"), their mixture ("fused"), or the
            class token's alone ("class").
        foreground_gate: Whether the foreground's trust is learned (FRG); otherwise r is 1.
        foreground_indicators: Inputs of the foreground gate.
        prior_branch: Whether new classes get the calibrated branch (PC); otherwise they get the base branch.
        prior_indicators: Inputs of the prior gate. "trust" is r, or ½ without a mask.
        prior_trust: A constant b in place of the prior gate, as a baseline.
        terms: Which loss terms are summed.
        detach_trust: Whether r is a constant in the distillation.
        hard_trust: Whether r is rounded to 0 or 1 in the distillation.
        margin: By how much the foreground's loss must be below the whole picture's for r* = 1 (δ of Eq. 3).
        target_from: Model whose losses give r*: the tuned "backbone", or the unchanged "clip", which was
            fitted to none of the training pictures.
        area_from: Whether the area indicator is that of the "view" or of the whole "picture".
        min_area: Share of the view below which a foreground counts as cut away: target 0, weight 0.
        max_area: Upper end of the clamp, if `clamp_area`.
        clamp_area: Whether the indicator's area is clamped to [min_area, max_area].
        teacher: Picture of the object for the backbone: the "foreground" alone, the object on the ground of
            another class's picture ("exchange"), or a square around it, enlarged ("crop").
        fill: What replaces the background: "mean" (0 after normalisation), "black", "blur", "image_mean".
        prior_template: Sentence of the prior's class texts; "dataset" takes the data set's own.
        prior_templates: Sentences whose mean is the prior's text, in place of `prior_template`.
        prior_classes: Classes in the prior branch's losses: "all", or at each step a random "half".
        entropy: In "nats", or as a share of ln C ("normalised"), which depends less on the number of classes.
        tau_squared: Whether the distillation is multiplied with tau².
        mixed_weight: Weight of z_FDC for trained names if new names are used too; z_PC has the rest.
    """

    tau: float = 2.0
    lambda_distill: float = 10.0
    lambda_gate: float = 1.0
    lambda_prior: float = 1.0
    adapter_hidden: int = 64
    gate_hidden: int = 32
    gate_depth: int = 2
    bias: bool = True
    adapter_input: Literal["raw", "unit"] = "raw"
    adapter_init: Literal["small", "zero", "default"] = "small"
    adapters: Literal["both", "image", "text", "none"] = "both"
    heads: Literal["shared", "fused", "class"] = "shared"
    foreground_gate: bool = True
    foreground_indicators: tuple[Indicator, ...] = ("entropy", "cosine", "area")
    prior_branch: bool = True
    prior_indicators: tuple[PriorIndicator, ...] = ("entropy", "prior_entropy", "cosine")
    prior_trust: float | None = None
    terms: tuple[Term, ...] = TERMS
    detach_trust: bool = True
    hard_trust: bool = False
    margin: float = 0.0
    target_from: Literal["backbone", "clip"] = field(default="backbone", metadata=ADDED)
    area_from: Literal["view", "picture"] = "view"
    min_area: float = 0.02
    max_area: float = 0.98
    clamp_area: bool = False
    teacher: Literal["foreground", "exchange", "crop"] = "foreground"
    fill: Fill = "mean"
    prior_template: str = "a photo of a {}."
    prior_templates: tuple[str, ...] = field(default=(), metadata=ADDED)
    prior_classes: Literal["all", "half"] = field(default="all", metadata=ADDED)
    entropy: Literal["nats", "normalised"] = "nats"
    tau_squared: bool = False
    mixed_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = ("lambda_distill", "lambda_gate", "lambda_prior")
        lists = ("foreground_indicators", "prior_indicators", "terms")
        self.demand(
            adapter_hidden=(self.adapter_hidden >= 1, "a width of at least 1"),
            gate_hidden=(self.gate_hidden >= 1, "a width of at least 1"),
            gate_depth=(1 <= self.gate_depth <= 3, "1, 2 or 3"),
            tau=(self.tau > 0, "a temperature above zero"),
            **{name: (getattr(self, name) >= 0, "zero or more") for name in weights},
            **{name: (bool(getattr(self, name)), "at least one") for name in lists},
            foreground_gate=(
                self.foreground_gate or "trust" not in self.prior_indicators,
                "true, or prior_indicators without 'trust', which that gate tells",
            ),
            prior_trust=(self.prior_trust is None or 0 <= self.prior_trust <= 1, "a share between 0 and 1"),
            min_area=(0 <= self.min_area <= self.max_area, "a share from 0 up to max_area"),
            max_area=(self.max_area <= 1, "a share from min_area up to 1"),
            mixed_weight=(0 <= self.mixed_weight <= 1, "a share between 0 and 1"),
        )
        if not set(self.terms) - self._idle_terms():
            terms = ", ".join(self.terms)
            raise InputError(f"fvgpt: no term of {terms} trains anything with these settings")

    def _idle_terms(self) -> set[str]:
        """Return terms that train nothing with these settings."""
        idle: set[str] = set() if self.foreground_gate else {"gate"}
        idle |= {"base", "distill"} if self.adapters == "none" else set()
        return idle | (set() if self.prior_branch and self.prior_trust is None else {"prior", "prior_kl"})

    @property
    def needs_masks(self) -> bool:
        return True


@dataclass(frozen=True)
class DaptConfig(MethodConfig):
    """Settings of DAPT (Decouple-before-Align); defaults follow the released code, except for its errors.

    Attributes:
        cue: Source of the foreground: the "mask", the "box" around the mask, or the "gaze" (heat map) of
            the model, which needs no masks.
        pull_weight: Weight of L_v, which pulls the picture towards its foreground and away from its
            background.
        foreground_weight: Weight of L_f, the alignment of the foreground with its class.
        background_weight: Weight of L_b, the alignment of the background with background texts.
        recompose_weight: Weight of L_reo, which makes foreground and background together match the
            picture.
        phase_switch: End of L_v (and L_reo) and start of L_f and L_b: a share of the epochs, or, from 1
            on, an epoch counted from 0. None uses all terms in all epochs.
        margin: Margin of L_v.
        distance: Distance in L_v, between unit features.
        fill: Replacement for removed pixels: "mean" (0 after normalisation), "black", "blur",
            "image_mean".
        backgrounds: Words of the background texts. Empty takes the 25 of the released code, and 7 dining
            words (table, forks, ...) if the data set's sentence names food.
        background_template: The sentence around these words; in methods with learned words, those
            replace it.
        on_collision: Whether to leave out backgrounds that name a class.
        background_target: Target of L_b: the most probable background, or the whole distribution
            (entropy).
        detach_background: Whether L_b trains only the texts.
        refresh: When the gaze is computed: at each step, at the start of each epoch, or once before
            training.
        cam_source: Model of the gaze: the tuned model, or the frozen CLIP.
        cam_threshold: Share of the gaze's maximum from which a pixel is foreground; None uses the gaze
            as a soft mask.
        cam_scale: Whether to scale the gaze by the maximum of its own view, or of the whole batch.
        official_quirks: Train like the released code, over MaPLe: 7 background words among the classes,
            25 others as backgrounds, the second phase from epoch 7 on, masks used even if empty.
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

    @property
    def needs_masks(self) -> bool:
        return self.cue != "gaze"

    def __post_init__(self) -> None:
        super().__post_init__()
        fill(self.background_template, "name")
        _check_backgrounds(self.backgrounds)
        terms = ("pull_weight", "foreground_weight", "background_weight", "recompose_weight")
        switch, threshold = self.phase_switch or 0.0, self.cam_threshold
        self.demand(
            **{name: (getattr(self, name) >= 0, "zero or more") for name in terms},
            margin=(self.margin > 0, "a number above zero"),
            phase_switch=(
                0 <= switch <= 1 or (switch > 0 and switch == int(switch)),
                "a share of the epochs below 1, or a whole number",
            ),
            cam_threshold=(threshold is None or 0 < threshold <= 1, "a share above 0 and up to 1, or None"),
        )
        if self.official_quirks and (self.cue == "gaze" or self.backgrounds):
            raise InputError(
                "dapt: official_quirks has the released code's own backgrounds, and masks from files alone:"
                " leave cue and backgrounds out"
            )

    def switch(self, epochs: int) -> int:
        """Return the first epoch, counted from 0, of the second phase."""
        if self.official_quirks:
            return OFFICIAL_SWITCH
        if self.phase_switch is None:
            return 0
        if self.phase_switch >= 1:
            return int(self.phase_switch)
        return math.ceil(self.phase_switch * epochs - 1e-9)  # 0.7 of 10 gives 7 in spite of rounding errors

    def weights(self, epoch: int, epochs: int) -> dict[str, float]:
        """Return the weights of the loss terms in an epoch; a term of weight 0 is left out.

        Args:
            epoch: Counted from 0.
            epochs: Number of epochs.
        """
        second, joint = epoch >= self.switch(epochs), self.phase_switch is None and not self.official_quirks
        weights: dict[str, float] = {}
        if joint or not second:
            weights |= {"pull": self.pull_weight, "recompose": self.recompose_weight}
        if joint or second:
            weights |= {"foreground": self.foreground_weight, "background": self.background_weight}
        return {name: weight for name, weight in weights.items() if weight > 0}


@dataclass(frozen=True)
class ExchangeConfig(MethodConfig):
    """Settings of Exchange.

    Attributes:
        rank: Rank of the maps that are learned for trained classes.
        consensus: Weight of the host's consensus over two grounds, as a soft label (λ).
        tau: Temperature that softens the consensus (τ).
        axes: Number of feature directions that encode the ground (k); None chooses it on held-out classes.
        views: Number of exchanges of each picture, from which these directions are computed.
        where: Share of the ground's influence that is kept for new classes (α): 1 all, 0 nothing.
        prior: Share of CLIP's own texts in those of new classes (w); the host's texts have the rest.
        prior_templates: Sentences whose mean is CLIP's text; none takes the data set's own sentence.
        mixed_weight: Weight of the trained classes' branch among these, if new names are used too.
    """

    rank: int = 16
    consensus: float = 0.0
    tau: float = 2.0
    axes: int | None = None
    views: int = 4
    where: float = 0.5
    prior: float = 1.0
    prior_templates: tuple[str, ...] = ()
    mixed_weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        share = "a share between 0 and 1"
        self.demand(
            rank=(self.rank >= 1, "at least 1"),
            consensus=(self.consensus >= 0, "zero or more"),
            tau=(self.tau > 0, "a temperature above zero"),
            axes=(self.axes is None or self.axes >= 1, "at least 1, or none to have it chosen"),
            views=(self.views >= 1, "at least 1"),
            where=(0 <= self.where <= 1, share),
            prior=(0 <= self.prior <= 1, share),
            mixed_weight=(0 <= self.mixed_weight <= 1, share),
        )

    @property
    def needs_masks(self) -> bool:
        return True


@dataclass(frozen=True)
class CounterfactualConfig(MethodConfig):
    """Settings of counterfactual calibration.

    Attributes:
        contexts: Number of training pictures whose background is a context (K); with 0 the object alone
            replaces the recombined features, and training needs no masks.
        mix: Share of the recombined features' effect in the logits (w).
        subtract: Share of a context's own logits that is subtracted (λ).
        fill: Replacement for removed pixels.
    """

    contexts: int = 16
    mix: float = 0.5
    subtract: float = 0.5
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        share = "a share between 0 and 1"
        self.demand(
            contexts=(self.contexts >= 0, "zero or more"),
            mix=(0 <= self.mix <= 1, share),
            subtract=(0 <= self.subtract <= 1, share),
        )

    @property
    def needs_masks(self) -> bool:
        return self.contexts > 0


@dataclass(frozen=True)
class FalipConfig(MethodConfig):
    """Settings of FALIP.

    Attributes:
        strength: Largest value that is added to the logits of the class token's attention (α).
        sigma: Standard deviation of the fovea, in patches (σ).
        blocks: Number of blocks with it, from the last one back; None takes 4, or all of a shallower tower.
        region: The rectangle of patches around the mask, or only the masked patches in it.
    """

    strength: float = 0.2
    sigma: float = 100.0
    blocks: int | None = None
    region: Literal["box", "mask"] = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(
            strength=(0 <= self.strength <= 100, "a number from 0 to 100"),
            sigma=(self.sigma > 0, "a number of patches above zero"),
            blocks=(self.blocks is None or self.blocks >= 1, "at least 1, or none"),
        )


@dataclass(frozen=True)
class KdplConfig(MethodConfig):
    """Settings of KDPL.

    Attributes:
        teacher: Another CLIP, as for `load_clip`; None takes the CLIP that is tuned.
        template: The teacher's sentence; None takes the data set's, or "a photo of a {}.".
        weight: Weight of KL(teacher ‖ student); KL(student ‖ teacher) has the rest.
    """

    teacher: str | None = None
    template: str | None = None
    weight: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.demand(weight=(0 <= self.weight <= 1, "a share between 0 and 1"))


def _check_backgrounds(backgrounds: tuple[str, ...]) -> None:
    """Refuse empty and repeated background words."""
    phrases = [" ".join(words(background)) for background in backgrounds]
    for background, phrase in zip(backgrounds, phrases, strict=True):
        if not phrase or phrases.count(phrase) > 1:
            problem = "is there twice" if phrase else "has no word in it"
            raise InputError(f"dapt: background {background!r} {problem}: leave it out")


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without a plural s."""
    spaced = "".join(letter if letter.isalnum() else " " for letter in text.casefold())
    return [_singular(word) for word in spaced.split()]


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


CONFIGS: dict[str, type[MethodConfig]] = {
    config_type.part: config_type
    for config_type in (
        ZeroShotConfig,
        CoOpConfig,
        CoCoOpConfig,
        KgCoOpConfig,
        ProGradConfig,
        MmrlConfig,
        PromptSRCConfig,
        IvlpConfig,
        VptConfig,
        MapleConfig,
        HiCroPLConfig,
        TcpConfig,
        MmaConfig,
        ClipLoraConfig,
        ProdaConfig,
        ClipAdapterConfig,
        TipAdapterConfig,
        LinearProbeConfig,
        LpPlusPlusConfig,
        FvgPtConfig,
        DaptConfig,
        ExchangeConfig,
        CounterfactualConfig,
        FalipConfig,
        KdplConfig,
    )
}
"""Settings classes by method name."""
