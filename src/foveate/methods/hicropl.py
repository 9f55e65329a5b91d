"""HiCroPL: tokens in both towers; text tokens change image tokens in first blocks, the reverse in later ones.

P_t and P_v are the learned text and image tokens of a block, n of each; q is the proxy of a block's tokens,
one vector; M a mapper; k the last of the first blocks; f and g features of a picture and of a class.

- [0]: Hierarchical Cross-modal Prompt Learning for Vision-Language Models, Zheng et al. 2025,
  https://arxiv.org/abs/2507.14976
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, encode_rows
from foveate.errors import InputError
from foveate.methods.base import SentenceMethod, encode_pictures
from foveate.methods.capabilities import LabelTerm, TextRecipe
from foveate.methods.configs import HiCroPLConfig
from foveate.methods.frozen import Frozen, FrozenFeatures, frozen_clip
from foveate.methods.layers import QuickGelu, attention, copies, linear
from foveate.methods.prompts import (
    DeepPromptMethod,
    DeepTokens,
    deep_start,
    embedded_start,
    encode_prompted,
    noise,
    resolve_depth,
)
from foveate.methods.texts import PlainTexts
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Images, Scalar, TextFeatures

BlockTokens = Float[Tensor, "blocks learned width"]
Proxies = Float[Tensor, "blocks 1 width"]


class Proxy(nn.Module):
    """Layer-specific knowledge proxy: one vector that has read the tokens of a block ([0], Fig. 2b).

    Args:
        width: Width of the tower.
        generator: Random generator of the initial values.
    """

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.attn = attention(width, generator)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(
        self, query: Float[Tensor, "1 width"], tokens: Float[Tensor, "learned width"]
    ) -> Float[Tensor, "1 width"]:
        """Return LN(q + Attention(q, P))."""
        normed = self.ln_1(tokens)
        return self.ln_2(query + self.attn(self.ln_1(query), normed, normed, need_weights=False)[0])


class Mapper(nn.Module):
    """Hierarchical knowledge mapper: tokens of several blocks read proxies of all of them ([0], Fig. 2b).

    Args:
        width: Width of the tower whose tokens are mapped.
        source_width: Width of the tower of the proxies.
        generator: Random generator of the initial values.
    """

    def __init__(self, width: int, source_width: int, generator: torch.Generator):
        super().__init__()
        self.linear_q = linear(width, width, generator)
        self.linear_k, self.linear_v = (linear(source_width, width, generator) for _ in range(2))
        self.attn = attention(width, generator)
        wide, narrow = linear(width, 4 * width, generator), linear(4 * width, width, generator)
        self.ffn = nn.Sequential(OrderedDict(c_fc=wide, gelu=QuickGelu(), c_proj=narrow))
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: BlockTokens, proxies: Float[Tensor, "blocks 1 source_width"]) -> BlockTokens:
        """Return the new tokens of these blocks: attention to all proxies, and a perceptron."""
        x, sources = self.linear_q(tokens.flatten(0, 1)), proxies.flatten(0, 1)
        keys, values = self.ln_1(self.linear_k(sources)), self.ln_1(self.linear_v(sources))
        x = x + self.attn(self.ln_1(x), keys, values, need_weights=False)[0]
        return (x + self.ffn(self.ln_2(x))).view_as(tokens)


class HiCroPL(DeepPromptMethod, SentenceMethod, FrozenFeatures, LabelTerm):
    """Hierarchical cross-modal prompt learning: 33,431,040 parameters with ViT-B/16.

    Features of both towers are averaged with those of the untouched CLIP, in training and after it. Texts
    that are no classes have the learned tokens in place of a sentence, and no such average.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values; by default the stream of seed 0.

    Raises:
        InputError: `tokens` is below 1 or above the length of `init`, a tower has fewer blocks than `depth`,
            or `cross_layer` leaves no block on one of its sides.
    """

    name, title, config_type = "hicropl", "HiCroPL", HiCroPLConfig
    tunes_vision = True

    def __init__(
        self, clip: Clip, config: HiCroPLConfig | None = None, generator: torch.Generator | None = None
    ):
        config, generator = config or HiCroPLConfig(), generator or stream(0, "init", "hicropl")
        vision, text, proj = clip.config.vision, clip.config.text, clip.text.proj
        depth, self.cross_layer = _blocks(config, min(vision.layers, text.layers))
        super().__init__(clip, *embedded_start(clip, config.tokens, config.init, generator, "hicropl"))
        self.config, self.plain = config, PlainTexts(clip, config.template)
        k, later = self.cross_layer, depth - self.cross_layer
        self.deep_text = deep_start(depth, config.tokens, text.width, generator=generator, like=proj)
        initial = noise(1, config.tokens, vision.width, generator=generator, like=proj)
        self.vision_tokens = nn.Parameter(initial.repeat(depth, 1, 1))
        self.to_vision = Mapper(vision.width, text.width, generator).to(proj.device)
        self.to_text = Mapper(text.width, vision.width, generator).to(proj.device)
        self.text_nets = copies(Proxy(text.width, generator).to(proj.device), k)
        self.vision_nets = copies(Proxy(vision.width, generator).to(proj.device), later)
        self.text_proxies = nn.Parameter(_queries(k, text.width, generator, proj))
        self.vision_proxies = nn.Parameter(_queries(later, vision.width, generator, proj))
        if config.overwrite:
            for name, parameter in self.learned().items():
                parameter.requires_grad_(name in ("ctx", "deep_text", "vision_tokens"))

    # --- the flow between the towers ---

    def early_vision(self) -> BlockTokens:
        """Return the image tokens of blocks 1 to k, M(P_v, q_t)."""
        k, learned = self.cross_layer, self.vision_tokens
        text_tokens = [self.ctx, *self._deep_text()[: k - 1]]
        mapped = self.to_vision(learned[:k], _read(self.text_nets, self.text_proxies, text_tokens))
        return self._apply_mapping(learned[:k], mapped)

    def later_text(self) -> BlockTokens:
        """Return the text tokens of the blocks after k, M(P_t, q_v)."""
        k, learned = self.cross_layer, self._deep_text()
        vision_tokens = list(self.vision_tokens[k:])
        mapped = self.to_text(learned[k - 1 :], _read(self.vision_nets, self.vision_proxies, vision_tokens))
        return self._apply_mapping(learned[k - 1 :], mapped)

    def _apply_mapping(self, learned: BlockTokens, mapped: BlockTokens) -> BlockTokens:
        """Return the mapped tokens; with `overwrite`, their gradient goes to the learned tokens."""
        return learned + (mapped - learned).detach() if self.config.overwrite else mapped

    def _deep_text(self) -> nn.Parameter:
        assert self.deep_text is not None  # the depth is at least two
        return self.deep_text

    @torch.no_grad()
    def _overwrite(self) -> None:
        """Replace learned tokens by mapped ones."""
        k = self.cross_layer
        early, later = self.early_vision(), self.later_text()
        self.vision_tokens[:k] = early
        self._deep_text()[k - 1 :] = later

    # --- texts ---

    def deeper_text(self) -> DeepTokens:
        return torch.cat([self._deep_text()[: self.cross_layer - 1], self.later_text()])

    def encode_text(self) -> TextFeatures:
        """Return ḡ: unit features of the tuned tower and of CLIP for its sentence, averaged."""
        return averaged(super().encode_text(), self.plain.features())

    def extra_rows(self, names: Sequence[str], template: str) -> TokenRows:
        return self.lay_out_classes(names)

    def encode_rows(self, rows: TokenRows) -> TextFeatures:
        return encode_rows(self.clip.text, rows, self.ctx, self.text_edit())

    def text_recipe(self) -> TextRecipe:
        return replace(super().text_recipe(), kind="known", joined=averaged)

    # --- pictures and losses ---

    def encode_images(self, images: Images) -> ImageFeatures:
        """Return f̄: unit features of the tuned tower and of CLIP, averaged; the tower runs twice."""
        return averaged(self._tuned(images), encode_pictures(self.clip, images))

    def _tuned(self, images: Images) -> ImageFeatures:
        k, early = self.cross_layer, self.early_vision()
        deeper = torch.cat([early[1:], self.vision_tokens[k:]])
        return encode_prompted(self.clip.vision, images, early[0], deeper)

    def forward(self, batch: Batch) -> Features:
        """Return features of a training batch; `overwrite` then replaces learned tokens by mapped ones."""
        clip_image = batch.frozen.get("clip")
        if clip_image is None:
            clip_image = encode_pictures(self.clip, batch.images)
        features = self.pair(averaged(self._tuned(batch.images), clip_image))
        if self.config.overwrite and self.training and torch.is_grad_enabled():
            self._overwrite()
        return features

    def frozen(self) -> dict[str, Frozen]:
        return {"clip": frozen_clip(self.clip)}

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return CE, λ (1 − cos(ḡ, g_CLIP)) and λ (1 − cos(f̄, f_CLIP)), means over classes and pictures."""
        image = F.cosine_similarity(features.image[0], batch.frozen["clip"][0], dim=-1)
        return super().losses(features, batch) | {
            "text": self.config.weight * self.text_drift(features),
            "image": self.config.weight * (1 - image.mean()),
        }

    def official_names(self) -> dict[str, str | list[str]]:
        learner, depth = "prompt_learner", len(self.vision_tokens)
        early, later = range(self.cross_layer), range(depth - self.cross_layer)
        names: dict[str, str | list[str]] = {
            "ctx": f"{learner}.cross_prompts_text.0",
            "deep_text": [f"{learner}.cross_prompts_text.{i}" for i in range(1, depth)],
            "vision_tokens": [f"{learner}.cross_prompts_visual.{i}" for i in range(depth)],
            "text_proxies": [f"{learner}.text_proxy_token.{i}" for i in early],
            "vision_proxies": [f"{learner}.visual_proxy_token.{i}" for i in later],
        }
        modules = {"to_vision": "text2visual_net", "to_text": "visual2text_net"}
        modules |= {"text_nets": "attn_pooling_text_nets", "vision_nets": "attn_pooling_visual_nets"}
        for name in self.learned():
            ours, _, rest = name.partition(".")
            if ours in modules:
                names[name] = f"{learner}.{modules[ours]}.{rest}"
        return names


def averaged(
    tuned: Float[Tensor, "*rows dim"], known: Float[Tensor, "*rows dim"]
) -> Float[Tensor, "*rows dim"]:
    """Return unit features: the mean direction of two features."""
    return F.normalize(F.normalize(tuned, dim=-1) + F.normalize(known, dim=-1), dim=-1)


def _read(nets: nn.ModuleList, queries: Proxies, tokens: Sequence[Tensor]) -> Proxies:
    """Return the proxies of several blocks, each from its own net, query and tokens."""
    return torch.stack([net(*pair) for net, *pair in zip(nets, queries, tokens, strict=True)])


def _blocks(config: HiCroPLConfig, blocks: int) -> tuple[int, int]:
    """Return the depth and k.

    Raises:
        InputError: The towers have fewer blocks, or one of the two directions has no block.
    """
    depth = resolve_depth(config.depth, blocks, 12, "hicropl: depth", least=2)
    k = depth // 2 if config.cross_layer is None else config.cross_layer
    if not 1 <= k < depth <= blocks:
        raise InputError(
            f"hicropl: cross_layer is {k} of {depth} blocks with tokens, and the towers have {blocks}: each"
            " direction needs a block, so give at least 1 and less than depth"
        )
    return depth, k


def _queries(blocks: int, width: int, generator: torch.Generator, like: Tensor) -> Proxies:
    """Return the queries of several blocks, equal and drawn from N(0, 1), on the device of `like`."""
    return torch.randn(1, 1, width, generator=generator).repeat(blocks, 1, 1).to(like.device)
