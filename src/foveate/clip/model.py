"""CLIP's two towers, in a short implementation.

Prompt methods insert tokens between blocks, and no library supports this. An `edit` is called before
each block with `(layer, tokens)` and returns the tokens to use. Deep prompts, MMRL's representation
tokens and attention probes are edits. Each tower has three public steps, so a method can act between
them: `tokens` (embed), `encode` (run the blocks), `pool` (compute one feature).

- CLIP: Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip import fingerprints
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.layouts import OURS, Layout, to_ours
from foveate.clip.linear import TowerLinear
from foveate.clip.sizes import Triple, check_shapes, infer_config
from foveate.clip.tokenizer import OPENAI_VOCAB, ClipTokenizer
from foveate.errors import InputError
from foveate.memory import bytes_of, in_passing
from foveate.types import Images, TokenIds, Tokens

Edit = Callable[[int, Tensor], Tensor]
Grown = Float[Tensor, "rows grown width"]  # an edit may insert tokens
Split = Float[Tensor, "rows heads tokens part"]

_HIDDEN = 5_000_000  # hidden values of an MLP in one chunk on a CPU: 8 pictures of ViT-B/16


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, tower: TowerConfig, *, quick_gelu: bool, causal: bool):
        super().__init__()
        width, hidden = tower.width, tower.hidden or 4 * tower.width
        self.heads, self.causal, self.quick_gelu = tower.heads, causal, quick_gelu
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv: nn.Linear = TowerLinear(width, 3 * width)
        self.proj = TowerLinear(width, width)
        self.fc, self.out = TowerLinear(width, hidden), TowerLinear(hidden, width)

    def forward(self, x: Tokens, *, only: int | None = None) -> Float[Tensor, "rows kept width"]:
        """Return the tokens after the block.

        Args:
            x: All tokens.
            only: Number of tokens, from the first, that are needed; None: all of them.
        """
        normed = self.ln_1(x)
        attended = self.attend(normed, only)
        return self.beside(self.feed(x[:, :only] + attended), normed[:, :only])

    def beside(
        self, x: Float[Tensor, "*rows width"], read: Float[Tensor, "*rows width"]
    ) -> Float[Tensor, "*rows width"]:
        """Return tokens plus the output of a module parallel to the block; the default adds none (MMA does).

        Args:
            x: Output tokens of the block.
            read: Input tokens of its attention, after `ln_1`.
        """
        return x

    def feed(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return tokens after the MLP, which handles each token separately."""
        hidden = self.fc(self.ln_2(x))
        return x + self.out(quick_gelu(hidden) if self.quick_gelu else F.gelu(hidden))

    def attend(self, x: Tokens, only: int | None = None) -> Float[Tensor, "rows kept width"]:
        """Return the attention output of each token (attends only to earlier tokens, if causal)."""
        q, k, v = self.split(self.qkv(x))
        gathered = F.scaled_dot_product_attention(q[:, :, :only], k, v, is_causal=self.causal)
        return self.proj(gathered.transpose(1, 2).flatten(2))

    def split(self, qkv: Float[Tensor, "rows tokens qkv"]) -> tuple[Split, Split, Split]:
        """Return queries, keys and values by head, from the output of `qkv`."""
        rows, tokens, width = qkv.shape
        parts = qkv.view(rows, tokens, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


def quick_gelu(x: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
    """Return x · σ(1.702 x), CLIP's activation; without gradients, `x` is overwritten."""
    if torch.is_grad_enabled():
        return x * torch.sigmoid(1.702 * x)
    return x.mul_((1.702 * x).sigmoid_())  # widest tensor: in place, one temporary instead of three


def run_blocks(blocks: nn.ModuleList, x: Tokens, edit: Edit | None, only: int | None = None) -> Grown:
    """Pass tokens through the blocks; `edit`, if given, may change them before each block.

    With `only`, the last block computes only that many tokens, from the first.
    """
    for layer, block in enumerate(blocks):
        x = edit(layer, x) if edit else x
        x = (
            block(x) if only is None or layer + 1 < len(blocks) else block(x, only=only)
        )  # hooks get `x` alone
    return x


def blocks_of(tower: "Vision | Text") -> Iterator[Block]:
    """Iterate over a tower's blocks."""
    for block in tower.blocks:
        assert isinstance(block, Block)
        yield block


class Vision(nn.Module):
    """The image tower: patches to one feature."""

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
        if edit is None and images.device.type == "cpu" and not torch.is_grad_enabled():
            # Pictures are independent; a few at a time fit into the CPU caches.
            return torch.cat([self._features(chunk) for chunk in images.split(self.at_once)])
        return self._features(images, edit)

    def _features(self, images: Images, edit: Edit | None = None) -> Float[Tensor, "batch dim"]:
        return self.pool(self.encode(self.tokens(images), edit, only=1)[:, 0])

    @property
    def at_once(self) -> int:
        """Number of pictures that pass through the blocks together on a CPU without gradients."""
        return max(1, _HIDDEN // (len(self.pos) * next(blocks_of(self)).fc.out_features))

    def tokens(self, images: Images) -> Float[Tensor, "batch tokens channels"]:
        """Return the tokens `[CLS, patches]` with positions, before `ln_pre`."""
        patches = self.patches(images.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(patches.shape[0], 1, -1), patches], dim=1) + self.pos

    def encode(self, tokens: Tokens, edit: Edit | None = None, *, only: int | None = None) -> Grown:
        """Run `ln_pre` and the blocks.

        Args:
            tokens: As `tokens` returns them.
            edit: May change tokens before each block.
            only: Number of tokens, from the first, that are returned; None: all of them. The last block
                then does less.
        """
        return run_blocks(self.blocks, self.ln_pre(tokens), edit, only)

    def pool(self, token: Float[Tensor, "*rest width"]) -> Float[Tensor, "*rest dim"]:
        """Project output tokens (usually the class token) into the shared space."""
        return self.ln_post(token) @ self.proj


class Text(nn.Module):
    """The text tower: token ids to one feature. Attention is causal."""

    def __init__(self, config: ClipConfig):
        super().__init__()
        width = config.text.width
        # No random init: on the meta device, it would import all of `torch._dynamo`, which takes a
        # second.
        self.token = nn.Embedding.from_pretrained(torch.empty(config.vocab, width), freeze=False)
        self.pos = nn.Parameter(torch.empty(config.context, width))
        self.blocks = nn.ModuleList(
            Block(config.text, quick_gelu=config.quick_gelu, causal=True) for _ in range(config.text.layers)
        )
        self.ln_final = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed))

    def forward(self, ids: TokenIds, edit: Edit | None = None) -> Float[Tensor, "rows dim"]:
        # The tower is causal: tokens after the last EOT have no effect and are not encoded.
        eot = ids.argmax(dim=-1)
        ids = ids[:, : int(eot.max()) + 1]
        return self.pool(self.encode(self.token(ids), edit), eot)

    def encode(self, tokens: Tokens, edit: Edit | None = None) -> Grown:
        """Add positions to token embeddings and run the blocks."""
        return run_blocks(self.blocks, tokens + self.pos[: tokens.shape[1]], edit)

    def pool(self, tokens: Tokens, eot: Int[Tensor, " rows"]) -> Float[Tensor, "rows dim"]:
        """Read the feature at each row's EOT, wherever an edit has moved it."""
        rows = torch.arange(tokens.shape[0], device=tokens.device)
        return self.ln_final(tokens[rows, eot]) @ self.proj


class Clip(nn.Module):
    """Both towers and the temperature. Build it with `load_clip`, or with `Clip(config).initialise(g)`.

    Args:
        config: All sizes.
        tokenizer: Tokenizer of the training texts; None uses OpenAI's if the vocabulary has its size.

    Attributes:
        weight_file: File of all weights that it was loaded from; None for several files, or none.
    """

    def __init__(self, config: ClipConfig, tokenizer: ClipTokenizer | None = None):
        super().__init__()
        if tokenizer and tokenizer.vocab > config.vocab:
            raise InputError(f"the tokenizer has {tokenizer.vocab} tokens, the text tower {config.vocab}")
        if tokenizer and tokenizer.context != config.context:
            tokenizer = ClipTokenizer(tokenizer.bpe, config.context)
        self.config, self.vision, self.text = config, Vision(config), Text(config)
        self.logit_scale = nn.Parameter(torch.empty(()))
        self._tokenizer, self._fingerprint = tokenizer, ((), "")
        self.weight_file: Path | None = None
        self._origin: tuple[object, str | None] = ((), None)

    @classmethod
    def from_state_dict(
        cls,
        mapping: Mapping[str, object],
        *,
        heads: tuple[int, int] | None = None,
        quick_gelu: bool | None = None,
        mean: Triple | None = None,
        std: Triple | None = None,
        tokenizer: ClipTokenizer | None = None,
        dtype: torch.dtype | None = None,
    ) -> "Clip":
        """Build a frozen CLIP from weights with names of OpenAI, open_clip, Hugging Face or foveate.

        Args:
            mapping: Tensors or arrays by name; tensors may be shared instead of copied.
            heads: Number of heads of the image and the text tower; None: heads of width 64 (wider in
                open_clip's largest models).
            quick_gelu: None: True as in OpenAI's weights; False for image towers from ViT-H upwards.
            mean: Channel means of pictures; None: OpenAI's.
            std: Channel standard deviations of pictures; None: OpenAI's.
            tokenizer: See the class.
            dtype: Precision of the towers; None: float32, or float64 if all tensors are.

        Raises:
            InputError: The weights are not a CLIP with two plain transformers, or are incomplete.
        """
        layout, tensors = to_ours(mapping, dtype)
        config = infer_config(tensors, layout, heads=heads, quick_gelu=quick_gelu, mean=mean, std=std)
        return cls.assemble(config, tensors, layout, tokenizer)

    @classmethod
    def assemble(
        cls,
        config: ClipConfig,
        tensors: dict[str, Tensor],
        layout: Layout = OURS,
        tokenizer: ClipTokenizer | None = None,
    ) -> "Clip":
        """Load tensors with foveate's names into a frozen CLIP of these sizes, without copying them.

        Raises:
            InputError: A tensor is missing, unexpected, or of another shape; the message uses the names
                of `layout`.
        """
        with torch.device("meta"):
            clip = cls(config, tokenizer)
        check_shapes(tensors, {name: t.shape for name, t in clip.state_dict().items()}, layout)
        clip.load_state_dict(tensors, assign=True)
        return clip.eval().requires_grad_(False)

    @property
    def tokenizer(self) -> ClipTokenizer:
        """Converts texts to the token ids of this CLIP.

        Raises:
            InputError: No tokenizer was given and the vocabulary is not OpenAI's.
        """
        if self._tokenizer is None:
            if self.config.vocab != OPENAI_VOCAB:
                raise InputError(f"no tokenizer for a vocabulary of {self.config.vocab}: give Clip one")
            self._tokenizer = ClipTokenizer.openai(self.config.context)
        return self._tokenizer

    @property
    def precision(self) -> str:
        """Name of the precision of the towers, e.g. "float32"."""
        return str(self.text.proj.dtype).removeprefix("torch.")

    def fingerprint(self) -> str:
        """Return 16 hex digits that identify these weights in this precision, and these sizes.

        The value is cached until a tensor is moved or changed in place. For tensors loaded from a file, it is
        also stored on disk for later processes; see `fingerprints`.
        """
        state = self._state()
        if self._fingerprint[0] != state:
            key = self._origin[1] if self._origin[0] == state else None
            digest = fingerprints.read(key)
            if digest is None:
                digest = self._hash()
                fingerprints.keep(key, digest)
            self._fingerprint = (state, digest)
        return self._fingerprint[1]

    def loaded(self) -> "Clip":
        """Record that all tensors now equal those of `weight_file`, in their present precision."""
        files = [] if self.weight_file is None else [self.weight_file]
        dtypes = sorted({str(tensor.dtype) for tensor in self.state_dict().values()})
        self._origin = self._state(), fingerprints.key_of(files, self.config, dtypes)
        return self

    def _state(self) -> object:
        """Return addresses and version counters of all tensors."""
        # Tensors created in inference mode have no version counter and cannot be changed outside it.
        tensors = sorted(self.state_dict().items())
        return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for _, t in tensors)

    def _hash(self) -> str:
        digest = hashlib.sha256(repr(self.config).encode())
        for name, tensor in in_passing(sorted(self.state_dict().items())):
            digest.update(f"{name} {tensor.dtype}".encode())
            digest.update(bytes_of(tensor))
        return digest.hexdigest()[:16]

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Factor of the cosines; 100 in OpenAI's weights."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> "Clip":
        """Initialise all tensors as CLIP does, with random values from `generator`."""
        for tower, size in ((self.vision, self.config.vision), (self.text, self.config.text)):
            for name, tensor in tower.named_parameters():
                tensor.normal_(0.0, 1.0, generator=generator).mul_(_initial_std(name, size))
                if "ln_" in name and name.endswith("weight"):
                    tensor.fill_(1.0)
        self.text.pos.mul_(0.01 * self.config.text.width**0.5)  # tokens outweigh positions (0.02 to 0.01)
        self.logit_scale.fill_(torch.tensor(1 / 0.07).log())
        return self


def _initial_std(name: str, size: TowerConfig) -> float:
    """Return the standard deviation of CLIP's initialisation (Radford et al. 2021, section 2.5, and code)."""
    if "ln_" in name or name.endswith("bias"):
        return 0.0
    if name == "token.weight":
        return 0.02
    std = size.width**-0.5
    if name.endswith((".proj.weight", ".out.weight")):
        return std * (2 * size.layers) ** -0.5  # each block adds to the residual stream twice
    return std * 2**-0.5 if name.endswith(".fc.weight") else std
