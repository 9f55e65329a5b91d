"""Finds and reads a checkpoint file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from foveate.clip.checkpoints import Weights, naming, read_weights, unwrapped
from foveate.clip.pickles import is_torchscript
from foveate.errors import InputError

POINTER, BEST = "checkpoint", "model-best.pth.tar"
"""Files that Dassl writes beside `model.pth.tar-N`: the name of the last one, and a copy of the best."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a checkpoint from the authors' code.

    Attributes:
        tensors: Tensors by name, without optional prefixes ("module.", "prompt_learner.").
        path: File that they were read from; None for a mapping.
        epoch: Epoch after which it was saved, if it is known.
    """

    tensors: dict[str, Tensor]
    path: Path | None = None
    epoch: int | None = None

    @property
    def title(self) -> str:
        """Title: the file's name, and the epoch."""
        name = self.path.name if self.path else "a state dict in memory"
        return name if self.epoch is None else f"{name}, epoch {self.epoch}"


def read_checkpoint(source: str | Path | Mapping[str, object]) -> Checkpoint:
    """Read a checkpoint without executing code in it.

    Args:
        source: The file; or a folder with `model.pth.tar-N`, of which the named or the last one is used;
            or tensors by name, or a dictionary with them under "state_dict".

    Raises:
        InputError: The file does not exist, is damaged, or has no named tensors.
    """
    if isinstance(source, Mapping):
        return _checkpoint(unwrapped(dict(source)), None)
    path = find_checkpoint(Path(source).expanduser())
    if is_torchscript(path):
        raise InputError(f"{path}: is an archive of CLIP's own weights: give it with --clip")
    weights = read_weights(path)
    with naming(path):
        return _checkpoint(weights, path)


def find_checkpoint(path: Path) -> Path:
    """Return the file itself, or the checkpoint of a folder: the one named in the folder, or the last.

    Raises:
        InputError: The file or folder does not exist, or the folder has no checkpoint.
    """
    if not path.is_dir():
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder; give model.pth.tar-N, or the folder that has it"
            )
        return path
    checkpoint = _in_folder(path)
    if checkpoint is None:  # the run folder has a subfolder named after the model
        nested = [file for file in map(_in_folder, sorted(p for p in path.iterdir() if p.is_dir())) if file]
        if len(nested) > 1:
            raise InputError(
                f"{path} has checkpoints in {nested[0].parent.name} and in {nested[1].parent.name}: say which"
            )
        checkpoint = nested[0] if nested else None
    if checkpoint is None:
        raise InputError(f"{path} has no model.pth.tar-N: give that file, or the folder that has it")
    return checkpoint


def _in_folder(folder: Path) -> Path | None:
    pointer = folder / POINTER
    if pointer.is_file():
        # Only the file name is used, so it cannot point to another folder.
        line = pointer.read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0]
        named = folder / Path(line).name
        if named.is_file() and named != pointer:
            return named
    numbered = {
        int(path.name.rpartition("-")[2]): path
        for path in folder.glob("model.pth.tar-*")
        if re.fullmatch(r"model\.pth\.tar-\d+", path.name)
    }
    if numbered:
        return numbered[max(numbered)]
    return folder / BEST if (folder / BEST).is_file() else None


def _checkpoint(weights: Weights, path: Path | None) -> Checkpoint:
    tensors = {name.removeprefix("prompt_learner."): tensor for name, tensor in weights.tensors.items()}
    if not tensors:
        raise InputError("holds no tensors by name: give a model.pth.tar-N of the authors' code")
    epoch = weights.beside.get("epoch")
    return Checkpoint(tensors, path, epoch if isinstance(epoch, int) else None)
