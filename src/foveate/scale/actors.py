"""A pool of Ray actors that answer requests; each actor loads its own model once."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from foveate.errors import InputError
from foveate.processes import thread_variables
from foveate.scale.cluster import Cluster

Answer = Callable[[str], str]
"""Answers a request: JSON in, JSON out."""

_TRIES = 3  # attempts for a request whose actor dies
_MOST_BLOCKS = 10_000  # of a Ray data set; Ray keeps some data of each block in memory


@dataclass(frozen=True)
class Pool:
    """Actors of one model.

    Attributes:
        actors: Number of actors.
        cpus: CPU cores of each actor.
        gpus: GPUs of each actor.
    """

    actors: int
    cpus: int = 1
    gpus: int = 0


def pool_of(cluster: Cluster, workers: int | None = None, gpus: bool | None = None) -> Pool:
    """Divide a cluster among the actors of a model: one GPU each if there are GPUs, otherwise one core each.

    Args:
        cluster: Resources of the cluster.
        workers: Number of actors; None: as many as fit.
        gpus: Whether to use GPUs; None: if there are any.

    Raises:
        InputError: There is no GPU, or no room for so many actors.
    """
    if gpus and not cluster.gpus:
        raise InputError("the Ray cluster has no GPU: take --device cpu, or join another --ray-address")
    gpus_each = 1 if (cluster.gpus if gpus is None else gpus) else 0
    room = cluster.gpus if gpus_each else cluster.cpus
    if workers is not None and workers > room:
        kind = "GPUs" if gpus_each else "CPUs"
        raise InputError(
            f"--workers is {workers}, but the Ray cluster has {room} {kind}: give at most {room}"
        )
    actors = workers or max(1, room)
    # Cores beyond one for each GPU decode pictures.
    return Pool(actors, max(1, cluster.cpus // actors) if gpus_each else 1, gpus_each)


def ask(questions: Sequence[str], opening: Callable[[], Answer], pool: Pool) -> Generator[str]:
    """Yield the answer to each request, in order; a cluster must be connected.

    Args:
        questions: Requests; each is sent to one actor.
        opening: Loads the model in an actor.
        pool: Number of actors and their resources.

    Raises:
        InputError: Actors die repeatedly.
    """
    if not questions:
        return
    import ray.data

    rows = [{"question": question} for question in questions]
    with _context():
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS)).map_batches(
            Actor,
            fn_constructor_args=(opening, pool),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(pool.actors, len(rows))),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            **_few_tries(ray.data.Dataset.map_batches),
        )
    with (
        _no_log(),
        _explain_deaths(pool),
        closing(cast("Generator[dict[str, Any]]", iter(dataset.iter_rows()))) as answers,
    ):
        for row in answers:
            yield row["answer"]


def _few_tries(map_batches: Callable[..., object]) -> dict[str, Any]:
    """Return the argument that limits Ray's retries; versions after Ray 2.63 may not have it."""
    if "ray_remote_args_fn" not in inspect.signature(map_batches).parameters:
        return {}
    return {"ray_remote_args_fn": lambda: {"max_task_retries": _TRIES}}


class Actor:
    """Answers requests on a cluster; it uses one thread for each of its cores."""

    def __init__(self, opening: Callable[[], Answer], pool: Pool) -> None:
        os.environ.update(thread_variables(pool.cpus))  # before PyTorch is imported
        if "torch" in sys.modules:
            import torch

            torch.set_num_threads(pool.cpus)
        self._answer = opening()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"answer": np.array([self._answer(question) for question in batch["question"]], dtype=object)}


@contextmanager
def _context() -> Generator[None]:
    """Make Ray Data preserve order and hide progress bars, for data sets created in this context."""
    from ray.data import DataContext

    context = DataContext.get_current()
    previous = context.enable_progress_bars, context.execution_options.preserve_order
    context.enable_progress_bars, context.execution_options.preserve_order = False, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about arguments that a later Ray may not have
            yield
    finally:
        context.enable_progress_bars, context.execution_options.preserve_order = previous


@contextmanager
def _no_log() -> Generator[None]:
    """Limit Ray Data's console output to errors; its log file is unchanged."""
    handlers = [
        handler
        for handler in logging.getLogger("ray.data").handlers
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
    ]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)


@contextmanager
def _explain_deaths(pool: Pool) -> Generator[None]:
    from ray import exceptions as ray

    try:
        yield
    except (ray.RayActorError, ray.OutOfMemoryError, ray.WorkerCrashedError, ray.NodeDiedError) as error:
        raise InputError(
            f"one of {pool.actors} actors on the Ray cluster died again and again, perhaps for want of"
            " memory: take fewer --workers"
        ) from error
