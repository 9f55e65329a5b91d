"""Infers settings from the tensors of a checkpoint: number of tokens, blocks, widths."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.prompts import PUBLISHED_BLOCKS
from foveate.methods.registry import methods
from foveate.official.names import Tensors

MethodSettings = dict[str, Any]
"""Settings of one method, by name."""

_LEARNER = "representation_learner.compound_rep_tokens"


def read_settings(method: str, tensors: Tensors, clip: Clip, requested: Mapping[str, Any]) -> MethodSettings:
    """Return the given settings and those inferred from the tensors.

    Args:
        method: Method of the checkpoint.
        tensors: Tensors by name; see `Checkpoint.tensors`.
        clip: The towers of the checkpoint.
        requested: Settings that the user gave.

    Raises:
        InputError: A given setting contradicts the tensors, or a tensor is missing.
    """
    inferred = _READERS[method](tensors)
    for name, value in inferred.items():
        if requested.get(name) not in (None, value):
            raise InputError(
                f"has {name} = {value}, but --{method}.{name.replace('_', '-')} is {requested[name]}"
            )
    settings = {**requested, **inferred}
    return _settle_blocks(settings, tensors, clip) if method == "mmrl" else settings


def settle_init(
    method: str, settings: MethodSettings, clip: Clip, sentences: Sequence[Sequence[int]] | None
) -> tuple[MethodSettings, list[int]]:
    """Choose the initial words of the learned vectors; some words may remain after the vectors.

    With "a photo of a" and two vectors, "of a" remains between them and the name.

    Args:
        method: Method of the checkpoint.
        settings: Settings of the method; a given `init` stays.
        clip: Its tokenizer reads the words.
        sentences: Token ids of each class after the vectors; None if the checkpoint has none.

    Returns:
        The settings, with `init` None if no words remain; and the ids of the remaining words.

    Raises:
        InputError: The given `init` leaves other words than those in the checkpoint.
    """
    if method not in ("kgcoop", "prograd", "cocoop", "ivlp", "promptsrc", "maple", "hicropl"):
        return settings, []
    has_init, tokens = "init" in settings, settings["tokens"]
    default = asdict(methods()[method].config_type())["init"] or "a photo of a"  # with few tokens, in HiCroPL
    init = settings["init"] if has_init else default
    words = clip.tokenizer.words(init.replace("_", " ")) if init is not None else []
    remaining = words[tokens:] if method != "prograd" else []
    fits = all(list(ids[: len(remaining)]) == remaining for ids in sentences or ())
    if has_init and not fits:
        raise InputError(f"has other words before the names than --{method}.init {init!r} leaves there")
    length_fits = len(words) <= tokens if method == "prograd" else len(words) >= tokens
    if has_init or (init is not None and length_fits and fits):
        return {**settings, "init": init}, remaining
    return {**settings, "init": None}, []


def depth(tensors: Tensors, pattern: str) -> int:
    """Return the number of blocks with their own tensors: 1 + the highest number at `{}`."""
    regex = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
    numbers = [int(match[1]) for name in tensors if (match := regex.fullmatch(name))]
    return max(numbers, default=-1) + 1


def _shape_of(tensors: Tensors, name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise InputError(f"lacks {name}: a part of a checkpoint, or of other code?")
    return tuple(tensors[name].shape)


def _context(tensors: Tensors) -> MethodSettings:
    return {"tokens": _shape_of(tensors, "ctx")[-2]}


def _coop(tensors: Tensors) -> MethodSettings:
    return {**_context(tensors), "class_specific": tensors["ctx"].ndim == 3}


def _deep(tensors: Tensors, tower: str) -> int:
    """Return the number of blocks of a tower with learned tokens; the first block's are stored elsewhere."""
    return max(1, depth(tensors, tower + ".transformer.resblocks.{}.VPT_shallow"))


def _ivlp(tensors: Tensors) -> MethodSettings:
    settings = {**_context(tensors), "text_depth": _deep(tensors, "text_encoder"), "vision_depth": 0}
    if "image_encoder.VPT" in tensors:
        settings["vision_tokens"] = _shape_of(tensors, "image_encoder.VPT")[0]
        settings["vision_depth"] = _deep(tensors, "image_encoder")
    return settings


def _vpt(tensors: Tensors) -> MethodSettings:
    return {"tokens": _shape_of(tensors, "image_encoder.VPT")[0], "depth": _deep(tensors, "image_encoder")}


def _maple(tensors: Tensors) -> MethodSettings:
    return {**_context(tensors), "depth": 1 + depth(tensors, "compound_prompts_text.{}")}


def _hicropl(tensors: Tensors) -> MethodSettings:
    blocks = {"depth": "cross_prompts_text.{}", "cross_layer": "text_proxy_token.{}"}
    return _context(tensors) | {name: depth(tensors, pattern) for name, pattern in blocks.items()}


def _mmrl(tensors: Tensors) -> MethodSettings:
    tokens, width = _shape_of(tensors, _LEARNER)
    return {"tokens": tokens, "width": width}


def _settle_blocks(settings: MethodSettings, tensors: Tensors, clip: Clip) -> MethodSettings:
    """Choose MMRL's blocks: their number is known, and the authors' code ends with the last of 12."""
    count = depth(tensors, _LEARNER + "_r2vproj.{}.weight")
    last_common = min(clip.config.vision.layers, clip.config.text.layers, PUBLISHED_BLOCKS)
    first, last = settings.get("first_block"), settings.get("last_block")
    if first is None:
        first = (last_common if last is None else last) - count + 1
    if last is None:
        last = first + count - 1
    if last - first + 1 != count or first < 1:
        raise InputError(
            f"has tokens for {count} blocks: give as many with --mmrl.first-block and --mmrl.last-block, not"
            f" blocks {first} to {last}"
        )
    return {**settings, "first_block": first, "last_block": last}


_READERS: dict[str, Callable[[Tensors], MethodSettings]] = {
    "coop": _coop,
    "kgcoop": _context,
    "prograd": _context,
    "cocoop": _context,
    "ivlp": _ivlp,
    "promptsrc": _ivlp,
    "vpt": _vpt,
    "maple": _maple,
    "mmrl": _mmrl,
    "hicropl": _hicropl,
}
