"""ProDA: many prompts as samples of one distribution of class texts.

The authors have published no code, and the paper's text was not available. This module follows
descriptions by others; docs/methods/proda.md lists the sources.

- [0]: Prompt Distribution Learning, Lu et al. 2022, https://arxiv.org/abs/2205.03340
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.rows import TokenRows, encode_rows, pack
from foveate.methods.base import check_names
from foveate.methods.capabilities import PortableTexts, TextRecipe
from foveate.methods.configs import ProdaConfig
from foveate.methods.prompts import Position, lay_out, noise
from foveate.seeds import stream
from foveate.types import Batch, Features, ImageFeatures, Labels, Logits, Scalar, TextFeatures

PromptTexts = Float[Tensor, "prompts classes dim"]


class Proda(PortableTexts):
    """Prompt distribution learning: 262,144 parameters with ViT-B/16.

    Args:
        clip: The frozen towers.
        config: Settings.
        generator: Random generator of the initial values and of the order of prompts; by default the
            stream of seed 0.

    Raises:
        InputError: A setting is out of range.
    """

    name, title, config_type = "proda", "ProDA", ProdaConfig

    def __init__(
        self, clip: Clip, config: ProdaConfig | None = None, generator: torch.Generator | None = None
    ):
        self.config, generator = config or ProdaConfig(), generator or stream(0, "init", "proda")
        super().__init__(clip)
        shape = self.config.prompts, self.config.tokens, clip.config.text.width
        self.ctx = nn.Parameter(noise(*shape, generator=generator, like=clip.text.proj))
        self.order_seed = int(torch.randint(2**62, (), generator=generator))
        self.positions = positions(self.config.prompts)
        self._rows: dict[Position, TokenRows] = {}
        self._nameless = _nameless(clip, self.config)

    def set_classes(
        self, names: Sequence[str], template: str | None = None, trained: Collection[str] | None = None
    ) -> None:
        check_names(names)
        tokenizer, vectors, device = self.clip.tokenizer, self.config.tokens, self.clip.text.pos.device
        rows: dict[Position, TokenRows] = {
            position: lay_out(tokenizer, names, vectors, position).to(device)
            for position in sorted(set(self.positions))
        }
        super().set_classes(names, template, trained)
        self._rows = rows

    def encode_text(self) -> TextFeatures:
        """Return the mean of all prompts' unit class features: the mean classifier of [0]."""
        return self.encode_with(range(self.config.prompts)).mean(dim=0)

    def encode_with(self, prompts: Sequence[int]) -> PromptTexts:
        """Return unit class features of some prompts, given by index."""
        if not self._rows:
            raise RuntimeError("set_classes first")
        texts = [encode_rows(self.clip.text, self._rows[self.positions[i]], self.ctx[i]) for i in prompts]
        return F.normalize(torch.stack(texts), dim=-1)

    def text_recipe(self) -> TextRecipe:
        return TextRecipe("mean", self.clip.text, self.ctx, tuple(self.positions))

    def prompts_of(self, step: int) -> list[int]:
        """Return the prompts of a step: the next part of a random permutation, renewed after each pass."""
        count, size = self.config.prompts, self.config.batch
        cycle, part = divmod(step, count // size)
        order = torch.randperm(count, generator=stream(self.order_seed, "prompts", cycle)).tolist()
        return order[part * size : (part + 1) * size]

    def forward(self, batch: Batch) -> Features:
        """Return picture features with the texts `[P, C, D]` of the step's prompts."""
        frozen = batch.frozen.get("image")
        image = self.encode_images(batch.images) if frozen is None else frozen
        return Features(image, self.encode_with(self.prompts_of(batch.step)))

    def losses(self, features: Features, batch: Batch) -> dict[str, Scalar]:
        """Return the upper bound of the expected cross-entropy, and the weighted penalty ([0])."""
        bound = upper_bound(features.image, features.text, batch.labels, self.clip.scale)
        return {"ce": F.cross_entropy(bound, batch.labels), "orthogonal": self.config.weight * self.overlap()}

    def overlap(self) -> Scalar:
        """Return the mean of |cos| between two prompts, each encoded without a class name."""
        texts = encode_rows(self.clip.text, self._nameless, self.ctx.flatten(0, 1))
        unit = F.normalize(texts, dim=-1)
        cosines = (unit @ unit.T).abs()
        pairs = self.config.prompts * (self.config.prompts - 1)
        return (cosines.sum() - cosines.diagonal().sum()) / pairs


def upper_bound(image: ImageFeatures, texts: PromptTexts, labels: Labels, scale: Tensor) -> Logits:
    """Return logits whose cross-entropy is an upper bound of the expected one ([0]).

    With normally distributed class texts w, E[CE] ≤ CE(s f·mean(w)_c + ½ s² Var(f·(w_c − w_y))). Only
    the diagonal of the covariance of two classes' texts is used, per channel: Var = Σ_d f_d² mean((v_cd
    − v_yd)²), where v is the deviation of a prompt's text from the mean. The mean square divides by n +
    1 for n prompts.

    Args:
        image: `[1, B, D]` raw picture features.
        texts: `[P, C, D]` unit class features of each prompt.
        labels: `[B]` y.
        scale: s.
    """
    f, mean = F.normalize(image[0], dim=-1), texts.mean(dim=0)
    squared, scale, spread = f.square(), scale.to(f.dtype), f.new_zeros(len(f), texts.shape[1])
    for v in texts - mean:  # (v_c − v_y)² = v_c² + v_y² − 2 v_c v_y avoids a tensor with three axes
        squares = squared @ v.square().T
        spread = spread + squares + squares.gather(1, labels[:, None]) - 2 * (squared * v[labels]) @ v.T
    return scale * f @ mean.T + scale.square() / 2 * spread / (len(texts) + 1)


def positions(prompts: int) -> tuple[Position, ...]:
    """Return the class name's position in each prompt: a quarter front, a quarter middle, the others end."""
    quarter = prompts // 4
    counts: list[tuple[Position, int]] = [("front", quarter), ("middle", quarter)]
    counts.append(("end", prompts - 2 * quarter))
    return tuple(position for position, count in counts for _ in range(count))


def _nameless(clip: Clip, config: ProdaConfig) -> TokenRows:
    """Return all prompts without a class name: `[SOT] v1 … vn . [EOT]`."""
    tokenizer, n = clip.tokenizer, config.tokens
    end = [*((token, -1) for token in tokenizer.words(".")), (tokenizer.eot, -1)]
    return pack(
        [
            [(tokenizer.sot, -1), *((0, slot) for slot in range(i * n, (i + 1) * n)), *end]
            for i in range(config.prompts)
        ]
    )
