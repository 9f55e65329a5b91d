"""Methods by name: "coop", or a plug-in over a backbone, "fvgpt+coop"."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.choices import check_choices
from foveate.methods.clip_adapter import ClipAdapter, ClipAdapterConfig
from foveate.methods.clip_lora import ClipLora, ClipLoraConfig
from foveate.methods.cocoop import CoCoOp, CoCoOpConfig
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.dapt import Dapt, DaptConfig, refuse_host
from foveate.methods.fvgpt import FvgPt, refuse_visual_only
from foveate.methods.guidance import FvgPtConfig
from foveate.methods.ivlp import Ivlp, IvlpConfig
from foveate.methods.kdpl import Kdpl, KdplConfig, refuse_without_labels
from foveate.methods.kgcoop import KgCoOp, KgCoOpConfig
from foveate.methods.linear_probe import LinearProbe, LinearProbeConfig
from foveate.methods.lpplusplus import LpPlusPlus, LpPlusPlusConfig
from foveate.methods.maple import Maple, MapleConfig
from foveate.methods.mma import Mma, MmaConfig
from foveate.methods.mmrl import Mmrl, MmrlConfig
from foveate.methods.proda import Proda, ProdaConfig
from foveate.methods.prograd import ProGrad, ProGradConfig
from foveate.methods.promptsrc import PromptSRC, PromptSRCConfig
from foveate.methods.tcp import Tcp, TcpConfig
from foveate.methods.tip_adapter import TipAdapter, TipAdapterConfig
from foveate.methods.vpt import Vpt, VptConfig
from foveate.methods.zeroshot import ZeroShot, ZeroShotConfig
from foveate.seeds import stream


@dataclass(frozen=True)
class Part:
    """One word of a method's name.

    Attributes:
        make: Called with towers (a backbone) or a method (a plug-in), settings, and a generator.
        config: Its settings' dataclass.
        needs_masks: Told its settings, whether it learns from foreground masks.
        needs_val: Told its settings, whether it chooses others on a few validation pictures.
        refuses: Of a plug-in: told of a backbone, it complains of one that it cannot be put over.
        joint: Of a plug-in: whether it is trained together with its backbone, in one stage, and not after it.
    """

    make: Callable[..., Method]
    config: type
    needs_masks: Callable[[Any], bool] = lambda settings: False
    needs_val: Callable[[Any], bool] = lambda settings: False
    refuses: Callable[[str, Any], None] = lambda name, backbone: None
    joint: bool = False


BACKBONES = {
    "zeroshot": Part(ZeroShot, ZeroShotConfig),
    "coop": Part(CoOp, CoOpConfig),
    "cocoop": Part(CoCoOp, CoCoOpConfig),
    "kgcoop": Part(KgCoOp, KgCoOpConfig),
    "prograd": Part(ProGrad, ProGradConfig),
    "mmrl": Part(Mmrl, MmrlConfig),
    "promptsrc": Part(PromptSRC, PromptSRCConfig),
    "ivlp": Part(Ivlp, IvlpConfig),
    "vpt": Part(Vpt, VptConfig),
    "maple": Part(Maple, MapleConfig),
    "tcp": Part(Tcp, TcpConfig),
    "mma": Part(Mma, MmaConfig),
    "clip_lora": Part(ClipLora, ClipLoraConfig),
    "proda": Part(Proda, ProdaConfig),
    "clip_adapter": Part(ClipAdapter, ClipAdapterConfig),
    "tip_adapter": Part(TipAdapter, TipAdapterConfig, needs_val=lambda settings: settings.validate),
    "linear_probe": Part(LinearProbe, LinearProbeConfig, needs_val=lambda settings: settings.validate),
    "lpplusplus": Part(LpPlusPlus, LpPlusPlusConfig, needs_val=lambda settings: settings.validate),
}
PLUGINS = {
    "fvgpt": Part(FvgPt, FvgPtConfig, needs_masks=lambda settings: True, refuses=refuse_visual_only),
    "dapt": Part(
        Dapt, DaptConfig, needs_masks=lambda settings: settings.cue != "gaze", refuses=refuse_host, joint=True
    ),
    "kdpl": Part(Kdpl, KdplConfig, refuses=refuse_without_labels, joint=True),
}
PARTS = {**BACKBONES, **PLUGINS}

Settings = Mapping[str, Mapping[str, Any]]
"""Per part of a method, what differs from its defaults: {"coop": {"tokens": 16}}."""


def parts(method: str) -> list[str]:
    """Split "fvgpt+coop" into plug-ins and backbone, outermost first.

    Raises:
        InputError: A part does not exist (the nearest that does is named), repeats, or is in a wrong place.
    """
    if not isinstance(method, str):
        raise InputError(f"method is of type {type(method).__name__}: give its name, such as 'fvgpt+coop'")
    names = [name.strip().lower().replace("-", "_") for name in method.split("+")]
    for name in names:
        if name not in PARTS:
            known = [*BACKBONES, *(f"{plugin}+coop" for plugin in PLUGINS)]
            near = difflib.get_close_matches(name, PARTS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"there is no method {name!r}; {hint}")
    *plugins, backbone = names
    if backbone not in BACKBONES or any(name not in PLUGINS for name in plugins):
        raise InputError(f"method {method!r}: write plug-ins first and one backbone last, as in 'fvgpt+coop'")
    for plugin in plugins:
        PLUGINS[plugin].refuses(backbone, BACKBONES[backbone].make)
    twice = [name for name in plugins if plugins.count(name) > 1]
    if twice:
        raise InputError(f"method {method!r} has {twice[0]!r} twice; write each plug-in once")
    _refuse_far(method, plugins, backbone)
    return names


def _refuse_far(method: str, plugins: list[str], backbone: str) -> None:
    """Refuse a plug-in that is trained together with its backbone and does not stand directly before it."""
    joint = [name for name in plugins if PLUGINS[name].joint]
    if len(joint) > 1:
        raise InputError(
            f"method {method!r}: {' and '.join(joint)} are each trained together with the backbone: take one"
        )
    if joint and plugins[-1] != joint[0]:
        right = "+".join([*(name for name in plugins if name not in joint), *joint, backbone])
        raise InputError(
            f"method {method!r}: {joint[0]} is trained together with its backbone, so it stands directly"
            f" before it: write {right!r}"
        )


def pairs() -> list[str]:
    """Return each plug-in over each backbone that it can be put over: "fvgpt+coop" and so on."""
    return [f"{plugin}+{backbone}" for plugin in PLUGINS for backbone in BACKBONES if _fits(plugin, backbone)]


def _fits(plugin: str, backbone: str) -> bool:
    try:
        PLUGINS[plugin].refuses(backbone, BACKBONES[backbone].make)
    except InputError:
        return False
    return True


def needs_masks(method: str, settings: Settings | None = None) -> bool:
    """Return whether any part of a method, with these settings, learns from foreground masks."""
    return any(PARTS[name].needs_masks(config) for name, config in configure(method, settings).items())


def needs_val(method: str, settings: Settings | None = None) -> bool:
    """Return whether any part of a method chooses settings on a few validation pictures."""
    return any(PARTS[name].needs_val(own) for name, own in configure(method, settings).items())


def stages(method: str) -> list[str]:
    """Return what is trained one after the other.

    "fvgpt+coop" is ["coop", "fvgpt+coop"]; "fvgpt+dapt+maple" is ["dapt+maple", "fvgpt+dapt+maple"], because
    DAPT is trained together with MaPLe.
    """
    names = parts(method)
    starts = [i for i in range(len(names)) if i == 0 or not PARTS[names[i - 1]].joint]
    return ["+".join(names[i:]) for i in reversed(starts)]


def configure(method: str, settings: Settings | None = None) -> dict[str, Any]:
    """Return the settings of each part as its dataclass.

    Raises:
        InputError: A part or a setting does not exist, or a value is not what the setting takes.
    """
    names, given = parts(method), _mapping("settings", {} if settings is None else settings)
    stray = sorted(given.keys() - set(names))
    if stray:
        raise InputError(f"settings for {stray[0]!r}, but the method is {method!r}")
    return {name: _configured(name, given.get(name, {})) for name in names}


def _configured(name: str, given: object) -> Any:
    """Return the settings of one part as its dataclass."""
    config = PARTS[name].config
    known = [field.name for field in fields(config)]
    own = _mapping(f"settings[{name!r}]", given)
    for key in own:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{name} has no setting {key!r}; {hint}")
    configured = replace(config(), **{key: _frozen(value) for key, value in own.items()})
    check_choices(configured)
    return configured


def _mapping(name: str, given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{name} is {given!r}; give a dictionary, as in {{'coop': {{'tokens': 16}}}}")
    return dict(cast("Mapping[str, Any]", given))


def _frozen(value: Any) -> Any:
    """Turn lists into tuples: JSON and YAML know no tuples, settings have no lists."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def build(method: str, clip: Clip, settings: Settings | None = None, seed: int = 0) -> Method:
    """Build a method over frozen towers, untrained.

    Args:
        method: E.g. "fvgpt+coop".
        clip: The towers.
        settings: Per part, what differs from its defaults.
        seed: Of the random starts; each part has its own stream of it.
    """
    configs = configure(method, settings)
    *plugins, backbone = parts(method)
    built = BACKBONES[backbone].make(clip, configs[backbone], stream(seed, "init", backbone))
    for plugin in reversed(plugins):
        built = PLUGINS[plugin].make(built, configs[plugin], stream(seed, "init", plugin))
    return built


def wrap(plugin: str, built: Method, settings: Settings | None = None, seed: int = 0) -> Method:
    """Put one plug-in over a trained method."""
    config = _configured(plugin, (settings or {}).get(plugin, {}))
    return PLUGINS[plugin].make(built, config, stream(seed, "init", plugin))
