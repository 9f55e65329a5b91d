"""Methods: each is a module with a settings dataclass and a `Method`; the registry finds them here.

The imports below are for type checkers. At run time a class is imported on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.methods.clip_adapter import ClipAdapter as ClipAdapter
    from foveate.methods.clip_adapter import ClipAdapterConfig as ClipAdapterConfig
    from foveate.methods.clip_lora import ClipLora as ClipLora
    from foveate.methods.clip_lora import ClipLoraConfig as ClipLoraConfig
    from foveate.methods.cocoop import CoCoOp as CoCoOp
    from foveate.methods.cocoop import CoCoOpConfig as CoCoOpConfig
    from foveate.methods.coop import CoOp as CoOp
    from foveate.methods.coop import CoOpConfig as CoOpConfig
    from foveate.methods.counterfactual import Counterfactual as Counterfactual
    from foveate.methods.counterfactual import CounterfactualConfig as CounterfactualConfig
    from foveate.methods.dapt import Dapt as Dapt
    from foveate.methods.dapt import DaptConfig as DaptConfig
    from foveate.methods.exchange import Exchange as Exchange
    from foveate.methods.exchange import ExchangeConfig as ExchangeConfig
    from foveate.methods.falip import Falip as Falip
    from foveate.methods.falip import FalipConfig as FalipConfig
    from foveate.methods.fvgpt import FvgPt as FvgPt
    from foveate.methods.guidance import FvgPtConfig as FvgPtConfig
    from foveate.methods.hicropl import HiCroPL as HiCroPL
    from foveate.methods.hicropl import HiCroPLConfig as HiCroPLConfig
    from foveate.methods.ivlp import Ivlp as Ivlp
    from foveate.methods.ivlp import IvlpConfig as IvlpConfig
    from foveate.methods.kdpl import Kdpl as Kdpl
    from foveate.methods.kdpl import KdplConfig as KdplConfig
    from foveate.methods.kgcoop import KgCoOp as KgCoOp
    from foveate.methods.kgcoop import KgCoOpConfig as KgCoOpConfig
    from foveate.methods.linear_probe import LinearProbe as LinearProbe
    from foveate.methods.linear_probe import LinearProbeConfig as LinearProbeConfig
    from foveate.methods.ln_tuning import LnTuning as LnTuning
    from foveate.methods.ln_tuning import LnTuningConfig as LnTuningConfig
    from foveate.methods.lpplusplus import LpPlusPlus as LpPlusPlus
    from foveate.methods.lpplusplus import LpPlusPlusConfig as LpPlusPlusConfig
    from foveate.methods.maple import Maple as Maple
    from foveate.methods.maple import MapleConfig as MapleConfig
    from foveate.methods.mma import Mma as Mma
    from foveate.methods.mma import MmaConfig as MmaConfig
    from foveate.methods.mmrl import Mmrl as Mmrl
    from foveate.methods.mmrl import MmrlConfig as MmrlConfig
    from foveate.methods.proda import Proda as Proda
    from foveate.methods.proda import ProdaConfig as ProdaConfig
    from foveate.methods.prograd import ProGrad as ProGrad
    from foveate.methods.prograd import ProGradConfig as ProGradConfig
    from foveate.methods.promptsrc import PromptSRC as PromptSRC
    from foveate.methods.promptsrc import PromptSRCConfig as PromptSRCConfig
    from foveate.methods.tcp import Tcp as Tcp
    from foveate.methods.tcp import TcpConfig as TcpConfig
    from foveate.methods.tip_adapter import TipAdapter as TipAdapter
    from foveate.methods.tip_adapter import TipAdapterConfig as TipAdapterConfig
    from foveate.methods.two_stage import TwoStage as TwoStage
    from foveate.methods.two_stage import TwoStageConfig as TwoStageConfig
    from foveate.methods.vpt import Vpt as Vpt
    from foveate.methods.vpt import VptConfig as VptConfig
    from foveate.methods.zeroshot import ZeroShot as ZeroShot
    from foveate.methods.zeroshot import ZeroShotConfig as ZeroShotConfig


def __getattr__(name: str) -> object:
    from foveate.methods.registry import public_classes

    classes = public_classes()
    if name.startswith("_") or name not in classes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return classes[name]
