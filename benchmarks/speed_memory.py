"""Peak memory of one workload in its own process: `python speed_memory.py WORK [--classes N]`.

It prints one line of JSON: the peak memory of the process, its peak after loading the towers (both in
MB), and the duration of a step (seconds).
"""

import argparse
import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fieldway_towers import FieldClip
from foveate.clip.rows import encode_rows
from foveate.data.bank import CHUNK
from foveate.methods.frozen import extract
from foveate.methods.prompts import PromptMethod
from foveate.methods.registry import build
from speed_setup import QUICK, Bench, Sizes, tune

Work = Callable[[Bench, argparse.Namespace], Callable[[], object]]


def stage_field(bench: Bench, args: argparse.Namespace) -> Callable[[], object]:
    """FVG-PT's stage with a second CLIP for the prior, as the released trainers load one."""
    own = FieldClip(copy.deepcopy(bench.clip))
    _, field = bench.both_stages("coop", args.classes, own)
    return lambda: field.step(*bench.field_batch(bench.sizes.batch))


def stage_field_shared(bench: Bench, args: argparse.Namespace) -> Callable[[], object]:
    """The same with one CLIP."""
    _, field = bench.both_stages("coop", args.classes, None)
    return lambda: field.step(*bench.field_batch(bench.sizes.batch))


def stage(bench: Bench, args: argparse.Namespace) -> Callable[[], object]:
    """The stage in foveate: a bank is filled and read."""
    ours = build("fvgpt+coop", bench.clip)
    ours.set_classes(bench.names(args.classes))
    held = bench.banked(ours, bench.sizes.batch)
    return lambda: tune(ours, next(held))


def step(bench: Bench, args: argparse.Namespace) -> Callable[[], object]:
    """A step of CoOp or KgCoOp with encoded pictures; filling a bank is not measured here."""
    ours = build(args.method, bench.clip)
    ours.set_classes(bench.names(args.classes))
    batch = bench.batch(bench.sizes.batch)
    held = replace(batch, frozen=extract(ours, batch))
    return lambda: tune(ours, held)


def texts(bench: Bench, args: argparse.Namespace) -> Callable[[], object]:
    """Class texts of CoOp forward and backward, in chunks of this many tokens (0: all at once)."""
    ours = build("coop", bench.clip)
    ours.set_classes(bench.names(args.classes))
    assert isinstance(ours, PromptMethod)
    rows, ctx = ours.rows, ours.ctx
    chunk = args.chunk or sum(rows.lengths)
    return lambda: encode_rows(bench.clip.text, rows, ctx, chunk=chunk).sum().backward()


WORKS: dict[str, Work] = {
    "stage-field": stage_field,
    "stage-field-shared": stage_field_shared,
    "stage": stage,
    "step": step,
    "texts": texts,
}


def peak() -> float:
    """Return the peak memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the parent's memory at the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def measured(*words: str) -> dict[str, float]:
    """Run a workload in its own process."""
    command = [sys.executable, str(Path(__file__)), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run the measurement that the arguments select."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=list(WORKS))
    parser.add_argument("--method", default="coop", choices=["coop", "kgcoop"])
    parser.add_argument("--classes", type=int, default=51)
    parser.add_argument("--chunk", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        # As many pictures as a bank encodes at once: fewer would use less memory than a real run.
        bench = Bench(QUICK if args.quick else replace(Sizes(), drawn=CHUNK), Path(folder))
        assert bench.clip is not None
        loaded, run = peak(), WORKS[args.work](bench, args)
        took: list[float] = []
        for _ in range(args.steps):
            start = time.perf_counter()
            run()
            took.append(time.perf_counter() - start)
    print(json.dumps({"peak_mb": peak(), "loaded_mb": loaded, "step_s": min(took)}))


if __name__ == "__main__":
    main()
