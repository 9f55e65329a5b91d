"""Measures several methods, each in its own process, so that peak memory is separate."""

import platform
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foveate.costs.measuring import CostPlan, MeasuredCost, measure
from foveate.errors import GPU_IS_FULL, InputError
from foveate.methods.registry import title
from foveate.processes import begin_worker, process_pool

SCHEMA = 1
METHODS = tuple(
    f"{plugin}{name}" for name in ("coop", "kgcoop", "promptsrc", "mmrl") for plugin in ("", "fvgpt+")
)
"""The four backbones of FVG-PT's paper, and FVG-PT over each."""

COUNTED = {
    "learned_numbers": "of the stage that is tuned; of a plug-in, not those of its frozen backbone",
    "tuning_pictures_per_second": "whole steps of the training loop on drawn JPEG files: read, decode, crop,"
    " encode, losses, gradients, optimiser; a plug-in's over a frozen backbone",
    "banked_pictures_per_second": "the same steps where a bank has the frozen features already, as from the"
    " second run on it; null where nothing is frozen that a bank could hold",
    "filling_pictures_per_second": "how fast such a bank is made, once a view",
    "inference_pictures_per_second": "answers among trained names; class texts are read before, and pictures"
    " decoded before",
    "new_inference_pictures_per_second": "the same among new names",
    "peak_memory_mb": "most memory of tuning without a bank, weights included; on a CPU of the whole process,"
    " on a GPU of PyTorch's tensors there; 1 MB is 10⁶ bytes",
    "speeds": "median over windows; they are this machine's and compare with no other's",
}


def measure_apart(
    plans: Sequence[CostPlan], watch: Callable[[int, int], None] | None = None
) -> Iterator[MeasuredCost]:
    """Measure each plan in its own process, one after the other.

    Args:
        plans: Plans to measure.
        watch: Called with the number of finished plans.

    Raises:
        InputError: A plan cannot be measured; the message gives the plan and the reason.
    """
    for finished, plan in enumerate(plans):
        if watch:
            watch(finished, len(plans))
        yield _measured(plan)
    if watch:
        watch(len(plans), len(plans))


def _measured(plan: CostPlan) -> MeasuredCost:
    with process_pool(1, _begin, torch.get_num_threads()) as pool:
        try:
            return pool.submit(measure, plan).result()
        except InputError as error:
            reason = str(error)
        except torch.OutOfMemoryError:
            reason = GPU_IS_FULL
        except BrokenProcessPool:
            reason = (
                "the process that measured it was killed, perhaps for want of memory: take a smaller"
                " --batch-size or fewer --classes"
            )
    raise InputError(f"{plan.method}: {reason}")


def _begin(threads: int) -> None:
    begin_worker(threads)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends it at once, its files removed
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # they would stand between the lines of the first process


def as_row(cost: MeasuredCost) -> dict[str, Any]:
    """Return a cost as the row of a report."""
    row: dict[str, Any] = {"row": title(cost.method), "method": cost.method, "stage": cost.stage}
    row |= {"learned_numbers": cost.learned_numbers, "batch_size": cost.batch_size}
    speeds = {"tuning": cost.tuning, "banked": cost.banked}
    speeds |= {"inference": cost.inference, "new_inference": cost.new_inference}
    for name, speed in speeds.items():
        row[f"{name}_pictures_per_second"] = speed and _short(speed.typical)
    row["filling_pictures_per_second"] = cost.filling and _short(cost.filling)
    row |= {"peak_memory_mb": round(cost.peak_memory_mb, 1), "loaded_mb": round(cost.loaded_mb, 1)}
    row["spread"] = {
        name: [_short(speed.least), _short(speed.most)] for name, speed in speeds.items() if speed
    }
    return row


def as_table(rows: Sequence[Mapping[str, Any]], plan: CostPlan) -> dict[str, Any]:
    """Return the rows and everything they depend on, as in `cost.json`."""
    settings = {name: value for name, value in asdict(plan).items() if name != "method"}
    return {
        "schema": SCHEMA,
        "device": device_name(plan.device),
        "rows": list(rows),
        "settings": settings | {"threads": torch.get_num_threads()},
        "versions": {
            "foveate": version("foveate"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "counted": COUNTED,
    }


def device_name(device: str) -> str:
    """Return a description of a device."""
    torch_device = torch.device(device)
    if torch_device.type == "cuda":
        return torch.cuda.get_device_name(torch_device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{next(models, platform.processor() or 'CPU')}, {threads} thread{'s' * (threads != 1)}"


def _short(number: float) -> float:
    """Round to four digits; more would be noise."""
    return float(f"{number:.4g}")
