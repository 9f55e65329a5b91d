"""Loads model folders of foveate, Hugging Face and open_clip: a settings file, weights and a tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch

from foveate.clip.checkpoints import naming, read_settings, read_tensors
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.layouts import to_ours
from foveate.clip.model import Clip
from foveate.clip.sizes import Triple
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.readers import as_table

FORMAT, VERSION = "foveate-clip", 1
SETTINGS = ("*.json", "merges.txt")

Json = Mapping[str, Any]
Fetch = Callable[[Sequence[str]], Path]
"""Downloads the files that match these patterns into the folder, if it is a hub folder."""

# open_clip settings that change the computation, with the only supported value.
_PLAIN_BLOCK = {
    **dict.fromkeys(("ls_init_value", "act_kwargs", "norm_kwargs"), None),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads"), False),
    **dict.fromkeys(("scale_attn_inner", "scale_attn", "scale_fc"), False),
}
_PLAIN_VISION = {
    **_PLAIN_BLOCK,
    **{"timm_model_name": None, "attentional_pool": False, "no_ln_pre": False},
    **{"pool_type": "tok", "pos_embed_type": "learnable"},
}
_PLAIN_TEXT = {
    **_PLAIN_BLOCK,
    **{"hf_model_name": None, "embed_cls": False, "no_causal_mask": False},
    **{"pool_type": "argmax", "proj_type": "linear", "proj_bias": False},
}


_MOST = {"layers": 1000, "num_hidden_layers": 1000, "context": 100_000, "image_size": 100_000}
"""Upper bounds of sizes, far above all existing CLIP models."""


@dataclass(frozen=True)
class Kind:
    """A family of model folders.

    Attributes:
        settings: Name of its settings file.
        weights: Names of its weight files, the preferred one first.
        load: Builds a Clip from the settings and the weights, in a precision.
    """

    settings: str
    weights: tuple[str, ...]
    load: Callable[[Path, Json, Path, torch.dtype | None], Clip]


def load_folder(folder: Path, fetch: Fetch | None = None, dtype: torch.dtype | None = None) -> Clip:
    """Load a model folder of any family, in a precision; None: float32.

    Raises:
        InputError: The folder belongs to no family, or its weights are missing, damaged or not a plain
            CLIP.
    """
    expected: list[str] = []
    mismatch = ""
    for kind in KINDS:
        path = folder / kind.settings
        settings = read_settings(path) if path.is_file() else None
        if settings is None:
            continue
        if not _belongs(settings, kind):
            mismatch = mismatch or _other_kind(path, settings)
            continue
        weights = _find(folder, kind.weights, fetch)
        if weights:
            clip = kind.load(path, settings, weights, dtype)
            clip.weight_file = None if weights.suffix == ".json" else weights  # an index of several files
            return clip
        expected.extend(kind.weights)
    if expected:
        raise InputError(f"{folder}: has settings but no weights ({' or '.join(expected)})")
    reason = mismatch or "no config.json of model_type clip, no open_clip_config.json"
    raise InputError(f"{folder}: no CLIP's folder: {reason}")


def _belongs(settings: Json, kind: Kind) -> bool:
    if kind is _OURS:
        return settings.get("format") == FORMAT
    return "model_cfg" in settings if kind is _OPEN_CLIP else settings.get("model_type") == "clip"


def _other_kind(path: Path, settings: Json) -> str:
    """Return which model the settings file describes, if it names one."""
    kind = settings.get("model_type") or settings.get("format")
    return f"its {path.name} is of a model of type {kind!r}, not 'clip'" if isinstance(kind, str) else ""


def _find(folder: Path, names: Sequence[str], fetch: Fetch | None) -> Path | None:
    """Return the first existing weight file (or shard index); download it from the hub if needed."""
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if fetch:
            fetch([name, f"{stem}-*{dot}{suffix}"])
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return path
    return None


def _load_ours(path: Path, settings: Json, weights: Path, dtype: torch.dtype | None) -> Clip:
    with naming(path):
        if settings.get("version") != VERSION:
            raise InputError(
                f"is of version {settings.get('version')}, this foveate reads {VERSION}: update it"
            )
        config = _our_config(settings)
    tensors, tokenizer = read_tensors(weights, dtype), _tokenizer(path.parent)
    with naming(weights):
        layout, ours = to_ours(tensors, dtype)
        return Clip.assemble(config, ours, layout, tokenizer)


def _our_config(settings: Json) -> ClipConfig:
    """Return the sizes in a foveate folder.

    Raises:
        InputError: A setting is missing, unknown, of the wrong type, or out of range.
    """
    entries = {name: value for name, value in settings.items() if name not in ("format", "version")}
    if unknown := entries.keys() - {field.name for field in fields(ClipConfig)}:
        raise InputError(f"is not as save_clip wrote it: it has {sorted(unknown)[0]!r}")
    sizes = {
        name: _whole(entries, name) for name in ("image_size", "patch_size", "context", "vocab", "embed")
    }
    if sizes["patch_size"] > sizes["image_size"]:
        raise InputError(f"patch_size is {sizes['patch_size']}, more than the image_size")
    towers = {name: _our_tower(name, _table(entries, name)) for name in ("vision", "text")}
    pixels = {name: _triple(entries, name) for name in ("mean", "std")}
    missing = next((name for name, value in pixels.items() if value is None), None)
    if missing:
        raise InputError(f"{missing} is not there, or null: give three numbers")
    quick_gelu = _truth(entries, "quick_gelu", True)
    return ClipConfig(**towers, **sizes, **cast("dict[str, Any]", pixels), quick_gelu=quick_gelu)


def _our_tower(tower: str, settings: Json) -> TowerConfig:
    if unknown := settings.keys() - {field.name for field in fields(TowerConfig)}:
        raise InputError(f"{tower} is not as save_clip wrote it: it has {sorted(unknown)[0]!r}")
    width, layers, heads = (
        _whole(settings, name, above=f"{tower}.") for name in ("width", "layers", "heads")
    )
    hidden = None if settings.get("hidden") is None else _whole(settings, "hidden", above=f"{tower}.")
    if width % heads:
        raise InputError(f"{tower}.heads is {heads}, which does not divide the width of {width}")
    return TowerConfig(width, layers, heads, hidden)


def _load_hugging_face(path: Path, settings: Json, weights: Path, dtype: torch.dtype | None) -> Clip:
    pixels_file = path.parent / "preprocessor_config.json"
    pixels = read_settings(pixels_file) if pixels_file.is_file() else {}
    with naming(path):
        towers = [_hugging_face_tower(settings, name) for name in ("vision", "text")]
        quick_gelu = _quick_gelu([str(tower.get("hidden_act", "quick_gelu")) for tower in towers])
        heads = _whole(towers[0], "num_attention_heads", 12), _whole(towers[1], "num_attention_heads", 8)
    with naming(pixels_file):
        mean, std = _triple(pixels, "image_mean"), _triple(pixels, "image_std")
    return _load_theirs(weights, heads, quick_gelu, (mean, std), dtype)


def _hugging_face_tower(settings: Json, tower: str) -> dict[str, Any]:
    # Old files have both; in transformers, the `_dict` one takes precedence.
    merged = _table(settings, f"{tower}_config") | _table(settings, f"{tower}_config_dict")
    if merged.get("layer_norm_eps", 1e-5) != 1e-5:
        raise InputError(f"layer_norm_eps of {merged['layer_norm_eps']} is not supported, only CLIP's 1e-5")
    for size in ("hidden_size", "num_hidden_layers", "intermediate_size", "image_size", "patch_size"):
        _whole(merged, size, 1)
    return merged


def _quick_gelu(activations: Sequence[str]) -> bool:
    if len(set(activations)) > 1 or activations[0] not in ("quick_gelu", "gelu"):
        raise InputError(
            f"activations {' and '.join(activations)} are not supported: quick_gelu or gelu in both"
        )
    return activations[0] == "quick_gelu"


def _load_open_clip(path: Path, settings: Json, weights: Path, dtype: torch.dtype | None) -> Clip:
    with naming(path):
        model, pixels = _table(settings, "model_cfg"), _table(settings, "preprocess_cfg")
        vision, text = _table(model, "vision_cfg"), _table(model, "text_cfg")
        for tower, supported in ((vision, _PLAIN_VISION), (text, _PLAIN_TEXT)):
            for name, value in supported.items():
                if tower.get(name, value) != value:
                    raise InputError(f"{name} = {tower[name]} is not supported: no plain CLIP tower")
        if not isinstance(vision.get("layers", 12), int):
            raise InputError("its image tower is a ResNet, which is not supported: take a CLIP with a ViT")
        width, head_width = _whole(vision, "width", 768), _whole(vision, "head_width", 64)
        heads = width // head_width, _whole(text, "heads", 8)
        quick_gelu = _truth(model, "quick_gelu", False)
        mean, std = _triple(pixels, "mean"), _triple(pixels, "std")
    return _load_theirs(weights, heads, quick_gelu, (mean, std), dtype)


def _load_theirs(
    weights: Path,
    heads: tuple[int, int],
    quick_gelu: bool,
    pixels: tuple[Triple | None, Triple | None],
    dtype: torch.dtype | None,
) -> Clip:
    tensors, (mean, std) = read_tensors(weights, dtype), pixels
    rest: dict[str, Any] = {"mean": mean, "std": std, "tokenizer": _tokenizer(weights.parent), "dtype": dtype}
    with naming(weights):
        return Clip.from_state_dict(tensors, heads=heads, quick_gelu=quick_gelu, **rest)


def _tokenizer(folder: Path) -> ClipTokenizer | None:
    """Return the folder's own tokenizer; None if it has none."""
    if (folder / "tokenizer.json").is_file():
        return ClipTokenizer.from_file(folder / "tokenizer.json")
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return ClipTokenizer.from_vocabulary(folder / "vocab.json", folder / "merges.txt")
    return None


def _whole(settings: Json, name: str, default: int | None = None, above: str = "") -> int:
    value = settings.get(name, default)
    maximum = _MOST.get(name, 10_000_000)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise InputError(f"{above}{name} is {value!r}, not a whole number above 0 (up to {maximum:,})")
    return value


def _truth(settings: Json, name: str, default: bool) -> bool:
    value = settings.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r}: give true or false")
    return value


def _table(settings: Json, name: str) -> dict[str, Any]:
    """Return a section of the settings; an empty one if it is missing."""
    section = as_table(settings.get(name) or {})
    if section is None:
        raise InputError(f"{name} holds no settings")
    return section


def _triple(settings: Json, name: str) -> Triple | None:
    """Return the means or standard deviations of three channels; None if they are missing."""
    values = settings.get(name)
    if values is None:
        return None
    items = cast("list[object]", values) if isinstance(values, list) else []
    numbers = [float(item) for item in items if isinstance(item, int | float) and not isinstance(item, bool)]
    positive = not name.endswith("std") or min(numbers, default=0) > 0
    if len(numbers) != 3 or len(items) != 3 or not positive:
        raise InputError(f"{name} is {values!r}, not three numbers" + " above 0" * (not positive))
    return numbers[0], numbers[1], numbers[2]


_OURS = Kind("config.json", ("model.safetensors",), _load_ours)
_OPEN_CLIP = Kind(
    "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), _load_open_clip
)
_HUGGING_FACE = Kind("config.json", ("model.safetensors", "pytorch_model.bin"), _load_hugging_face)
KINDS = (_OURS, _HUGGING_FACE, _OPEN_CLIP)
