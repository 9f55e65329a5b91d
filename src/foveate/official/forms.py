"""Checks the shapes of checkpoint tensors against those of the authors' code."""

import re

from foveate.errors import InputError
from foveate.official.recognise import Tensors

_AXES = {
    "ctx": (2, 3),
    "image_encoder.VPT": (2,),
    "token_prefix": (3,),
    "token_suffix": (3,),
    "prompt_embeddings": (3,),
    "proj.weight": (2,),
    "meta_net.linear1.weight": (2,),
    "meta_net.linear2.weight": (2,),
    "image_encoder.proj_rep": (2,),
    "representation_learner.compound_rep_tokens": (2,),
    "representation_learner.compound_rep_tokens_r2tproj.0.weight": (2,),
    "representation_learner.compound_rep_tokens_r2vproj.0.weight": (2,),
}
"""Number of dimensions of a tensor, by name."""

_STACKED = (
    "VPT_shallow",
    "compound_prompts_text",
    "cross_prompts_text",
    "cross_prompts_visual",
    "proxy_token",
)
"""Name parts of tensors that have the same shape in all blocks."""


def check_forms(tensors: Tensors) -> None:
    """Refuse tensors of wrong shape early, with a clear message.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.

    Raises:
        InputError: The message gives the tensor and its shape.
    """
    first_shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        stacked = any(part in name for part in _STACKED)
        expected = first_shapes.setdefault(re.sub(r"\d+", "", name), shape) if stacked else shape
        axes = (2,) if stacked else _AXES.get(name, (tensor.ndim,))
        if tensor.ndim not in axes or shape != expected or (name in _AXES and not tensor.numel()):
            raise InputError(f"has {name} of shape {list(shape)}: damaged, or of other code?")
