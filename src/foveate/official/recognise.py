"""Detects the method of a checkpoint from the names of its tensors.

- CoOp and CoCoOp: https://github.com/KaiyangZhou/CoOp, KgCoOp: https://github.com/htyao89/KgCoOp,
  ProGrad: https://github.com/BeierZhu/Prompt-align
- MaPLe, IVLP and VPT: https://github.com/muzairkhattak/multimodal-prompt-learning,
  PromptSRC: https://github.com/muzairkhattak/PromptSRC
- MMRL: https://github.com/yunncheng/MMRL
- HiCroPL: https://github.com/zzeoZheng/HiCroPL
"""

from collections.abc import Mapping

from torch import Tensor

from foveate.errors import InputError
from foveate.methods.registry import parts
from foveate.official import METHODS

_CLIP = ("visual.", "vision_model.", "text_model.", "vision.blocks.", "token_embedding.")
_TOWERS = ("image_encoder.", "text_encoder.")

Tensors = Mapping[str, Tensor]


def choose_method(tensors: Tensors, requested: str | None = None) -> str:
    """Return the method of a checkpoint.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.
        requested: The method that the user gave, if any; see `importable`.

    Raises:
        InputError: The method is unknown, differs from the given one, or is ambiguous.
    """
    matches = candidates(tensors)
    if not matches:
        raise InputError(_foreign(tensors))
    if requested in matches:
        return requested
    if requested is not None:
        raise InputError(
            f"looks like a checkpoint of {' or '.join(matches)}, not of {requested}: give --method"
            f" {matches[0]}"
        )
    if len(matches) > 1:
        raise InputError(
            f"could be of {', '.join(matches[:-1])} or {matches[-1]}, which save the same tensors: say which"
            f" with --method {matches[0]} or another"
        )
    return matches[0]


def candidates(tensors: Tensors) -> list[str]:
    """Return the methods that save tensors with these names."""
    if any(name.endswith("compound_rep_tokens") for name in tensors):
        # MMRL++ has projections that blocks share.
        return ["mmrl"] if any(name.endswith("r2vproj.0.weight") for name in tensors) else []
    if "ctx" in tensors:
        return _with_context(tensors)
    return ["vpt"] if "image_encoder.VPT" in tensors else []


def _with_context(tensors: Tensors) -> list[str]:
    if "text2visual_net.linear_q.weight" in tensors:
        return ["hicropl"]
    if "proj.weight" in tensors or any("compound_prompt" in name for name in tensors):
        return ["maple"]
    if "meta_net.linear2.weight" in tensors:
        # TCP also has such a network, but its output is several vectors.
        fits = len(tensors["meta_net.linear2.weight"]) == tensors["ctx"].shape[-1]
        return ["cocoop"] if fits else []
    if "bias_vectors" in tensors or "meta_net.linear1.weight" in tensors:
        return ["kgcoop"]
    if any("ZS_image_encoder." in name for name in tensors):
        return ["promptsrc"]
    if any(name.startswith(_TOWERS) for name in tensors):
        frozen = any(name.startswith(_TOWERS) and "VPT" not in name for name in tensors)
        return ["ivlp"] if frozen else ["ivlp", "promptsrc"]  # both methods learn the same tensors
    if tensors["ctx"].ndim == 3:  # one set for each class
        return ["coop"]
    return ["coop", "prograd", "kgcoop"]


def importable(method: str) -> str:
    """Return the method that the user gave.

    Raises:
        InputError: The method does not exist, or its checkpoints cannot be imported.
    """
    *plugins, backbone = parts(method)
    if plugins:
        raise InputError(
            f"{method} is a plug-in over a backbone: import the backbone, with --method {backbone}"
        )
    if backbone not in METHODS:
        raise InputError(f"there are no checkpoints of {backbone} to import; there are {', '.join(METHODS)}")
    return backbone


def _foreign(tensors: Tensors) -> str:
    if any(name.startswith(_CLIP) for name in tensors):
        return "holds CLIP's own weights and nothing tuned: give it with --clip"
    first = ", ".join(list(tensors)[:3])
    return f"is of no method that foveate can import ({', '.join(METHODS)}): it holds {first}"
