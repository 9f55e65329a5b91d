"""Maps tensor names between three layouts: OpenAI's (also open_clip's), Hugging Face's, and foveate's.

This module only changes names and shapes; it reads no file. `theirs` is the name in a checkpoint, `ours`
is the name in `Clip.state_dict()`.

- OpenAI: https://github.com/openai/CLIP, open_clip: https://github.com/mlfoundations/open_clip
- Hugging Face: https://huggingface.co/docs/transformers/model_doc/clip
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.memory import in_passing

Tensors = dict[str, Tensor]
Item = TypeVar("Item")

_WRAPPED = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts that `torch.compile`, FSDP and activation checkpointing add to names."""

_PARTS = frozenset(
    (
        *("", "visual", "transformer", "vision", "text", "vision_model", "text_model", "token_embedding"),
        *("image_encoder", "text_encoder", "prompt_learner", "representation_learner", "ln_final"),
        *("compound_prompts_text", "compound_prompt_projections", "meta_net", "proj"),
    )
)
"""A common first part of all names that is one of these is not a wrapper."""

# Entries of checkpoints that are not weights: index buffers, causal masks, OpenAI's sizes.
_NO_WEIGHTS = re.compile(r"(.*\.)?(position_ids|attn_mask|input_resolution|context_length|vocab_size)")
_NORMS = {"ln_1.": "ln_1.", "ln_2.": "ln_2."}


@dataclass(frozen=True)
class Layout:
    """Tensor names of one family of checkpoints.

    Attributes:
        name: Name in messages.
        marker: Prefix that occurs in this layout and in no other.
        single: theirs -> ours, for tensors (or modules, with a final dot) outside the blocks.
        towers: theirs -> ours, the part before a block's number.
        inside: theirs -> ours, the part after a block's number.
        separate: Whether queries, keys and values are separate tensors.
        transposed: Whether the two projections have shape `[embed, width]`.
    """

    name: str
    marker: str
    single: dict[str, str]
    towers: dict[str, str]
    inside: dict[str, str]
    separate: bool = False
    transposed: bool = False

    def ours(self, name: str) -> str | None:
        """Return our name of their tensor; None if there is no such tensor."""
        for theirs, ours in self.towers.items():
            number, dot, rest = name.removeprefix(theirs).partition(".")
            if name.startswith(theirs) and number.isdecimal() and dot:
                inside = _lookup(rest, self.inside)
                return inside and f"{ours}{number}.{inside}"
        return _lookup(name, self.single)

    def theirs(self, name: str) -> str:
        """Return their name of our tensor; if `qkv` is three tensors there, the name of the queries."""
        name = name.replace(".qkv.", ".q.") if self.separate else name
        for theirs, ours in self.towers.items():
            if name.startswith(ours):
                number, _, rest = name.removeprefix(ours).partition(".")
                return f"{theirs}{number}.{_lookup(rest, _inverted(self.inside))}"
        return _lookup(name, _inverted(self.single)) or name


def _lookup(name: str, table: Mapping[str, str]) -> str | None:
    """Look up a whole name, or its prefix for entries that end in a dot (or an underscore)."""
    if name in table and not name.endswith("."):
        return table[name]
    for old, new in table.items():
        if old.endswith((".", "_")) and name.startswith(old):
            return new + name.removeprefix(old)
    return None


def _inverted(table: Mapping[str, str]) -> dict[str, str]:
    return {new: old for old, new in table.items()}


OURS = Layout(
    name="foveate",
    marker="vision.",
    single={
        **{f"vision.{x}": f"vision.{x}" for x in ("patches.", "cls", "pos", "ln_pre.", "ln_post.", "proj")},
        **{f"text.{x}": f"text.{x}" for x in ("token.", "pos", "ln_final.", "proj")},
        "logit_scale": "logit_scale",
    },
    towers={"vision.blocks.": "vision.blocks.", "text.blocks.": "text.blocks."},
    inside={**_NORMS, "qkv.": "qkv.", "proj.": "proj.", "fc.": "fc.", "out.": "out."},
)
OPENAI = Layout(
    name="OpenAI",
    marker="visual.",
    single={
        "visual.conv1.": "vision.patches.",
        "visual.class_embedding": "vision.cls",
        "visual.positional_embedding": "vision.pos",
        "visual.ln_pre.": "vision.ln_pre.",
        "visual.ln_post.": "vision.ln_post.",
        "visual.proj": "vision.proj",
        "token_embedding.": "text.token.",
        "positional_embedding": "text.pos",
        "ln_final.": "text.ln_final.",
        "text_projection": "text.proj",
        "logit_scale": "logit_scale",
    },
    towers={"visual.transformer.resblocks.": "vision.blocks.", "transformer.resblocks.": "text.blocks."},
    inside={
        **_NORMS,
        "attn.in_proj_": "qkv.",
        "attn.out_proj.": "proj.",
        "mlp.c_fc.": "fc.",
        "mlp.c_proj.": "out.",
    },
)
HUGGING_FACE = Layout(
    name="Hugging Face",
    marker="vision_model.",
    single={
        "vision_model.embeddings.patch_embedding.": "vision.patches.",
        "vision_model.embeddings.class_embedding": "vision.cls",
        "vision_model.embeddings.position_embedding.weight": "vision.pos",
        "vision_model.pre_layrnorm.": "vision.ln_pre.",
        "vision_model.post_layernorm.": "vision.ln_post.",
        "visual_projection.weight": "vision.proj",
        "text_model.embeddings.token_embedding.": "text.token.",
        "text_model.embeddings.position_embedding.weight": "text.pos",
        "text_model.final_layer_norm.": "text.ln_final.",
        "text_projection.weight": "text.proj",
        "logit_scale": "logit_scale",
    },
    towers={"vision_model.encoder.layers.": "vision.blocks.", "text_model.encoder.layers.": "text.blocks."},
    inside={
        "layer_norm1.": "ln_1.",
        "layer_norm2.": "ln_2.",
        "self_attn.q_proj.": "q.",
        "self_attn.k_proj.": "k.",
        "self_attn.v_proj.": "v.",
        "self_attn.out_proj.": "proj.",
        "mlp.fc1.": "fc.",
        "mlp.fc2.": "out.",
    },
    separate=True,
    transposed=True,
)
LAYOUTS = (OURS, OPENAI, HUGGING_FACE)


def find_layout(names: Iterable[str]) -> Layout:
    """Return the layout of a checkpoint from its tensor names.

    Raises:
        InputError: The layout is unknown, or the model is not a CLIP with two plain transformers.
    """
    names = list(names)
    for marker, architecture in (("visual.layer1.", "a ResNet"), ("visual.trunk.", "a timm model")):
        if any(name.startswith(marker) for name in names):
            raise InputError(
                f"its image tower is {architecture}, which is not supported: take a CLIP with a ViT"
            )
    for layout in LAYOUTS:
        if any(name.startswith(layout.marker) for name in names):
            if layout.theirs("vision.cls") not in names:
                missing = layout.theirs("vision.cls")
                raise InputError(f"has no class token ({missing}): SigLIP and the like are not supported")
            return layout
    for class_token in ("visual.class_embedding", "vision_model.embeddings.class_embedding", "vision.cls"):
        nested = next((name for name in names if name.endswith(f".{class_token}")), None)
        if nested:
            prefix = nested.removesuffix(class_token)
            outside = next(name for name in names if not name.startswith(prefix))
            raise InputError(
                f"holds a CLIP under the prefix {prefix!r}, and {outside} beside it: save that part's"
                " state_dict() alone"
            )
    first = ", ".join(names[:3]) or "nothing"
    raise InputError(f"holds no CLIP in OpenAI's, open_clip's, Hugging Face's or our layout, but {first}")


def without_wrappers(mapping: Mapping[str, Item]) -> dict[str, Item]:
    """Remove the prefixes of model wrappers from tensor names: "module._orig_mod.model.".

    A first part that all names share is a wrapper's, unless it is a part of CLIP or of a tuned prompt.

    Raises:
        InputError: Two tensors then have the same name.
    """
    unwrapped: dict[str, Item] = {}
    for name, value in mapping.items():
        bare = _WRAPPED.sub("", name).removeprefix("module.")
        if bare in unwrapped:
            raise InputError(f"has {bare} twice, once in a wrapper ({name}): save one of them alone")
        unwrapped[bare] = value
    first_parts = {name.partition(".")[0] if "." in name else "" for name in unwrapped}
    if len(first_parts) == 1 and first_parts.isdisjoint(_PARTS):
        return without_wrappers({name.partition(".")[2]: value for name, value in unwrapped.items()})
    return unwrapped


def check_kind(name: str, tensor: Tensor) -> None:
    """Refuse tensors of integers, booleans and complex numbers.

    Raises:
        InputError: The message names the tensor.
    """
    if not tensor.is_floating_point():
        raise InputError(
            f"{name} holds {tensor.dtype}, not real numbers: quantised weights are not supported"
        )


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot be weights: integers, booleans, complex numbers, NaN and infinity.

    Raises:
        InputError: The message names the first such tensor.
    """
    for name, tensor in in_passing(tensors.items()):
        check_kind(name, tensor)
        if tensor.is_meta or not tensor.numel():
            continue
        if not all(end.isfinite() for end in tensor.aminmax()):  # in one pass, without a copy; NaN stays NaN
            bad = int((~tensor.isfinite()).sum())
            raise InputError(
                f"{name} has {bad} numbers of {tensor.numel()} that are not finite (NaN or infinity): take a"
                " copy that is whole"
            )


def in_precision(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a weight in another precision; a single number, such as the temperature, keeps float32.

    Args:
        name: Name of the weight, for the message.
        tensor: The weight; integers are not converted.
        dtype: The precision; None returns the tensor itself.

    Raises:
        InputError: A number is too large for the precision.
    """
    if dtype is None or not tensor.is_floating_point():
        return tensor
    # exp(4.6052) is 100; in bfloat16 it would be 99.
    converted = tensor.to(dtype if tensor.numel() > 1 else torch.promote_types(dtype, torch.float32))
    if (
        converted.dtype != tensor.dtype
        and not converted.is_meta
        and converted.isinf().any()
        and tensor.isfinite().all()
    ):
        raise InputError(f"{name} does not fit into {dtype}: load it in float32")
    return converted


def to_ours(mapping: Mapping[str, object], dtype: torch.dtype | None = None) -> tuple[Layout, Tensors]:
    """Rename, join and transpose the tensors of a checkpoint for foveate.

    Args:
        mapping: Tensors or NumPy arrays by name. The result may share memory with tensors.
        dtype: Precision of the result; None is float32, or float64 if all tensors are.

    Raises:
        InputError: The layout is unknown, a tensor is unexpected, or a value is not a tensor.
    """
    bare = without_wrappers(mapping)
    layout = find_layout(bare)
    tensors: Tensors = {}
    for name, value in bare.items():
        if _NO_WEIGHTS.fullmatch(name):
            continue
        # open_clip puts some text towers into a separate module.
        ours = layout.ours(name.removeprefix("text.") if layout is OPENAI else name)
        if ours is None:
            raise InputError(f"has a tensor that a plain CLIP has not ({name}): its architecture differs")
        tensors[ours] = _tensor(name, value)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    dtype = dtype or (torch.float64 if dtypes == {torch.float64} else torch.float32)
    tensors = {name: in_precision(name, tensor, dtype) for name, tensor in tensors.items()}
    check_numbers({layout.theirs(name): tensor for name, tensor in tensors.items()})
    if layout.separate:
        _join(tensors, layout)
    if layout.transposed:
        tensors |= {
            projection: tensors[projection].t().contiguous()
            for projection in ("vision.proj", "text.proj")
            if projection in tensors
        }
    if "logit_scale" in tensors and tensors["logit_scale"].numel() == 1:
        tensors["logit_scale"] = tensors["logit_scale"].reshape(())
    return layout, tensors


def _tensor(name: str, value: object) -> Tensor:
    # The memory of NumPy arrays may be read-only, which tensors do not support: copy it.
    is_array = isinstance(value, np.ndarray | np.generic)
    tensor = torch.tensor(np.array(cast(object, value))) if is_array else value
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is a {type(value).__name__}, not a tensor: give a plain state dict")
    check_kind(name, tensor)
    return tensor.detach()


def _join(tensors: Tensors, layout: Layout) -> None:
    """Replace `q`, `k` and `v` by `qkv`, in place."""
    for name in [name for name in tensors if ".q." in name]:
        parts = [need(tensors, name.replace(".q.", f".{x}."), layout) for x in "qkv"]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"{layout.theirs(name)} has another shape than its keys and values")
        tensors[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    for name in [name for name in tensors if re.search(r"\.[qkv]\.(weight|bias)$", name)]:
        del tensors[name]


def need(tensors: Tensors, name: str, layout: Layout) -> Tensor:
    """Return one of our tensors; if it is missing, raise an error with its name in the checkpoint."""
    if name not in tensors:
        raise InputError(f"{layout.theirs(name)} is missing: the checkpoint is no whole CLIP")
    return tensors[name]


def to_layout(tensors: Mapping[str, Tensor], layout: Layout) -> Tensors:
    """Rename our tensors (`Clip.state_dict()`) for another library."""
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        if layout.transposed and name in ("vision.proj", "text.proj"):
            renamed[layout.theirs(name)] = tensor.t().contiguous()
        elif layout.separate and ".qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[layout.theirs(name.replace(".qkv.", f".{letter}."))] = part.clone()
        else:
            renamed[layout.theirs(name)] = tensor
    return renamed
