"""The resume state: one safetensors file with learned tensors, the optimiser's, and where the run stands.

One file, because two could be of different moments when a machine goes down between them.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.base import Method


@dataclass(frozen=True)
class State:
    """Where a fit stands.

    Attributes:
        epoch: Epochs finished.
        step: Steps taken.
        first_loss: Loss of the very first step, 0 before it.
    """

    epoch: int = 0
    step: int = 0
    first_loss: float = 0.0


def save_state(
    path: Path | None,
    method: Method,
    optimiser: torch.optim.Optimizer,
    state: State,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state after an epoch; nowhere, if there is no path."""
    if path is None:
        return
    tensors = {f"learned.{name}": p.detach() for name, p in method.trainable().items()}
    tensors |= {f"average.{name}": total for name, total in (average or {}).items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": torch.as_tensor(v) for name, v in moments.items()}
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in any order, and equal states should be equal files.
    where = json.dumps({**asdict(state), "optimiser": type(optimiser).__name__})
    write_atomically(path, save(tensors, {"state": where}))


def load_state(
    path: Path | None,
    method: Method,
    optimiser: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
) -> State:
    """Take up a state, and fill `average`; a missing file, or no path, is a fresh start.

    Raises:
        InputError: The file is damaged, or is of another method or optimiser.
    """
    if path is None or not path.exists():
        return State()
    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads(file.metadata()["state"])
            kind = values.pop("optimiser")
            state = State(**values)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete it to start this stage again") from error
    if kind != type(optimiser).__name__:
        raise InputError(
            f"{path} is of a run with {kind}, not {type(optimiser).__name__}: choose another output folder"
        )
    _take(path, "learned", method.trainable(), tensors)
    _take(path, "average", average or {}, tensors)
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, field = name.split(".", 2)
            moments.setdefault(int(index), {})[field] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    return state


@torch.no_grad()
def _take(path: Path, kind: str, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    given = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{kind}.")}
    fits = wanted.keys() == given.keys() and all(wanted[n].shape == given[n].shape for n in given)
    if not fits:
        raise InputError(f"{path} is the state of another run: choose another output folder, or delete it")
    for name, tensor in wanted.items():
        tensor.copy_(given[name])
