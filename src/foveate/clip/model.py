"""CLIP's two towers, small enough to read in one sitting.

Ours because every prompt method inserts tokens between blocks and no library lets one. An `edit` is called
before each block with `(layer, tokens)` and returns the tokens to use: deep prompts, MMRL's representation
tokens and attention probes are all edits. Each tower is three public steps, so that a method may step in
between: `tokens` (embed), `encode` (run the blocks), `pool` (read out one feature).

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.types import Images, TokenIds, Tokens

Edit = Callable[[int, Tensor], Tensor]


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, tower: TowerConfig, *, quick_gelu: bool, causal: bool):
        super().__init__()
        width = tower.width
        self.heads, self.causal, self.quick_gelu = tower.heads, causal, quick_gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tokens) -> Tokens:
        x = x + self.attend(self.ln_1(x))
        hidden = self.fc(self.ln_2(x))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick_gelu else F.gelu(hidden)
        return x + self.out(hidden)

    def attend(self, x: Tokens) -> Tokens:
        """Return what each token gathers from the others (from earlier ones only, if causal)."""
        rows, tokens, width = x.shape
        qkv = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.proj(gathered.transpose(1, 2).reshape(rows, tokens, width))


def run_blocks(blocks: nn.ModuleList, x: Tokens, edit: Edit | None) -> Tokens:
    """Pass tokens through the blocks; `edit`, where given, may change them before each block."""
    for layer, block in enumerate(blocks):
        x = block(edit(layer, x) if edit else x)
    return x


class Vision(nn.Module):
    """The image tower: patches in, one feature out."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        width = config.vision.width
        self.grid = config.image_size // config.patch_size
        patch = config.patch_size
        self.patches = nn.Conv2d(3, width, patch, patch, bias=False)
        self.cls = nn.Parameter(torch.empty(width))
        self.pos = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(config.vision, quick_gelu=config.quick_gelu, causal=False)
            for _ in range(config.vision.layers)
        )
        self.proj = nn.Parameter(torch.empty(width, config.embed))

    def forward(self, images: Images, edit: Edit | None = None) -> Float[Tensor, "batch dim"]:
        return self.pool(self.encode(self.tokens(images), edit)[:, 0])

    def tokens(self, images: Images) -> Tokens:
        """Return `[CLS, patches]` with positions, before `ln_pre`."""
        patches = self.patches(images.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(patches), 1, -1), patches], dim=1) + self.pos

    def encode(self, tokens: Tokens, edit: Edit | None = None) -> Tokens:
        """Run `ln_pre` and the blocks."""
        return run_blocks(self.blocks, self.ln_pre(tokens), edit)

    def pool(self, token: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest dim"]:
        """Project output tokens (the class token, usually) into the shared space."""
        return self.ln_post(token) @ self.proj


class Text(nn.Module):
    """The text tower: token ids in, one feature out. Attention is causal."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        width = config.text.width
        self.token = nn.Embedding(config.vocab, width)
        self.pos = nn.Parameter(torch.empty(config.context, width))
        self.blocks = nn.ModuleList(
            Block(config.text, quick_gelu=config.quick_gelu, causal=True) for _ in range(config.text.layers)
        )
        self.ln_final = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed))

    def forward(self, ids: TokenIds, edit: Edit | None = None) -> Float[Tensor, "rows dim"]:
        # The tower is causal, so what follows the last EOT cannot matter: it is never encoded.
        eot = ids.argmax(dim=-1)
        ids = ids[:, : int(eot.max()) + 1]
        return self.pool(self.encode(self.token(ids), edit), eot)

    def encode(self, tokens: Tokens, edit: Edit | None = None) -> Tokens:
        """Add positions to embedded tokens and run the blocks."""
        return run_blocks(self.blocks, tokens + self.pos[: tokens.shape[1]], edit)

    def pool(self, tokens: Tokens, eot: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Read the feature at each row's EOT, wherever an edit has moved it."""
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.ln_final(tokens[rows, eot]) @ self.proj


class Clip(nn.Module):
    """Both towers and the temperature. Build one with `load_clip`, or `Clip(config).initialise(g)`."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        self.config, self.vision, self.text = config, Vision(config), Text(config)
        self.logit_scale = nn.Parameter(torch.empty(()))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with; 100 in OpenAI's weights."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> "Clip":
        """Fill every tensor with CLIP's own random start, drawn from `generator`."""
        for tower, size in ((self.vision, self.config.vision), (self.text, self.config.text)):
            for name, tensor in tower.named_parameters():
                _initialise(name, tensor, size, generator)
        self.logit_scale.fill_(torch.tensor(1 / 0.07).log())
        return self


def _initialise(name: str, tensor: Tensor, size: TowerConfig, generator: torch.Generator) -> None:
    """Start values of CLIP (Radford et al. 2021, section 2.5 and its code)."""
    residual = (2 * size.layers) ** -0.5  # every block adds twice to the residual stream
    if "ln_" in name or name.endswith("bias"):
        tensor.fill_(1.0 if name.endswith("weight") else 0.0)
        return
    spread = size.width**-0.5
    if name == "token.weight":
        spread = 0.02
    elif name == "pos" and size.width < tensor.shape[0]:
        spread = 0.01
    elif name.endswith((".proj.weight", ".out.weight")):
        spread *= residual
    elif name.endswith(".fc.weight"):
        spread *= 2**-0.5
    tensor.normal_(0.0, spread, generator=generator)
