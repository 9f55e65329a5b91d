"""Makes shards of features on a Ray cluster: tasks receive paths and write the files."""

import json
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from foveate.data.feature_maker import ShardMaker
from foveate.data.feature_work import Outcome, Run, ShardTask, ShardWork
from foveate.data.samples import Sample
from foveate.errors import InputError
from foveate.scale.actors import Answer, ask, pool_of
from foveate.scale.cluster import joined


def on_ray(address: str | None = None, workers: int | None = None, device: str | None = None) -> Run:
    """Return a function that makes shards on a Ray cluster, which needs the pictures under the same paths.

    Args:
        address: Address of the cluster (see `foveate.scale.cluster.joined`).
        workers: Number of actors; None: one for each GPU, or one for each core.
        device: "cpu" or "cuda"; None uses GPUs if there are any.
    """

    def run(work: Sequence[ShardWork], workshop: ShardTask) -> Generator[Outcome]:
        if not work:
            return
        questions = [_shard_question(one) for one in work]
        with joined(address, workers) as cluster:
            pool = pool_of(cluster, workers, None if device is None else device.startswith("cuda"))
            place = {"device": "cuda", "readers": pool.cpus} if pool.gpus else {"device": "cpu", "readers": 0}
            shop = replace(workshop, job=replace(workshop.job, **place), out=workshop.out.absolute())
            with closing(ask(questions, partial(_shard_answer, shop), pool)) as answers:
                for answer in answers:
                    values = json.loads(answer)
                    left_out = tuple((name, reason) for name, reason in values.pop("left_out"))
                    yield Outcome(**values, left_out=left_out)

    return run


def _shard_question(work: ShardWork) -> str:
    samples = [
        [_file(sample.picture), sample.label, sample.mask and _file(sample.mask)] for sample in work.samples
    ]
    return json.dumps([work.number, work.key, work.names, samples])


def _file(source: object) -> str:
    if not isinstance(source, Path):
        raise InputError(f"{source}: only pictures that are files go to a Ray cluster; leave --ray out")
    return str(source.absolute())


def _shard_answer(workshop: ShardTask) -> Answer:
    maker = ShardMaker(workshop)

    def answer(question: str) -> str:
        number, key, names, samples = json.loads(question)
        read = tuple(Sample(Path(file), label, Path(mask) if mask else None) for file, label, mask in samples)
        try:
            return json.dumps(asdict(maker(ShardWork(number, key, tuple(names), read))))
        except OSError as error:  # e.g. a full disk: no remote traceback
            return json.dumps(asdict(Outcome(number, 0, error=f"{error.filename or workshop.out}: {error}")))

    return answer
