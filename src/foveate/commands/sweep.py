"""`foveate sweep`: every run of the papers' tables, on one machine or on many."""

import shlex
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from foveate.commands.options import parse
from foveate.commands.screen import note, notes_for_warnings
from foveate.commands.sweeping import SweepBars
from foveate.errors import InputError
from foveate.scale.cluster import own_cpus
from foveate.sweep import sets
from foveate.sweep.events import Event
from foveate.sweep.folder import BANK, alone_in, size_of_bank
from foveate.sweep.jobs import OWN
from foveate.sweep.local import in_processes
from foveate.sweep.plan import Standing, SweepPlan, plan, schedule_of, standing
from foveate.sweep.running import SweepContext, check_towers, missing_backbones
from foveate.sweep.schedule import Schedule
from foveate.train.config import TrackerName
from foveate.train.tracking import demand_tracker

EXAMPLES = """
    foveate sweep configs/sweep-world.yaml --root world/
    foveate sweep configs/table1.yaml --root data/ --out out/table1 --dry-run
    foveate sweep configs/table1.yaml --root data/ --out out/table1
    foveate sweep configs/table1.yaml --root /shared/data --out /shared/table1 --ray --ray-address head:6379
    foveate sweep table1 --root data/ --out out/table1 --shard "$SLURM_ARRAY_TASK_ID/8"
    foveate sweep configs/exchange.yaml --tables Augmentation,Hosts --root world/
    foveate report out/table1 --against paper
"""
_MUCH = 100_000_000  # bytes of cached features above which a note is printed
_MOST_SHARDS = 10_000
GROUPS = {
    "where it runs": ("device", "workers", "threads", "ray", "ray_address", "gpus_per_run", "shard"),
    "before it runs": ("dry_run", "json"),
}


def sweep(  # noqa: PLR0913  (a command's options)
    table: str,
    *,
    root: str | None = None,
    out: str | None = None,
    clip: str | None = None,
    tables: tuple[str, ...] | None = None,
    device: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    ray: bool = False,
    ray_address: str | None = None,
    gpus_per_run: float = 1.0,
    shard: str | None = None,
    track: TrackerName | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Do each run of a sweep's file; repeat the command to resume. Finished runs are skipped.

    Args:
        table: YAML file of the sweep, or the name of one of the package, e.g. table1.
        root: Folder of the data sets; the file may set it too. Missing drawn sets are drawn.
        out: Folder of all results; by default out/NAME, with the name in the file.
        clip: Hub id, folder or file of CLIP weights; replaces that of the file.
        tables: Titles of tables, separated by commas; by default all of the file.
        device: Device of the runs, e.g. cpu or cuda; by default all GPUs, or the CPU if there is none.
        workers: Number of parallel runs; by default one per GPU, or one per core.
        threads: CPU threads per run; on a CPU the last bits of results depend on it.
        ray: Use a Ray cluster: the one at --ray-address, or a new one on this computer.
        ray_address: HOST:PORT of a Ray cluster; the environment variable RAY_ADDRESS works too.
        gpus_per_run: Share of a GPU for each run, with --ray.
        shard: Only a part of the runs, e.g. 2/8 for the second of eight: for the jobs of an array, on
            computers that share --out. A backbone and the runs over it stay together.
        track: Copy the log of each training to TensorBoard, W&B (offline) or MLflow, in its folder.
        dry_run: Print the runs with an estimate of time and disk space, and train nothing.
        json: Print that list as JSON.
    """
    _check(workers, threads, gpus_per_run, ray=ray, ray_address=ray_address, dry_run=dry_run, json=json)
    planned = plan(Path(table).expanduser(), {"clip": clip}, device or devices_of(None, 1, 1)[0], tables)
    number, of = _shard(shard)
    if number is not None:
        planned = planned.shard(number, of)
    folder = Path(out or f"out/{planned.sweep.title}").expanduser().absolute()
    data = Path(root or planned.sweep.root or "data").expanduser().absolute()
    if dry_run:
        from foveate.commands.sweep_estimate import show

        show(planned, folder, workers or 1, as_json=json)
        lost = missing_backbones(planned.jobs)
        for one in [*sets.missing(data, planned.keys()), *([f"missing: {lost}"] if lost else [])]:
            note(one)
        return
    demand_tracker(track, folder)
    where = SweepContext(data, folder, device or "cpu", threads, planned.sweep.imported, track)
    part = None if number is None else f"{number}-of-{of}"
    with notes_for_warnings(), alone_in(folder, part):
        there = standing(planned.jobs, folder)
        schedule = schedule_of(there)
        with SweepBars(len(planned.jobs), len(there.finished), schedule.work) as board:
            for one in there.notes:
                board.note(one)
            if there.left:
                _prepare(there, data, board)
            for event in _run(schedule, where, device, workers, ray=(ray, ray_address, gpus_per_run)):
                board.show(event)
        _tell(planned, there, schedule, folder)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    sweep(**parse("sweep", sweep, words, groups=GROUPS, examples=EXAMPLES))


def _check(
    workers: int | None,
    threads: int,
    share: float,
    *,
    ray: bool,
    ray_address: str | None,
    dry_run: bool,
    json: bool,
) -> None:
    for flag, number in (("--workers", workers), ("--threads", threads)):
        if number is not None and number < 1:
            raise InputError(f"{flag} is {number}: give 1 or more")
    if not 0 < share <= 1:
        raise InputError(f"--gpus-per-run is {share:g}: give a share above 0 and up to 1")
    if share != 1 and not ray:
        raise InputError("--gpus-per-run is for Ray: give --ray too; several runs on a GPU are --workers")
    if ray_address and not ray:
        raise InputError("--ray-address is for Ray: give --ray too")
    if json and not dry_run:
        raise InputError("--json prints the list of runs: give --dry-run too")


def _shard(given: str | None) -> tuple[int | None, int]:
    """Return the number of a part and of all parts, from "2/8"."""
    if given is None:
        return None, 1
    number, _, of = given.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= _MOST_SHARDS):
        raise InputError(f"--shard is {given!r}: give a part and the number of parts, such as 2/8")
    return int(number), int(of)


def _prepare(there: Standing, data: Path, board: SweepBars) -> None:
    """Draw scenes, and refuse before any run what all runs need and is not there."""
    sets.make_ready(data, _needed(there), partial(board.count, "drawing scenes"))
    sets.check_there(data, _needed(there), _masked(there), _others(there))
    check_towers(there.left)
    if lost := missing_backbones(there.left):
        raise InputError(lost)


def _needed(there: Standing) -> list[str]:
    """Return the keys of the sets that unfinished runs need."""
    found = [key for job in there.left for key in (job.dataset, *(one.dataset for one in job.questions))]
    return list(dict.fromkeys(found))


def _masked(there: Standing) -> dict[str, str]:
    """Return the keys of the sets whose own masks are needed, with the method that needs them."""
    found: dict[str, str] = {}
    for job in there.left:
        if job.copies is None and job.config.needs_masks:
            found.setdefault(job.dataset, job.config.method)
        if job.test_masks == OWN:
            for one in job.questions:
                found.setdefault(one.dataset, job.config.method)
    return found


def _others(there: Standing) -> list[tuple[str, str]]:
    """Return sets, and names of their masks, for masks that do not belong to the set itself."""
    found = [(job.dataset, job.config.masks) for job in there.left if job.config.masks]
    for job in there.left:
        if job.test_masks and job.test_masks != OWN:
            found += [(one.dataset, job.test_masks) for one in job.questions]
    return list(dict.fromkeys(found))


def _run(
    schedule: Schedule,
    place: SweepContext,
    device: str | None,
    workers: int | None,
    *,
    ray: tuple[bool, str | None, float],
) -> Generator[Event]:
    wanted, address, share = ray
    if wanted:
        from foveate.sweep.on_ray import on_ray

        return on_ray(schedule, place, address, workers, device=device, share=share)
    return in_processes(schedule, place, devices_of(device, workers, place.threads))


def devices_of(device: str | None, workers: int | None, threads: int) -> list[str]:
    """Return the device of each worker: one GPU each, or the CPU several times.

    Raises:
        InputError: The device does not exist.
    """
    import torch

    from foveate.clip.weights import demand_device

    if device is not None:
        demand_device(device)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None and gpus:
        device = "cuda"
    if device is None or device == "cpu":
        return ["cpu"] * (workers or max(1, own_cpus() // threads))
    if device != "cuda":  # a device with an index
        return [device] * (workers or 1)
    return [f"cuda:{number % gpus}" for number in range(workers or gpus)]


def _tell(planned: SweepPlan, there: Standing, schedule: Schedule, folder: Path) -> None:
    """Report the outcome of the sweep.

    Raises:
        InputError: Some runs failed.
    """
    total, failed = len(planned.jobs), len(schedule.failed)
    before = f", {len(there.finished)} of them before" if there.finished else ""
    done = total - failed
    Console(highlight=False).print(
        f"{done} of {total} runs have finished{before}: {folder}", soft_wrap=True, markup=False
    )
    held = size_of_bank(folder)
    if not failed and held >= _MUCH:
        note(
            f"{held / 1e9:.1f} GB in {folder / BANK} are features that only further rows, sets or seeds would"
            f" read again; remove it if there will be none: rm -r {shlex.quote(str(folder / BANK))}"
        )
    if failed:
        key, line = next(iter(schedule.failed.items()))
        rest = "" if failed == 1 else f" ({failed} in all)"
        raise InputError(f"{key} failed{rest}: {line}; mend it and run the sweep again, the rest is kept")
