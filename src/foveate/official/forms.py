"""Whether the tensors of a checkpoint have the forms that the authors' code gives them."""

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
"""How many axes a tensor has, by its name."""

_STACKED = ("VPT_shallow", "compound_prompts_text")
"""In the names of tensors that all blocks have alike."""


def check_forms(tensors: Tensors) -> None:
    """Refuse tensors that could only fail later, in words that nobody understands.

    Args:
        tensors: By name; see `Checkpoint.tensors`.

    Raises:
        InputError: It names the tensor and its shape.
    """
    alike: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        stacked = any(part in name for part in _STACKED)
        expected = alike.setdefault(re.sub(r"\d+", "", name), shape) if stacked else shape
        axes = (2,) if stacked else _AXES.get(name, (tensor.ndim,))
        if tensor.ndim not in axes or shape != expected or (name in _AXES and not tensor.numel()):
            raise InputError(f"has {name} of shape {list(shape)}: damaged, or of other code?")
