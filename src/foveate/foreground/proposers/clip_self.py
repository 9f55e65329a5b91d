"""CLIP as its own segmenter: it needs only the CLIP weights and the class name.

One pass of the image tower gives two maps of the class:

- dense: each patch's feature against the class and background words (`foveate.clip.dense`);
- cam: Grad-CAM of the same softmax, spread by attention.

"fused" is the geometric mean of both, dense as log-odds: they must agree. The equations are in
docs/methods/clip-self.md.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.dense import (
    GAUSSIAN,
    Attention,
    PatchTokens,
    class_feature,
    last_block,
    look,
    patch_features,
)
from foveate.clip.model import Clip, Vision
from foveate.clip.rows import encode_texts
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.clip.tokenizer import ClipTokenizer
from foveate.clip.weights import load_clip
from foveate.errors import InputError
from foveate.foreground.cleanup import contrast, otsu, resized
from foveate.foreground.proposers.base import Proposal, Proposer, Request, search_text
from foveate.types import Images

Heats = Float[Tensor, "batch rows columns"]
Texts = Float[Tensor, "classes dim"]
Grid = Float[np.ndarray, "rows columns"]
Mode = Literal["fused", "dense", "cam"]
Precision = Literal["float32", "bfloat16", "float16"]

PATCHES = 21
"""Patches along the shorter side, if the tower's own grid allows this size: 336 px for ViT-B/16."""

LONGEST = 5 / 3
"""Maximum aspect ratio; a longer picture is processed at a smaller size."""

BACKGROUND_TEMPLATE = "a photo of {}."

SOFTNESS = 0.4
"""Share of CLIP's own temperature in the dense softmax: 40 for OpenAI's 100, as in NACLIP."""


@dataclass(frozen=True)
class _ClassTexts:
    """Texts of one class: features of norm 1, the class first; and the kept background words."""

    features: Texts
    words: tuple[str, ...]


class ClipSelf(Proposer):
    """Masks by CLIP itself: patches that are more similar to the class than to the background.

    Pictures pass one at a time, so each result is bit-identical in any batch. The refinement that
    follows takes longer than the tower, especially on a GPU.

    Args:
        clip: A CLIP, which is not moved or changed, or a source for `load_clip`.
        mode: "fused": both maps; "dense": patches against words; "cam": Grad-CAM, spread by attention.
        template: Template for class names. A request's prompt is used unchanged if it is more than the
            class name.
        background: Background words; None uses those of `foveate.foreground.proposers.clip_self` that are one
            token of the tokenizer.
        side: Shorter side in pixels, rounded to a multiple of the patch size; None: 21 patches, limited
            to between once and twice the tower's own size.
        device: Device of a CLIP that is loaded by name: "cpu", "cuda".
        dtype: Precision of that CLIP.
        layers: Number of last blocks whose attention is averaged.
        gaussian: Range of a patch's attention to near patches, in patches; 0 switches it off.
        scale: Factor of the cosines in the dense softmax; None: 0.4 of the CLIP's own.
        flip: Process the mirrored picture too, and average: better, in twice the time.

    Raises:
        InputError: The CLIP cannot be loaded, or a setting is out of range.
    """

    name = "clip-self"
    reads_text = True
    coarse = True

    def __init__(  # noqa: PLR0913  (settings, all but the first by name)
        self,
        clip: Clip | str = "tiny",
        mode: Mode = "fused",
        *,
        template: str = DEFAULT_TEMPLATE,
        background: tuple[str, ...] | None = None,
        side: int | None = None,
        device: str = "cpu",
        dtype: Precision = "float32",
        layers: int = 8,
        gaussian: float = GAUSSIAN,
        scale: float | None = None,
        flip: bool = False,
    ):
        fill(template, "")
        _demand_positive(side=side, layers=layers, scale=scale)
        if gaussian < 0:
            raise InputError(f"gaussian is {gaussian}: give a number of patches, or 0 for none")
        self.clip = _loaded(clip, device, dtype)
        self.mode: Mode = mode
        self.template, self.layers, self.gaussian, self.flip = template, layers, gaussian, flip
        self.background = background_for(self.clip.tokenizer) if background is None else tuple(background)
        if not any(word.strip() for word in self.background):
            raise InputError("background has no words: name what is no object, such as grass")
        self.side = self._whole(side or default_side(self.clip))
        self.scale = scale or SOFTNESS * self.clip.scale.item()
        self._background_features: Float[Tensor, "words dim"] | None = None
        self._class_texts: dict[tuple[str, str], _ClassTexts] = {}

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        """Return a proposal for each request.

        The mask is the heat above Otsu's threshold. The score is the mean class probability inside the
        mask minus that outside, at least 0, and 0 for an empty mask. "cam" has no probabilities and uses
        the heat instead.

        Raises:
            InputError: A picture has neither class name nor prompt, or `dtype` cannot hold the features.
        """
        with torch.inference_mode(False), torch.no_grad():
            return [self._proposal(request) for request in requests]

    def _proposal(self, request: Request) -> Proposal:
        texts = self._texts(request.label, search_text(request, self.name))
        size = request.picture.size
        heat, probability = (
            resized(grid, size).clip(0, 1) for grid in self._maps(request.picture, texts.features)
        )
        mask = heat > otsu(heat)
        return Proposal(mask, contrast(probability, mask), heat, {"background": len(texts.words)})

    def _maps(self, picture: Image.Image, texts: Texts) -> tuple[Grid, Grid]:
        """Return the heat of each patch, and its class probability (for "cam": the heat again)."""
        images = self._pixels(picture)
        maps = torch.stack(self._look(images, texts))
        if self.flip:
            maps = (maps + torch.stack(self._look(images.flip(-1), texts)).flip(-1)) / 2
        if not maps.isfinite().all():
            precision = self.clip.vision.proj.dtype
            raise InputError(f"clip-self: {precision} cannot hold this CLIP's features: take dtype float32")
        heat, probability = maps[:, 0].cpu().numpy()
        return heat, probability

    def _look(self, images: Images, texts: Texts) -> tuple[Heats, Heats]:
        vision = self.clip.vision
        tokens = look(vision, images, 0 if self.mode == "dense" else self.layers)
        shape = (len(images), tokens.rows, tokens.columns)
        zeros = torch.zeros(shape, device=texts.device)
        if len(texts) < 2:  # with one text, the softmax is 1 everywhere
            return zeros, zeros
        cam = zeros
        if tokens.attention is not None:
            cam = softmax_cam(vision, tokens, texts, self.clip.scale.item())
            cam = spread(cam, affinity(tokens.attention))
        if self.mode == "cam":
            return cam, cam
        logits = (self.scale * patch_features(vision, tokens, self.gaussian) @ texts.T).view(*shape, -1)
        probability = logits.softmax(dim=-1)[..., 0]
        if self.mode == "dense":
            return probability, probability
        # Log-odds, because on some pictures the softmax is close to 1 everywhere: log-odds still differ.
        log_odds = stretched(logits[..., 0] - logits[..., 1:].logsumexp(dim=-1))
        # If Grad-CAM is 0 in the whole picture, it is ignored.
        return ((log_odds * cam).sqrt() if cam.any() else log_odds), probability

    def _texts(self, label: str, prompt: str) -> _ClassTexts:
        """Return the texts of a class; each is encoded once, separately."""
        name = " ".join(label.replace("_", " ").split())
        if (name, prompt) not in self._class_texts:
            sentence = fill(self.template, name) if prompt in (label, name) else prompt
            class_feature = self._encoded([sentence])
            if self._background_features is None:
                self._background_features = self._encoded(
                    [fill(BACKGROUND_TEMPLATE, word) for word in self.background]
                )
            candidates = [i for i, word in enumerate(self.background) if not same_words(word, (name, prompt))]
            indices = [candidates[i] for i in apart(class_feature[0], self._background_features[candidates])]
            words = tuple(self.background[i] for i in indices)
            self._class_texts[name, prompt] = _ClassTexts(
                torch.cat([class_feature, self._background_features[indices]]), words
            )
        return self._class_texts[name, prompt]

    def _encoded(self, sentences: Sequence[str]) -> Float[Tensor, "texts dim"]:
        return F.normalize(encode_texts(self.clip, sentences), dim=-1)

    def _pixels(self, picture: Image.Image) -> Images:
        """Return the normalised picture, with its aspect ratio kept as far as whole patches allow."""
        shorter, longer = sorted(picture.size)
        ratio = min(self.side / shorter, LONGEST * self.side / longer)
        size = (self._whole(picture.width * ratio), self._whole(picture.height * ratio))
        scaled = picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)
        config, device = self.clip.config, self.clip.vision.proj.device
        pixels = torch.tensor(np.asarray(scaled), device=device).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(c, device=device).view(3, 1, 1) for c in (config.mean, config.std))
        return ((pixels - mean) / std).unsqueeze(0)

    def _whole(self, length: int | float) -> int:
        patch = self.clip.config.patch_size
        return max(1, round(length / patch)) * patch

    @property
    def key(self) -> Mapping[str, object]:
        settings = {
            "mode": self.mode,
            "template": self.template,
            "background": list(self.background),
            "side": self.side,
            "layers": self.layers,
            "gaussian": self.gaussian,
            "scale": self.scale,
            "flip": self.flip,
        }
        return {"clip": self.clip.fingerprint(), **settings}

    def close(self) -> None:
        self._class_texts.clear()
        self._background_features = None


def default_side(clip: Clip) -> int:
    """Return the shorter side of pictures in pixels: 21 patches, limited to 1 to 2 times the tower's grid.

    Interpolated position embeddings get worse with the scale factor.
    """
    grid = clip.vision.grid
    return max(grid, min(PATCHES, 2 * grid)) * clip.config.patch_size


def _loaded(clip: Clip | str, device: str, dtype: Precision) -> Clip:
    if isinstance(clip, Clip):
        return clip
    return load_clip(clip, device=device, dtype=getattr(torch, dtype))


def _demand_positive(**settings: int | float | None) -> None:
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} is {value}: give a number above 0, or leave it out")


# Grad-CAM of CLIP, and attention as affinity between patches.
#
# Both follow CLIP-ES (Lin et al. 2023, https://arxiv.org/abs/2212.09506). Grad-CAM uses a softmax over a
# class and background words, so regions that fit both get low values. Class-aware attention-based affinity
# (CAA) spreads the map over the object.


Affinity = Float[Tensor, "batch patches patches"]

HOT = 0.4
"""Share of a map's maximum from which a patch surely belongs to the object, as in CLIP-ES."""

ROUNDS = 3
"""Number of alternating normalisations of columns and rows."""


def softmax_cam(vision: Vision, patches: PatchTokens, texts: Texts, scale: float) -> Heats:
    """Return the Grad-CAM relevance of each patch for the class against the background, from 0 to 1.

    Grad-CAM (Selvaraju et al. 2017, Eq. 1 and 2) is computed at `ln_1` of the last block, the last point
    where patches influence the class token. The gradient of the class' softmax, averaged over patches,
    weights the channels. The code differentiates log p / (1 - p) instead of the softmax p: the gradient
    has the same direction and does not vanish where p is close to 1. All values are 0 if no patch
    supports the class.

    Args:
        vision: The tower.
        patches: Result of `look`.
        texts: Features of norm 1: the class first, then background words.
        scale: Factor of the cosines.
    """
    if len(texts) < 2:  # with one text, the softmax is 1 everywhere
        return patches.tokens.new_zeros(
            len(patches.tokens), patches.rows, patches.columns, dtype=torch.float32
        )
    block = last_block(vision)
    with torch.enable_grad():
        normed = block.ln_1(patches.tokens).detach().requires_grad_()
        feature = F.normalize(class_feature(vision, patches, normed).float(), dim=-1)
        logits = scale * feature @ texts.T
        log_odds = logits[:, 0] - logits[:, 1:].logsumexp(dim=-1)
        (gradient,) = torch.autograd.grad(log_odds.sum(), normed)
    channels = gradient[:, 1:].float().mean(dim=1, keepdim=True)
    relevance = (channels * normed.detach()[:, 1:].float()).sum(dim=-1).clamp_min(0)
    return stretched(relevance.view(-1, patches.rows, patches.columns))


def affinity(attention: Attention, rounds: int = ROUNDS) -> Affinity:
    """Return the affinity between patches; each row sums to 1.

    The attention among patches is made doubly stochastic (Sinkhorn), symmetric, and squared. So patches
    that attend to the same patches also get a high affinity.

    Args:
        attention: Attention weights; the class token is first.
        rounds: Number of normalisations of columns, then rows.
    """
    weights = attention[:, 1:, 1:]
    for _ in range(rounds):
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp_min(1e-12)
    weights = (weights + weights.mT) / 2
    squared = weights @ weights
    return squared / squared.sum(dim=2, keepdim=True)


def spread(heats: Heats, affinities: Affinity, hot: float = HOT) -> Heats:
    """Spread maps by affinity and rescale them to [0, 1].

    Only values in the boxes of hot regions are spread. Each new value is a mean over the picture, so
    hardly any value would be near 1 without the rescaling.
    """
    inside = torch.stack([boxes(heat, hot) for heat in heats])
    masked = (heats * inside).flatten(1).unsqueeze(-1)
    return stretched((affinities @ masked).view_as(heats))


def boxes(heat: Float[Tensor, "rows columns"], hot: float = HOT) -> Bool[Tensor, "rows columns"]:
    """Return the bounding boxes of the connected hot regions (8-connectivity), as a mask.

    Args:
        heat: Heat map, not negative.
        hot: Threshold, as a share of the maximum.
    """
    regions = _connected_regions(heat >= hot * heat.max())
    inside = torch.zeros_like(regions, dtype=torch.bool)
    for region in regions.unique()[1:] if regions.min() == 0 else regions.unique():
        rows, columns = (regions == region).nonzero(as_tuple=True)
        inside[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
    return inside


def stretched(heats: Heats) -> Heats:
    """Rescale each map to [0, 1] by its minimum and maximum; zeros if all values are equal."""
    low, high = heats.amin((1, 2), keepdim=True), heats.amax((1, 2), keepdim=True)
    return (heats - low) / (high - low).clamp_min(torch.finfo(heats.dtype).tiny)


def _connected_regions(mask: Bool[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Number the connected regions, 0 outside: repeat a maximum over neighbours until nothing changes."""
    labels = torch.arange(1, mask.numel() + 1, device=mask.device).view(mask.shape) * mask.float()
    while True:
        grown = F.max_pool2d(labels[None], 3, stride=1, padding=1)[0] * mask
        if torch.equal(grown, labels):
            return labels
        labels = grown


# Background words: what patches can show instead of the class.


SCENERY = (
    *("sky", "cloud", "ground", "soil", "grass", "leaf", "tree", "forest", "field", "mountain", "rock"),
    *("stone", "sand", "snow", "water", "sea", "river", "road", "street", "wall", "floor", "ceiling"),
    *("building", "brick", "wood", "fence", "window", "curtain", "table", "crowd", "shadow", "night", "sign"),
)
"""Amorphous materials, and common surfaces and surroundings of objects."""

ALIKE = 0.9
"""Cosine above which a background word is taken to mean the class."""


def background_for(tokenizer: ClipTokenizer) -> tuple[str, ...]:
    """Return the words of `SCENERY` that a CLIP probably knows.

    A word that the tokenizer splits into several tokens was rare in the training texts, or missing.
    In OpenAI's vocabulary each word is one token; in the embedded CLIP's, those that name its eight places
    are. If no word is a single token, all words are returned.
    """
    known = tuple(word for word in SCENERY if len(tokenizer.words(word)) == 1)
    return known or SCENERY


def same_words(word: str, names: Sequence[str]) -> bool:
    """Return whether a background word is part of a class name, or the reverse.

    "water" is part of "water lily"; "sea" is not part of "seal".
    """
    background_words = _words(word)
    return any(
        background_words <= (class_words := _words(name))
        or (bool(class_words) and class_words <= background_words)
        for name in names
    )


def apart(text: Float[Tensor, " dim"], words: Float[Tensor, "words dim"], alike: float = ALIKE) -> list[int]:
    """Return the indices of background words that do not mean the class; the least similar one always stays.

    Args:
        text: Feature of the class, of norm 1.
        words: Features of the background words.
        alike: Cosine above which a word is dropped.
    """
    cosines = words @ text
    indices: list[int] = torch.nonzero(cosines <= alike)[:, 0].tolist()
    return indices or ([int(cosines.argmin())] if len(words) else [])


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("_", " ")))
