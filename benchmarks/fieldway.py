"""Reference implementation ("the field's way"): backbones as in the released code of the methods, rewritten.

`speed.py` compares foveate with it, and it is an independent reference for foveate's numbers. By design
it has:

- towers of `nn.MultiheadAttention`, tokens first, with an additive causal mask (`fieldway_towers.py`);
- the whole context of 77 tokens for each class, in each step and for each test batch;
- pictures decoded and encoded in each step, even for frozen towers (`fieldway_stage.py`);
- one more pass of the frozen image tower if a method compares with it.

Weights and learned tensors come from foveate's `Clip` and methods (the towers are not copied), so both
implementations must give the same numbers: see `tests/test_fieldway.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldway_towers import FieldClip, causal_mask
from foveate.clip.templates import IMAGENET_TEMPLATES
from foveate.methods.base import Method
from foveate.methods.coop import CoOp
from foveate.methods.kgcoop import KgCoOp
from foveate.methods.mmrl import Mmrl
from foveate.methods.promptsrc import PromptSRC


def unit(x: Tensor) -> Tensor:
    """Return rows normalised to norm 1."""
    return x / x.norm(dim=-1, keepdim=True)


def learn(tensor: Tensor) -> Tensor:
    """Return a trainable copy."""
    return tensor.detach().clone().requires_grad_()


class FieldMethod(ABC):
    """One backbone in the reference implementation.

    Args:
        clip: The towers.
        ours: Foveate's method with its classes set; learned tensors start from its values.
        template: The data set's template.
    """

    def __init__(self, clip: FieldClip, ours: Method, template: str = "a photo of a {}."):
        self.clip, self.template = clip, template
        self.names = [name.replace("_", " ") for name in ours.names]
        self.learned: dict[str, Tensor] = {name: learn(tensor) for name, tensor in ours.learned().items()}

    @abstractmethod
    def texts(self) -> Tensor:
        """Return the text features `[C, D]` of all classes."""

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a step."""

    def pictures(self, images: Tensor) -> Tensor:
        """Return picture features `[B, D]`."""
        return self.clip.pictures(images)

    def logits(self, images: Tensor) -> Tensor:
        """Return logits `[B, C]`; all classes are encoded for them."""
        return self.clip.scale * unit(self.pictures(images)) @ unit(self.texts()).t()

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Return the loss of a step; gradients stay in the learned tensors."""
        for tensor in self.learned.values():
            tensor.grad = None
        loss = self.loss(images, labels)
        loss.backward()
        return loss.item()


class _FieldPrompts(FieldMethod):
    """Learned vectors after SOT, shared by all classes; token buffers for the rest of the context."""

    def __init__(self, clip: FieldClip, ours: CoOp | KgCoOp | PromptSRC, template: str = "a photo of a {}."):
        super().__init__(clip, ours, template)
        vectors = len(self.learned["ctx"])
        words = ours.config.init or " ".join(["X"] * vectors)
        self.prompt_ids = clip.ids([f"{words} {name}." for name in self.names])
        with torch.no_grad():
            embedded = clip.embed(self.prompt_ids)
        self.prefix, self.suffix = embedded[:, :1], embedded[:, 1 + vectors :]

    def prompts(self, which: slice = slice(None)) -> Tensor:
        """Return prompts `[C, 77, W]`: SOT, vectors, the rest."""
        prefix, suffix = self.prefix[which], self.suffix[which]
        ctx = self.learned["ctx"].to(prefix.dtype).unsqueeze(0).expand(len(prefix), -1, -1)
        return torch.cat([prefix, ctx, suffix], dim=1)

    def texts(self, which: slice = slice(None)) -> Tensor:
        """Return text features `[C, D]` of all classes or of some."""
        return self.clip.read(self.prompts(which), self.prompt_ids[which])


class FieldCoOp(_FieldPrompts):
    """Cross-entropy, with gradients to the vectors."""

    def __init__(self, clip: FieldClip, ours: CoOp, template: str = "a photo of a {}."):
        super().__init__(clip, ours, template)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.logits(images), labels)


class FieldKgCoOp(_FieldPrompts):
    """The same, and a pull towards the features of the data set's template, which are computed once."""

    def __init__(self, clip: FieldClip, ours: KgCoOp, template: str = "a photo of a {}."):
        super().__init__(clip, ours, template)
        self.weight = ours.config.weight
        with torch.no_grad():
            self.plain = unit(clip.sentences([template.format(name) for name in self.names]))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text = unit(self.texts())
        logits = self.clip.scale * unit(self.pictures(images)) @ text.t()
        pull = 1 - F.cosine_similarity(text, self.plain, dim=1).mean()
        return F.cross_entropy(logits, labels) + self.weight * pull


class FieldPromptSRC(_FieldPrompts):
    """Learned tokens in both towers; its targets need one more pass of the frozen image tower."""

    def __init__(self, clip: FieldClip, ours: PromptSRC, template: str = "a photo of a {}."):
        super().__init__(clip, ours, template)
        self.weights = ours.weights
        with torch.no_grad():  # mean of raw features over 60 templates
            by_sentence = [clip.sentences([t.format(n) for n in self.names]) for t in IMAGENET_TEMPLATES]
            self.plain = unit(torch.stack(by_sentence).mean(dim=0))

    def texts(self, which: slice = slice(None)) -> Tensor:
        def overwrite(layer: int, x: Tensor) -> Tensor:  # x is [L, N, W]
            deep = self.learned["deep_text"]
            if not 1 <= layer <= len(deep):
                return x
            tokens = deep[layer - 1].unsqueeze(1).expand(-1, x.shape[1], -1)
            return torch.cat([x[:1], tokens, x[1 + len(tokens) :]], dim=0)

        return self.clip.read(self.prompts(which), self.prompt_ids[which], overwrite)

    def pictures(self, images: Tensor) -> Tensor:
        def overwrite(layer: int, x: Tensor) -> Tensor:
            deep = self.learned["deep_vision"]
            if not 1 <= layer <= len(deep):
                return x
            tokens = deep[layer - 1].unsqueeze(1).expand(-1, x.shape[1], -1)
            return torch.cat([x[: x.shape[0] - len(tokens)], tokens], dim=0)

        x, vision = self.clip.patches(images), self.clip.ours.vision
        x = torch.cat([x, self.learned["vision_ctx"].expand(len(x), -1, -1)], dim=1)
        return vision.ln_post(self.clip.see(x, overwrite)[:, 0, :]) @ vision.proj

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        text, image = unit(self.texts()), unit(self.pictures(images))
        with torch.no_grad():
            plain = unit(self.clip.pictures(images))
            plain_logits = self.clip.scale * plain @ self.plain.t()
        logits = self.clip.scale * image @ text.t()
        text_weight, image_weight, logit_weight = self.weights
        kl = F.kl_div(
            F.log_softmax(logits, dim=1), F.log_softmax(plain_logits, dim=1), reduction="sum", log_target=True
        )
        return (
            F.cross_entropy(logits, labels)
            + text_weight * F.l1_loss(text, self.plain)
            + image_weight * F.l1_loss(image, plain)
            + logit_weight * kl / logits.numel()
        )


class FieldMmrl(FieldMethod):
    """Tokens inserted in the upper blocks of both towers; each of them builds the causal mask again."""

    def __init__(self, clip: FieldClip, ours: Mmrl, template: str = "a photo of a {}."):
        super().__init__(clip, ours, template)
        self.config, self.first = ours.config, ours.first_block - 1  # counted from 0
        self.blocks = len(ours.text_maps)
        self.ids = clip.ids([template.format(name) for name in self.names])
        with torch.no_grad():
            self.embedded = clip.embed(self.ids)
            self.plain = unit(clip.sentences([template.format(name) for name in self.names]))

    def mapped(self, tower: str, k: int) -> Tensor:
        """Return the shared tokens after a block's projection, `[tokens, W]`."""
        weight, bias = (self.learned[f"{tower}_maps.{k}.{kind}"] for kind in ("weight", "bias"))
        return F.linear(self.learned["tokens"], weight, bias)

    def with_tokens(self, tower: str, layer: int, x: Tensor) -> Tensor:
        """Insert tokens after the first position of `[L, N, W]`, or overwrite those of the block before."""
        k = layer - self.first
        if not 0 <= k < self.blocks:
            return x
        tokens = self.mapped(tower, k).unsqueeze(1).expand(-1, x.shape[1], -1)
        return torch.cat([x[:1], tokens, x[1 if k == 0 else 1 + len(tokens) :]], dim=0)

    def texts(self) -> Tensor:
        clip = self.clip
        x = (self.embedded + clip.ours.text.pos).permute(1, 0, 2)
        for layer, block in enumerate(clip.text_blocks):
            x = self.with_tokens("text", layer, x)
            grown = x.shape[0] != clip.mask.shape[0]
            mask = causal_mask(x.shape[0]).to(clip.mask) if grown else clip.mask
            x = block(x, mask)
        return clip.read_out(x.permute(1, 0, 2), self.ids.argmax(dim=-1) + len(self.learned["tokens"]))

    def both_pictures(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `[B, D]` of the class token and of the inserted tokens."""
        vision = self.clip.ours.vision
        x = self.clip.see(self.clip.patches(images), lambda layer, x: self.with_tokens("vision", layer, x))
        own = vision.ln_post(x[:, 1 : 1 + len(self.learned["tokens"])]).mean(dim=1)
        return vision.ln_post(x[:, 0, :]) @ vision.proj, own @ self.learned["proj_rep"]

    def pictures(self, images: Tensor) -> Tensor:
        return self.both_pictures(images)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Return the fused logits."""
        text, alpha = unit(self.texts()), self.config.alpha
        by_class, by_tokens = (self.clip.scale * unit(f) @ text.t() for f in self.both_pictures(images))
        return alpha * by_class + (1 - alpha) * by_tokens

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        alpha, pull = self.config.alpha, self.config.regulariser
        text = unit(self.texts())
        by_class, by_tokens = (unit(f) for f in self.both_pictures(images))
        with torch.no_grad():
            plain = unit(self.clip.pictures(images))
        return (
            alpha * F.cross_entropy(self.clip.scale * by_class @ text.t(), labels)
            + (1 - alpha) * F.cross_entropy(self.clip.scale * by_tokens @ text.t(), labels)
            + pull * (1 - F.cosine_similarity(by_class, plain, dim=1).mean())
            + pull * (1 - F.cosine_similarity(text, self.plain, dim=1).mean())
        )


FIELD = {"coop": FieldCoOp, "kgcoop": FieldKgCoOp, "promptsrc": FieldPromptSRC, "mmrl": FieldMmrl}


@torch.no_grad()
def evaluate(method: FieldMethod, batches: Iterable[Tensor]) -> Tensor:
    """Return the logits of all test batches; the class texts are encoded again for each batch."""
    return torch.cat([method.logits(images) for images in batches])
