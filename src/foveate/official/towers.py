"""Checks that a checkpoint was tuned on the given CLIP."""

from collections.abc import Iterator

import torch
from torch import Tensor

from foveate.clip.layouts import OPENAI, to_layout
from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.official.recognise import Tensors

TOLERANCE = 0.02
"""Maximum relative difference of frozen tensors that count as equal.

PromptSRC's average over epochs rounds frozen half-precision weights by about 0.1 %. The weights of two
different CLIPs differ much more."""

_LEARNED = ("VPT", "proj_rep")
_HOMES = {"image_encoder.": "visual.", "text_encoder.": ""}


def check_clip(tensors: Tensors, clip: Clip) -> None:
    """Refuse a checkpoint of another CLIP: by sizes, by the start token, by its frozen tensors.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.
        clip: The towers of the checkpoint.

    Raises:
        InputError: The message gives the difference.
    """
    for size, theirs, ours in _sizes(tensors, clip):
        if theirs != ours:
            raise InputError(
                f"was tuned on a CLIP with {size} {theirs}, this one has {ours}: give that one with --clip"
            )
    for name, theirs, ours in _frozen(tensors, clip):
        if ours is None or theirs.shape != ours.shape or not difference(theirs, ours) <= TOLERANCE:
            raise InputError(
                f"was tuned on another CLIP than this one: its {name} differs; give that one with --clip"
            )


def difference(theirs: Tensor, ours: Tensor) -> float:
    """Return |theirs − ours| / |ours|, with ours rounded to their precision; 0 if both are 0."""
    ours = ours.detach().cpu().to(theirs.dtype).float()
    distance = (theirs.detach().cpu().float() - ours).norm()
    return float(distance / ours.norm().clamp_min(torch.finfo(torch.float32).tiny))


def _sizes(tensors: Tensors, clip: Clip) -> Iterator[tuple[str, int, int]]:
    """Yield the sizes that learned tensors require, and those of this CLIP."""
    sizes = clip.config
    requirements = (
        ("ctx", -1, "text width", sizes.text.width),
        ("image_encoder.VPT", -1, "image width", sizes.vision.width),
        ("representation_learner.compound_rep_tokens_r2tproj.0.weight", 0, "text width", sizes.text.width),
        ("representation_learner.compound_rep_tokens_r2vproj.0.weight", 0, "image width", sizes.vision.width),
        ("image_encoder.proj_rep", -1, "feature width", sizes.embed),
        ("proj.weight", 0, "image width", sizes.vision.width),
        ("prompt_embeddings", 1, "texts of tokens up to", sizes.context),
    )
    for name, axis, quantity, ours in requirements:
        if name in tensors:
            yield quantity, int(tensors[name].shape[axis]), ours
    if "meta_net.linear2.weight" in tensors:  # CoCoOp's network; KgCoOp's is always 512 wide
        yield "feature width", int(tensors["meta_net.linear1.weight"].shape[-1]), sizes.embed
    if "token_suffix" in tensors and "ctx" in tensors:  # SOT, the vectors, and the remaining tokens
        length = 1 + tensors["ctx"].shape[-2] + tensors["token_suffix"].shape[1]
        yield "texts of tokens up to", int(length), sizes.context


def _frozen(tensors: Tensors, clip: Clip) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield frozen tensors of the checkpoint, with ours; None if we have no such tensor."""
    start = clip.text.token.weight[clip.tokenizer.sot]
    for name in ("token_prefix", "prompt_embeddings"):
        if name in tensors and tensors[name].numel():
            yield f"start token ({name})", tensors[name][0, 0], start
    openai_tensors = to_layout(clip.state_dict(), OPENAI)
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _HOMES if name.startswith(prefix)), None)
        if prefix is None or any(part in name for part in _LEARNED):
            continue
        ours = openai_tensors.get(_HOMES[prefix] + name.removeprefix(prefix))
        if ours is not None or "resblocks." in name:  # other code may store other tensors here
            yield name, tensor, ours
