"""Connects to a Ray cluster for the length of a job: an existing one by address, or a new local one."""

import logging
import os
import socket
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from foveate.errors import InputError
from foveate.foreground.proposers.registry import demand

_OBJECT_STORE = 256 << 20  # bytes; only names and answers pass through it, no pictures
_PATIENCE = 10.0  # seconds to wait for a cluster's answer
_PORT = 6379
# Environment of the processes we start: no usage reports, and only error messages.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True)
class Cluster:
    """Resources of a cluster.

    Attributes:
        cpus: CPU cores of all machines.
        gpus: GPUs of all machines.
    """

    cpus: int
    gpus: int


@contextmanager
def joined(address: str | None = None, cpus: int | None = None) -> Generator[Cluster]:
    """Connect to the cluster at an address, or start a local one and stop it at the end.

    Args:
        address: "HOST:PORT", "ray://HOST:PORT" or "auto"; None uses RAY_ADDRESS, otherwise a local
            cluster. A program that is already connected stays connected.
        cpus: CPU cores of a local cluster; None: as many as this process may use.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    demand("ray", "--ray", "ray", "pyarrow")
    with _silence():
        import ray

        if ray.is_initialized():
            yield _resources()
            return
        address = address or os.environ.get("RAY_ADDRESS")
        _join(address) if address and address != "local" else _start(cpus)
        try:
            yield _resources()
        finally:
            ray.shutdown()


def own_cpus() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start(cpus: int | None) -> None:
    import ray

    with _quietly():
        ray.init(
            address="local",
            num_cpus=cpus or own_cpus(),
            object_store_memory=_OBJECT_STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def _join(address: str) -> None:
    import ray

    if address != "auto":
        _check_reachable(address)
    try:
        with _quietly():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"no Ray cluster at {address}: start one (`ray start --head`), or give another --ray-address"
        ) from error


def _check_reachable(address: str) -> None:
    """Check that the address accepts connections: otherwise Ray waits forever."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host or address, int(port) if host else _PORT), _PATIENCE):
            pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address}: start one (`ray start --head`), or give another"
            " --ray-address (HOST:PORT)"
        ) from error


def _resources() -> Cluster:
    import ray

    resources = ray.cluster_resources()
    return Cluster(int(resources.get("CPU", 0)), int(resources.get("GPU", 0)))


@contextmanager
def _quietly() -> Generator[None]:
    """Silence Ray while it starts or connects, unless the user configured its output."""
    added = {name: value for name, value in _QUIET.items() if name not in os.environ}
    os.environ.update(added)
    sys.stderr.flush()
    error_stream, null_device = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, 2)  # native code writes to this descriptor directly
    try:
        yield
    finally:
        os.dup2(error_stream, 2)
        os.close(error_stream)
        os.close(null_device)
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _silence() -> Generator[None]:
    """Suppress Ray's own warnings in this context."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings("ignore", module=r"ray(\.|$)")
        yield
