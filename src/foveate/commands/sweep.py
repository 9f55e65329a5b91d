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
from foveate.sweep.jobs import OWN
from foveate.sweep.local import in_processes
from foveate.sweep.plan import Standing, SweepPlan, plan, schedule_of, standing
from foveate.sweep.results import BANK, alone_in, size_of_bank
from foveate.sweep.running import SweepContext, check_towers, missing_backbones
from foveate.sweep.schedule import Event, Schedule
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
    part_number, part_count = _shard(shard)
    if part_number is not None:
        planned = planned.shard(part_number, part_count)
    folder = Path(out or f"out/{planned.sweep.title}").expanduser().absolute()
    data = Path(root or planned.sweep.root or "data").expanduser().absolute()
    if dry_run:
        from foveate.commands.sweeping import show

        show(planned, folder, workers or 1, as_json=json)
        missing = missing_backbones(planned.jobs)
        for message in [*sets.missing(data, planned.keys()), *([f"missing: {missing}"] if missing else [])]:
            note(message)
        return
    demand_tracker(track, folder)
    context = SweepContext(data, folder, device or "cpu", threads, planned.sweep.imported, track)
    part_name = None if part_number is None else f"{part_number}-of-{part_count}"
    with notes_for_warnings(), alone_in(folder, part_name):
        status = standing(planned.jobs, folder)
        schedule = schedule_of(status)
        with SweepBars(len(planned.jobs), len(status.finished), schedule.work) as board:
            for message in status.notes:
                board.note(message)
            if status.left:
                _prepare(status, data, board)
            for event in _run(schedule, context, device, workers, ray=(ray, ray_address, gpus_per_run)):
                board.show(event)
        _tell(planned, status, schedule, folder)


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


def _shard(text: str | None) -> tuple[int | None, int]:
    """Parse "2/8": return the number of the part and the number of all parts."""
    if text is None:
        return None, 1
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= _MOST_SHARDS):
        raise InputError(f"--shard is {text!r}: give a part and the number of parts, such as 2/8")
    return int(number), int(count)


def _prepare(status: Standing, data: Path, board: SweepBars) -> None:
    """Draw missing scenes, and check before any run that everything the runs need exists."""
    sets.make_ready(data, _needed(status), partial(board.count, "drawing scenes"))
    sets.check_there(data, _needed(status), _masked(status), _foreign_masks(status))
    check_towers(status.left)
    if missing := missing_backbones(status.left):
        raise InputError(missing)


def _needed(status: Standing) -> list[str]:
    """Return the keys of the sets that unfinished runs need."""
    keys = [
        key for job in status.left for key in (job.dataset, *(question.dataset for question in job.questions))
    ]
    return list(dict.fromkeys(keys))


def _masked(status: Standing) -> dict[str, str]:
    """Return the keys of the sets whose own masks are needed, with the method that needs them."""
    methods: dict[str, str] = {}
    for job in status.left:
        if job.copies is None and job.config.needs_masks:
            methods.setdefault(job.dataset, job.config.method)
        if job.test_masks == OWN:
            for question in job.questions:
                methods.setdefault(question.dataset, job.config.method)
    return methods


def _foreign_masks(status: Standing) -> list[tuple[str, str]]:
    """Return pairs of a set and the name of its masks, for masks that are not the set's own."""
    pairs = [(job.dataset, job.config.masks) for job in status.left if job.config.masks]
    for job in status.left:
        if job.test_masks and job.test_masks != OWN:
            pairs += [(question.dataset, job.test_masks) for question in job.questions]
    return list(dict.fromkeys(pairs))


def _run(
    schedule: Schedule,
    context: SweepContext,
    device: str | None,
    workers: int | None,
    *,
    ray: tuple[bool, str | None, float],
) -> Generator[Event]:
    use_ray, address, share = ray
    if use_ray:
        from foveate.sweep.on_ray import on_ray

        return on_ray(schedule, context, address, workers, device=device, share=share)
    return in_processes(schedule, context, devices_of(device, workers, context.threads))


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


def _tell(planned: SweepPlan, status: Standing, schedule: Schedule, folder: Path) -> None:
    """Report the outcome of the sweep.

    Raises:
        InputError: Some runs failed.
    """
    total, failed = len(planned.jobs), len(schedule.failed)
    earlier = f", {len(status.finished)} of them before" if status.finished else ""
    done = total - failed
    Console(highlight=False).print(
        f"{done} of {total} runs have finished{earlier}: {folder}", soft_wrap=True, markup=False
    )
    bank_bytes = size_of_bank(folder)
    if not failed and bank_bytes >= _MUCH:
        note(
            f"{bank_bytes / 1e9:.1f} GB in {folder / BANK} are features that only further rows, sets or seeds"
            f" would read again; remove it if there will be none: rm -r {shlex.quote(str(folder / BANK))}"
        )
    if failed:
        key, line = next(iter(schedule.failed.items()))
        rest = "" if failed == 1 else f" ({failed} in all)"
        raise InputError(f"{key} failed{rest}: {line}; mend it and run the sweep again, the rest is kept")
