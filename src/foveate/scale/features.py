"""Makes shards of features in several processes on this machine, or on a Ray cluster."""

import json
from collections.abc import Generator, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from foveate.data.feature_maker import Outcome, Run, ShardMaker, ShardTask, ShardWork
from foveate.data.samples import Sample
from foveate.errors import InputError
from foveate.processes import begin_worker, process_pool
from foveate.scale.actors import Answer, ask, pool_of
from foveate.scale.cluster import joined

# Makes shards of features in several processes on this machine, each with its own tower.


def in_processes(workers: int) -> Run:
    """Return a function that makes shards in this many processes, with one thread each."""

    def run(work: Sequence[ShardWork], task: ShardTask) -> Generator[Outcome]:
        if not work:
            return
        worker_task = replace(task, job=replace(task.job, readers=0))
        with process_pool(min(workers, len(work)), _begin, worker_task) as pool:
            for future in as_completed([pool.submit(_make, shard) for shard in work]):
                yield future.result()

    return run


_maker: list[ShardMaker] = []  # state of this process, set by its initialiser


def _begin(task: ShardTask) -> None:
    begin_worker(threads=1)
    torch.set_num_threads(1)  # PyTorch is imported already
    _maker.append(ShardMaker(task))


def _make(work: ShardWork) -> Outcome:
    return _maker[0](work)


# Makes shards of features on a Ray cluster: tasks receive paths and write the files.


def on_ray(address: str | None = None, workers: int | None = None, device: str | None = None) -> Run:
    """Return a function that makes shards on a Ray cluster, which needs the pictures under the same paths.

    Args:
        address: Address of the cluster (see `foveate.scale.cluster.joined`).
        workers: Number of actors; None: one for each GPU, or one for each core.
        device: "cpu" or "cuda"; None uses GPUs if there are any.
    """

    def run(work: Sequence[ShardWork], task: ShardTask) -> Generator[Outcome]:
        if not work:
            return
        questions = [_shard_question(shard) for shard in work]
        with joined(address, workers) as cluster:
            pool = pool_of(cluster, workers, None if device is None else device.startswith("cuda"))
            resources = (
                {"device": "cuda", "readers": pool.cpus} if pool.gpus else {"device": "cpu", "readers": 0}
            )
            actor_task = replace(task, job=replace(task.job, **resources), out=task.out.absolute())
            with closing(ask(questions, partial(_shard_answer, actor_task), pool)) as answers:
                for answer in answers:
                    values = json.loads(answer)
                    left_out = tuple((name, reason) for name, reason in values.pop("left_out"))
                    yield Outcome(**values, left_out=left_out)

    return run


def _shard_question(shard: ShardWork) -> str:
    samples = [
        [_file(sample.picture), sample.label, sample.mask and _file(sample.mask)] for sample in shard.samples
    ]
    return json.dumps([shard.number, shard.key, shard.names, samples])


def _file(source: object) -> str:
    if not isinstance(source, Path):
        raise InputError(f"{source}: only pictures that are files go to a Ray cluster; leave --ray out")
    return str(source.absolute())


def _shard_answer(task: ShardTask) -> Answer:
    maker = ShardMaker(task)

    def answer(question: str) -> str:
        number, key, names, samples = json.loads(question)
        parsed = tuple(
            Sample(Path(file), label, Path(mask) if mask else None) for file, label, mask in samples
        )
        try:
            return json.dumps(asdict(maker(ShardWork(number, key, tuple(names), parsed))))
        except OSError as error:  # e.g. a full disk: no remote traceback
            return json.dumps(asdict(Outcome(number, 0, error=f"{error.filename or task.out}: {error}")))

    return answer
