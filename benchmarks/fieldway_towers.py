"""Reference implementation of CLIP's towers: `nn.MultiheadAttention`, tokens first, 77 tokens a text."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.config import TowerConfig
from foveate.clip.model import Block, Clip

Before = Callable[[int, Tensor], Tensor]
"""Changes tokens `[L, N, W]` before a block."""


class FieldBlock(nn.Module):
    """One pre-norm block over tokens `[L, N, D]`, with PyTorch's own attention module."""

    def __init__(self, size: TowerConfig, *, quick_gelu: bool):
        super().__init__()
        hidden = size.hidden or 4 * size.width
        self.attn = nn.MultiheadAttention(size.width, size.heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.c_fc, self.c_proj = nn.Linear(size.width, hidden), nn.Linear(hidden, size.width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = self.c_fc(self.ln_2(x))
        y = y * torch.sigmoid(1.702 * y) if self.quick_gelu else F.gelu(y)
        return x + self.c_proj(y)


FROM_OURS = {
    "attn.in_proj_weight": "qkv.weight",
    "attn.in_proj_bias": "qkv.bias",
    "attn.out_proj.weight": "proj.weight",
    "attn.out_proj.bias": "proj.bias",
    "c_fc.weight": "fc.weight",
    "c_fc.bias": "fc.bias",
    "c_proj.weight": "out.weight",
    "c_proj.bias": "out.bias",
}


def field_blocks(blocks: Iterable[nn.Module], size: TowerConfig) -> list[FieldBlock]:
    """Return blocks that share the weights of foveate's blocks."""
    made: list[FieldBlock] = []
    for ours in blocks:
        assert isinstance(ours, Block)
        with torch.device("meta"):
            block = FieldBlock(size, quick_gelu=ours.quick_gelu)
        state = ours.state_dict()
        block.load_state_dict(
            {name: state[FROM_OURS.get(name, name)] for name in block.state_dict()}, assign=True
        )
        made.append(block.eval().requires_grad_(False))
    return made


def causal_mask(length: int) -> Tensor:
    """Return a mask `[L, L]` with minus infinity at positions that a token must not attend to."""
    return torch.full((length, length), float("-inf")).triu_(1)


class FieldClip:
    """Both towers in the reference implementation, with foveate's weights.

    Args:
        clip: Source of the weights.
    """

    def __init__(self, clip: Clip):
        self.ours = clip
        self.vision_blocks = field_blocks(clip.vision.blocks, clip.config.vision)
        self.text_blocks = field_blocks(clip.text.blocks, clip.config.text)
        self.mask = causal_mask(clip.config.context).to(clip.text.pos)
        self.scale = clip.logit_scale.exp()

    def ids(self, sentences: Sequence[str]) -> Tensor:
        """Return token ids `[C, 77]`, padded with zeros after EOT."""
        tokenizer = self.ours.tokenizer
        rows = torch.zeros(len(sentences), tokenizer.context, dtype=torch.long)
        for row, sentence in zip(rows, sentences, strict=True):
            found = [tokenizer.sot, *tokenizer.words(sentence), tokenizer.eot]
            row[: len(found)] = torch.tensor(found)
        return rows.to(self.mask.device)

    def embed(self, ids: Tensor) -> Tensor:
        """Return token embeddings `[C, 77, W]` without positions."""
        return self.ours.text.token.weight[ids]

    def read(self, prompts: Tensor, ids: Tensor, before: Before | None = None) -> Tensor:
        """Return features `[C, D]` of embedded prompts, at the EOT positions of `ids`."""
        x = (prompts + self.ours.text.pos).permute(1, 0, 2)
        for layer, block in enumerate(self.text_blocks):
            x = block(before(layer, x) if before else x, self.mask)
        return self.read_out(x.permute(1, 0, 2), ids.argmax(dim=-1))

    def read_out(self, x: Tensor, eot: Tensor) -> Tensor:
        """Normalise all tokens `[C, L, W]`, select one of each row and project it."""
        x = self.ours.text.ln_final(x)
        return x[torch.arange(len(x), device=x.device), eot] @ self.ours.text.proj

    def sentences(self, sentences: Sequence[str]) -> Tensor:
        """Return features `[C, D]` of plain sentences."""
        ids = self.ids(sentences)
        return self.read(self.embed(ids), ids)

    def patches(self, images: Tensor) -> Tensor:
        """Return patch tokens `[B, 1 + patches, W]` with positions."""
        vision = self.ours.vision
        x = F.conv2d(images, vision.patches.weight, stride=vision.patches.stride)
        x = x.reshape(x.shape[0], x.shape[1], -1).permute(0, 2, 1)
        cls = vision.cls + torch.zeros(len(x), 1, x.shape[-1], dtype=x.dtype, device=x.device)
        return torch.cat([cls, x], dim=1) + vision.pos

    def see(self, x: Tensor, before: Before | None = None) -> Tensor:
        """Return the output `[B, L, W]` of the blocks for tokens `[B, L, W]`."""
        x = self.ours.vision.ln_pre(x).permute(1, 0, 2)
        for layer, block in enumerate(self.vision_blocks):
            x = block(before(layer, x) if before else x, None)
        return x.permute(1, 0, 2)

    def pictures(self, images: Tensor) -> Tensor:
        """Return picture features `[B, D]`."""
        vision = self.ours.vision
        return vision.ln_post(self.see(self.patches(images))[:, 0, :]) @ vision.proj
