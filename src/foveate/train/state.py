"""The resume state: one safetensors file with learned tensors, optimiser state and position in the run.

It is a single file, because two files could be from different moments after a crash.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.clip.layouts import check_numbers
from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.readers import one_line, parse_table
from foveate.train.optimiser import FirstOrder

_MOMENTS = ("step", "momentum_buffer", "exp_avg", "exp_avg_sq")
"""State of SGD and AdamW for a parameter."""


@dataclass(frozen=True)
class State:
    """Position of a fit.

    Attributes:
        epoch: Number of finished epochs.
        step: Number of steps taken.
        first_loss: Loss of the first step, 0 before it.
    """

    epoch: int = 0
    step: int = 0
    first_loss: float = 0.0


def save_state(
    path: Path | None,
    method: Method,
    optimiser: FirstOrder,
    state: State,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the state after an epoch; without a path, write nothing."""
    if path is None:
        return
    tensors = {f"learned.{name}": parameter.detach() for name, parameter in method.trainable().items()}
    tensors |= {f"average.{name}": total for name, total in (average or {}).items()}
    for index, moments in optimiser.moments.items():
        tensors |= {f"optimiser.{index}.{name}": moment for name, moment in moments.items()}
    tensors = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    # One entry only: safetensors writes several entries in any order, and equal states should give equal
    # files.
    metadata = json.dumps({**asdict(state), "optimiser": optimiser.name})
    write_atomically(path, save(tensors, {"state": metadata}))


def load_state(
    path: Path | None,
    method: Method,
    optimiser: FirstOrder,
    average: Mapping[str, Tensor] | None = None,
) -> State:
    """Load a state, and fill `average`; a missing file, or no path, is a fresh start.

    Raises:
        InputError: The file is damaged, or belongs to another method or optimiser.
    """
    if path is None or not path.exists():
        return State()
    try:
        with safe_open(path, "pt") as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = parse_table(file.metadata()["state"], "its state")
        check_numbers(tensors)
        optimiser_name = values.pop("optimiser")
        state = as_dataclass(State, values, "its state")
        if min(state.epoch, state.step, state.first_loss) < 0:
            raise InputError(f"its state is {values}")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or one_line(error)})") from error
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = one_line(error)
        raise InputError(f"{path} is damaged ({reason}): delete it to start this stage again") from error
    if optimiser_name != optimiser.name:
        raise InputError(
            f"{path} is of a run with {optimiser_name}, not {optimiser.name}: choose another output folder"
        )
    targets = {"learned": method.trainable(), "average": average or {}}
    loaded = {kind: _fitting(path, kind, group, tensors) for kind, group in targets.items()}
    moments = _moments(path, optimiser, tensors)
    with torch.no_grad():
        for kind, group in targets.items():
            for name, tensor in group.items():
                tensor.copy_(loaded[kind][name])
    optimiser.moments = moments
    return state


def _moments(
    path: Path, optimiser: FirstOrder, tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """Return the optimiser state of each parameter, by parameter index.

    Raises:
        InputError: The state belongs to other parameters.
    """
    shapes = [parameter.shape for parameter in optimiser.parameters]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in ("learned", "average"):
            continue
        digits, _, field = rest.partition(".")
        index = int(digits) if digits.isdecimal() and len(digits) < 9 else len(shapes)
        known = kind == "optimiser" and field in _MOMENTS and index < len(shapes)
        if not known or (tensor.shape != shapes[index] and not (field == "step" and tensor.numel() == 1)):
            raise InputError(
                f"{path} is damaged ({name} of shape {list(tensor.shape)} is no moment of its optimiser):"
                " delete it to start this stage again"
            )
        device = tensor.device if field == "step" else optimiser.parameters[index].device
        moments.setdefault(index, {})[field] = tensor.to(device, copy=True)  # it is mapped from the file
    return moments


def _fitting(
    path: Path, kind: str, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of one kind, by name.

    Raises:
        InputError: Names or shapes differ from the expected ones.
    """
    loaded = {name.partition(".")[2]: t for name, t in tensors.items() if name.startswith(f"{kind}.")}
    fits = expected.keys() == loaded.keys() and all(expected[n].shape == loaded[n].shape for n in loaded)
    if not fits:
        raise InputError(f"{path} is the state of another run: choose another output folder, or delete it")
    return loaded
