"""foveate: adapt CLIP to a task from a few pictures, and keep its gaze on the object.

Everything public is one of the names below. They are imported when first asked for, so that `import foveate`
costs nothing before torch is needed.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.classifier import Classifier, Prediction
    from foveate.clip.model import Clip
    from foveate.clip.weights import load_clip
    from foveate.data.samples import Photos, Sample
    from foveate.data.sources import load_photos
    from foveate.errors import InputError
    from foveate.methods.base import Method
    from foveate.methods.clip_adapter import ClipAdapter, ClipAdapterConfig
    from foveate.methods.clip_lora import ClipLora, ClipLoraConfig
    from foveate.methods.cocoop import CoCoOp, CoCoOpConfig
    from foveate.methods.coop import CoOp, CoOpConfig
    from foveate.methods.dapt import Dapt
    from foveate.methods.dapt_config import DaptConfig
    from foveate.methods.fvgpt import FvgPt
    from foveate.methods.guidance import FvgPtConfig
    from foveate.methods.ivlp import Ivlp, IvlpConfig
    from foveate.methods.kdpl import Kdpl, KdplConfig
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
    from foveate.methods.zeroshot import ZeroShot
    from foveate.train.loop import fit
    from foveate.train.recipe import Recipe

_HOMES = {
    "Classifier": "classifier",
    "Prediction": "classifier",
    "Clip": "clip.model",
    "load_clip": "clip.weights",
    "Photos": "data.samples",
    "Sample": "data.samples",
    "load_photos": "data.sources",
    "InputError": "errors",
    "Method": "methods.base",
    "ClipLora": "methods.clip_lora",
    "ClipLoraConfig": "methods.clip_lora",
    "ClipAdapter": "methods.clip_adapter",
    "ClipAdapterConfig": "methods.clip_adapter",
    "CoCoOp": "methods.cocoop",
    "CoCoOpConfig": "methods.cocoop",
    "CoOp": "methods.coop",
    "CoOpConfig": "methods.coop",
    "Dapt": "methods.dapt",
    "DaptConfig": "methods.dapt_config",
    "Ivlp": "methods.ivlp",
    "IvlpConfig": "methods.ivlp",
    "Kdpl": "methods.kdpl",
    "KdplConfig": "methods.kdpl",
    "KgCoOp": "methods.kgcoop",
    "KgCoOpConfig": "methods.kgcoop",
    "LinearProbe": "methods.linear_probe",
    "LinearProbeConfig": "methods.linear_probe",
    "LpPlusPlus": "methods.lpplusplus",
    "LpPlusPlusConfig": "methods.lpplusplus",
    "Maple": "methods.maple",
    "MapleConfig": "methods.maple",
    "Mma": "methods.mma",
    "MmaConfig": "methods.mma",
    "Mmrl": "methods.mmrl",
    "MmrlConfig": "methods.mmrl",
    "Proda": "methods.proda",
    "ProdaConfig": "methods.proda",
    "ProGrad": "methods.prograd",
    "ProGradConfig": "methods.prograd",
    "PromptSRC": "methods.promptsrc",
    "PromptSRCConfig": "methods.promptsrc",
    "Tcp": "methods.tcp",
    "TcpConfig": "methods.tcp",
    "TipAdapter": "methods.tip_adapter",
    "TipAdapterConfig": "methods.tip_adapter",
    "Vpt": "methods.vpt",
    "VptConfig": "methods.vpt",
    "FvgPt": "methods.fvgpt",
    "FvgPtConfig": "methods.guidance",
    "ZeroShot": "methods.zeroshot",
    "fit": "train.loop",
    "Recipe": "train.recipe",
}

__version__ = version("foveate")
__all__ = [
    "Classifier",
    "Clip",
    "ClipAdapter",
    "ClipAdapterConfig",
    "ClipLora",
    "ClipLoraConfig",
    "CoCoOp",
    "CoCoOpConfig",
    "CoOp",
    "CoOpConfig",
    "Dapt",
    "DaptConfig",
    "FvgPt",
    "FvgPtConfig",
    "InputError",
    "Ivlp",
    "IvlpConfig",
    "Kdpl",
    "KdplConfig",
    "KgCoOp",
    "KgCoOpConfig",
    "LinearProbe",
    "LinearProbeConfig",
    "LpPlusPlus",
    "LpPlusPlusConfig",
    "Maple",
    "MapleConfig",
    "Method",
    "Mma",
    "MmaConfig",
    "Mmrl",
    "MmrlConfig",
    "Photos",
    "Prediction",
    "ProGrad",
    "ProGradConfig",
    "Proda",
    "ProdaConfig",
    "PromptSRC",
    "PromptSRCConfig",
    "Recipe",
    "Sample",
    "Tcp",
    "TcpConfig",
    "TipAdapter",
    "TipAdapterConfig",
    "Vpt",
    "VptConfig",
    "ZeroShot",
    "fit",
    "load_clip",
    "load_photos",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    return getattr(import_module(f"foveate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
