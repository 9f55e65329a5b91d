"""The optimisers of a recipe (SGD with momentum, and AdamW), and the resume state of a fit.

The optimisers compute what `torch.optim` computes with its default settings, to the last bit (a test
compares them). `torch.optim` loads PyTorch's compiler when the first optimiser is made: 2 seconds and 70 MB
in each training.

- [0]: Decoupled Weight Decay Regularization, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from foveate.clip.layouts import check_numbers
from foveate.configs import as_dataclass
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.methods.base import Method
from foveate.readers import one_line, parse_table
from foveate.train.recipe import Recipe

Moments = dict[str, Tensor]
"""State of one parameter, by name."""


class FirstOrder(ABC):
    """An optimiser that updates parameters by their gradients.

    Args:
        parameters: The learned tensors.
        lr: Learning rate; it may be changed between steps.
        weight_decay: Factor of the weights' decay.

    Attributes:
        moments: For each parameter that had a gradient, by index, its state.
    """

    name: str

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float):
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        self.moments: dict[int, Moments] = {}

    def zero_grad(self) -> None:
        """Remove all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update all parameters that have a gradient."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                moments = self.moments.get(index, {})
                self.update(parameter, parameter.grad, moments)
                if moments:
                    self.moments[index] = moments

    @abstractmethod
    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        """Update one parameter in place, and its state."""


class Sgd(FirstOrder):
    """Stochastic gradient descent: b ← μ b + (g + λ θ), θ ← θ − η b; the first b is g + λ θ.

    Args:
        parameters: The learned tensors.
        lr: η.
        weight_decay: λ.
        momentum: μ; 0 keeps no state.
    """

    name = "SGD"

    def __init__(
        self, parameters: Sequence[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.0
    ):
        super().__init__(parameters, lr, weight_decay)
        self.momentum = momentum

    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        if self.weight_decay:
            gradient = gradient.add(parameter, alpha=self.weight_decay)
        if self.momentum:
            if "momentum_buffer" in moments:
                moments["momentum_buffer"].mul_(self.momentum).add_(gradient)
            else:
                moments["momentum_buffer"] = gradient.clone()
            gradient = moments["momentum_buffer"]
        parameter.add_(gradient, alpha=-self.lr)


class AdamW(FirstOrder):
    """Adam with decoupled weight decay ([0], Algorithm 2), β = (0.9, 0.999), ε = 1e-8."""

    name = "AdamW"
    betas, epsilon = (0.9, 0.999), 1e-8

    def update(self, parameter: nn.Parameter, gradient: Tensor, moments: Moments) -> None:
        if not moments:
            moments |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        beta1, beta2 = self.betas
        moments["step"] += 1
        step = moments["step"].item()
        parameter.mul_(1 - self.lr * self.weight_decay)
        moments["exp_avg"].lerp_(gradient, 1 - beta1)
        moments["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        deviation = moments["exp_avg_sq"].sqrt().div_((1 - beta2**step) ** 0.5).add_(self.epsilon)
        parameter.addcdiv_(moments["exp_avg"], deviation, value=-self.lr / (1 - beta1**step))


def make_optimiser(recipe: Recipe, learned: Mapping[str, nn.Parameter]) -> FirstOrder:
    """Build the optimiser of the learned tensors, in the order of the mapping."""
    tensors = list(learned.values())
    if recipe.optimiser == "adamw":
        return AdamW(tensors, recipe.lr, recipe.weight_decay)
    return Sgd(tensors, recipe.lr, recipe.weight_decay, recipe.momentum)


# The resume state: one safetensors file with learned tensors, optimiser state and position in the run.
#
# It is a single file, because two files could be from different moments after a crash.


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
