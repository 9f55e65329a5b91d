"""Interprets a checkpoint of the authors' code: method, settings, class names, and learned tensors.

`official_backbone` reads it as the tuned backbone of a run.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveate.clip.checkpoints import naming
from foveate.clip.model import Clip
from foveate.clip.templates import DEFAULT_TEMPLATE, fill
from foveate.clip.tokenizer import ClipTokenizer
from foveate.data.naming import clean_name
from foveate.errors import InputError
from foveate.methods.base import Method, check_names
from foveate.methods.capabilities import OfficialCheckpoint
from foveate.methods.registry import Settings, build, configure, stages
from foveate.official.files import Checkpoint, find_checkpoint, read_checkpoint
from foveate.official.names import (
    Sentences,
    Tensors,
    check_clip,
    check_forms,
    choose_method,
    decode,
    importable,
    names_behind,
    names_within,
    read_sentences,
)
from foveate.official.settings import MethodSettings, read_settings, settle_init
from foveate.train.backbone import TunedBackbone
from foveate.train.checkpoint import CONFIG, ModelConfig
from foveate.train.config import RunConfig

_BLOCKS = 7
"""Number of blocks with tokens in the MMRL authors' code: always the blocks 6 to 12."""

_DESCRIBED = (
    "took CLIP's features of a sentence where the authors have those of descriptions, which checkpoints lack:"
    " answers differ from theirs"
)
"""A note on HiCroPL."""


@dataclass(frozen=True)
class Official:
    """Content of a checkpoint.

    Attributes:
        method: Method of the checkpoint.
        settings: All settings of the method.
        names: Names of the trained classes, in label order.
        template: The data set's template, if it is known.
        learned: Learned tensors with foveate's names.
        title: Title of the checkpoint.
        path: File that it was read from; None for a mapping.
        notes: Notes for the user.
    """

    method: str
    settings: dict[str, dict[str, Any]]
    names: list[str]
    template: str | None
    learned: dict[str, Tensor]
    title: str
    path: Path | None
    notes: list[str]


def read_official(
    source: str | Path | Mapping[str, object],
    clip: Clip,
    *,
    method: str | None = None,
    names: Sequence[str] | None = None,
    template: str | None = None,
    settings: Settings | None = None,
) -> Official:
    """Read a checkpoint of the authors' code, for the towers that it was tuned on.

    Args:
        source: A file, a folder or tensors; see `read_checkpoint`.
        clip: The frozen towers.
        method: Method of the checkpoint; None detects it from the tensor names.
        names: Names of the trained classes; None reads them from the checkpoint.
        template: The data set's template with one `{}`; None reads it if the checkpoint contains it.
        settings: For each part of the method, settings that are not in the checkpoint: {"mmrl":
            {"alpha": 0.5}}.

    Raises:
        InputError: The checkpoint is invalid, or does not fit the arguments.
    """
    method = None if method is None else importable(method)
    if template is not None:
        fill(template, "name")
    if names is not None:
        check_names(names)
    checkpoint = read_checkpoint(source)
    with nullcontext() if checkpoint.path is None else naming(checkpoint.path):
        return _interpret(checkpoint, clip, method, names, template, settings)


def _interpret(
    checkpoint: Checkpoint,
    clip: Clip,
    method: str | None,
    names: Sequence[str] | None,
    template: str | None,
    settings: Settings | None,
) -> Official:
    tensors = checkpoint.tensors
    method = choose_method(tensors, method)
    configure(method, settings)  # refuses settings of other methods
    check_forms(tensors)
    check_clip(tensors, clip)
    requested = (settings or {}).get(method, {})
    values = read_settings(method, tensors, clip, requested)
    sentences = _sentences(tensors, clip, names)
    values, words = settle_init(method, values, clip, sentences)
    notes = (
        _block_notes(values, requested) if method == "mmrl" else [_DESCRIBED] if method == "hicropl" else []
    )
    if sentences is None:
        saved = None
        notes += _text_notes(method, words, template, clip.tokenizer)
    else:
        saved, template = _found_names(method, sentences, words, template, names, clip.tokenizer)
        notes += _prefix_notes(saved) if method != "mmrl" else []
        notes += _other_names(names, saved, clip.tokenizer) if names is not None else _spacing_notes(saved)
    class_names = _choose_names(names, saved, _class_count(tensors))
    built = build(method, clip, {method: values})
    assert isinstance(built, OfficialCheckpoint)  # `choose_method` returns no other method
    built.load_official(tensors)
    _check_numbers(built)
    built.set_classes(class_names, template)
    return Official(
        method=method,
        settings={part: asdict(config) for part, config in configure(method, {method: values}).items()},
        names=class_names,
        template=template,
        learned={name: tensor.detach() for name, tensor in built.learned().items()},
        title=checkpoint.title,
        path=checkpoint.path,
        notes=notes,
    )


def _sentences(tensors: Tensors, clip: Clip, names: Sequence[str] | None) -> Sentences | None:
    """Return the prompts of a checkpoint; None if it has none, or if given names make them unnecessary."""
    try:
        return read_sentences(tensors, clip)
    except InputError:
        if names is None:
            raise
        return None


def _found_names(
    method: str,
    sentences: Sentences,
    words: Sequence[int],
    template: str | None,
    names: Sequence[str] | None,
    tokenizer: ClipTokenizer,
) -> tuple[list[str] | None, str | None]:
    """Return the names in prompts, and the template; no names if names are given and none are found."""
    try:
        if method == "mmrl":
            return names_within(sentences, template, tokenizer)
        return names_behind(sentences, words, tokenizer), template
    except InputError:
        if names is None or (method == "mmrl" and template is None):
            raise
        return None, template


def _check_numbers(method: Method) -> None:
    for name, tensor in method.learned().items():
        if not tensor.isfinite().all():
            raise InputError(f"has numbers in {name} that are not finite: its training diverged")


def _class_count(tensors: Tensors) -> int | None:
    """Return the number of trained classes, if a tensor contains it."""
    for name in ("token_suffix", "prompt_embeddings"):
        if name in tensors:
            return len(tensors[name])
    class_specific = "ctx" in tensors and tensors["ctx"].ndim == 3  # separate vectors for each class
    return len(tensors["ctx"]) if class_specific else None


def _choose_names(names: Sequence[str] | None, saved: Sequence[str] | None, classes: int | None) -> list[str]:
    if names is not None:
        if classes not in (None, len(names)):
            raise InputError(f"was trained on {classes} classes, but {len(names)} names were given")
        return [clean_name(name) for name in names]
    if saved is None:
        raise InputError("has no class names in it: give them with --classes, a file with a name a line")
    return list(saved)


def _text_notes(
    method: str, words: Sequence[int], template: str | None, tokenizer: ClipTokenizer
) -> list[str]:
    """Return a note if the prompts matter and the checkpoint does not contain them."""
    if method == "mmrl" and template is None:
        return [f"took the sentence {DEFAULT_TEMPLATE!r}: if it was another, give --template"]
    if words:
        rest = decode(words, tokenizer)
        return [f"took it that {rest!r} stays before the names: if not, give the words with --{method}.init"]
    return []


def _block_notes(values: MethodSettings, requested: Mapping[str, Any]) -> list[str]:
    first, last = values["first_block"], values["last_block"]
    if last - first + 1 == _BLOCKS or {"first_block", "last_block"} & requested.keys():
        return []
    return [
        f"took blocks {first} to {last}: the checkpoint has their number, not which they are"
        " (--mmrl.first-block)"
    ]


def _prefix_notes(saved: Sequence[str] | None) -> list[str]:
    """Return a note if the common first word of all names may not belong to them."""
    words = {name.partition(" ")[0] for name in saved or ()}
    if len(words) != 1 or len(saved or ()) < 2:
        return []
    return [
        f"every class name begins with {words.pop()!r}: if it is no part of them, it is left of the authors'"
        " sentence, and new names need it too"
    ]


def _spacing_notes(saved: Sequence[str] | None) -> list[str]:
    """Return a note if spaces at numbers and signs are unknown: "A300" and "a 300" have equal tokens."""
    unsure = [name for name in saved or () if re.search(r"\d|[^\w\s]", name)]
    if not unsure:
        return []
    return [
        f"spaces beside numbers and signs are guessed, as in {unsure[0]!r}: give --classes to have names as"
        " your data writes them"
    ]


def _other_names(names: Sequence[str], saved: Sequence[str] | None, tokenizer: ClipTokenizer) -> list[str]:
    """Return a note if the given names differ from those of the checkpoint."""
    if saved is None:
        return [
            "its sentences are not those that foveate makes of names: answers may differ from the authors'"
        ]
    for row, (ours, theirs) in enumerate(zip(names, saved, strict=False), 1):
        if tokenizer.words(clean_name(ours)) != tokenizer.words(theirs):
            return [f"class {row} was given as {ours!r}, but the checkpoint calls it {theirs!r}"]
    return []


# A checkpoint of the authors' code as the tuned backbone of a run.


_FILE = re.compile(r".*\.(pth|pt|tar|bin|ckpt|safetensors)(-\d+)?")


def official_backbone(config: RunConfig, clip: Clip) -> TunedBackbone | None:
    """Read the backbone of a run, if it is a checkpoint of the authors' code.

    Args:
        config: The run; `backbone` is a path or a hub id.
        clip: The towers that the checkpoint was tuned on.

    Returns:
        The backbone; None if it is a model of foveate, which `resolve` loads, or if there is none.

    Raises:
        InputError: The checkpoint is damaged, belongs to other towers, or does not contain the class names.
    """
    *inner, _ = stages(config.method)
    path = Path(config.backbone or "").expanduser()
    if config.backbone is None or not inner or not path.exists() or (path / CONFIG).exists():
        return None
    if not _is_checkpoint(path):
        return None
    settings = {part: values for part, values in config.settings.items() if part in inner[-1].split("+")}
    try:
        official = read_official(path, clip, method=inner[-1], template=config.template, settings=settings)
    except InputError as error:
        raise InputError(f"backbone {error}") from error  # it begins with the path
    model = ModelConfig(
        method=official.method,
        settings={official.method: dict(official.settings[official.method])},
        clip=config.clip,
        fingerprint=clip.fingerprint(),
        precision=config.dtype,
        names=list(official.names),
        template=official.template,
        shots=0,
        imported=official.title,
    )
    return TunedBackbone(str(path), model, official.learned)


def _is_checkpoint(path: Path) -> bool:
    if path.is_file():
        return _FILE.fullmatch(path.name) is not None
    try:
        return find_checkpoint(path).is_file()
    except InputError:
        return False
