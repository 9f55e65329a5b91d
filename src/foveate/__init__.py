"""foveate: adapt CLIP to a task from a few pictures, and keep its gaze on the object.

The public names are the ones below and the classes of `foveate.methods`. Each is imported on first use,
so `import foveate` does not import torch.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foveate.classifier import Classifier as Classifier
    from foveate.classifier import Prediction as Prediction
    from foveate.clip.model import Clip as Clip
    from foveate.clip.weights import load_clip as load_clip
    from foveate.data.samples import Photos as Photos
    from foveate.data.samples import Sample as Sample
    from foveate.data.sources import load_photos as load_photos
    from foveate.errors import InputError as InputError
    from foveate.methods import *  # noqa: F403
    from foveate.methods.base import Method as Method
    from foveate.methods.registry import register_method as register_method
    from foveate.train.loop import fit as fit
    from foveate.train.recipe import Recipe as Recipe

# A program that uses this package decides where its log goes; see "Logging" in docs/concepts.md.
logging.getLogger("foveate").addHandler(logging.NullHandler())

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
    "register_method": "methods.registry",
    "fit": "train.loop",
    "Recipe": "train.recipe",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"foveate.{_HOMES[name]}"), name)
    if name == "__version__":  # importlib.metadata takes longer to import than all other code here
        from importlib.metadata import version

        return version("foveate")
    if name == "__all__":
        return __dir__()
    if name.startswith("_"):
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    try:
        return getattr(import_module("foveate.methods"), name)
    except AttributeError:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*_HOMES, *import_module("foveate.methods.registry").public_classes()])
