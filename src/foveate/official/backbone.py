"""A checkpoint of the authors' code as the tuned backbone of a run."""

import re
from pathlib import Path

from foveate.clip.model import Clip
from foveate.errors import InputError
from foveate.methods.registry import stages
from foveate.official.files import find_checkpoint
from foveate.official.reading import read_official
from foveate.train.backbone import TunedBackbone
from foveate.train.checkpoint import CONFIG, ModelConfig
from foveate.train.config import RunConfig

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
