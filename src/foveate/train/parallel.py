"""A process group that trains one model; each process has its part of each batch.

torchrun, Slurm, Ray Train or the user starts the processes. The group uses the environment variables of
torch.distributed (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT). Small data and CPU tensors
use gloo; GPU tensors use NCCL.
"""

import json
import os
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from foveate.data.feature_store import FeatureKey
from foveate.data.loader import Rank
from foveate.errors import InputError
from foveate.memory import digest_of
from foveate.readers import one_line

T = TypeVar("T")

ARRIVAL = timedelta(minutes=5)
"""Timeout for the start of all processes."""

SILENCE = timedelta(minutes=30)
"""Timeout of communication with a process that hangs. A process that has ended is detected at once."""

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")


class ProcessLost(InputError):
    """Another process has ended or does not respond."""


class ProcessGroup:
    """This process and the others of its group. All must call the same methods in the same order.

    Args:
        share: Rank of this process, and the number of processes.
        local: Rank on this computer; also the index of its GPU.
        store: Store for messages about errors; None if other code has started the group.

    Attributes:
        share: See above.
    """

    def __init__(self, share: Rank, local: int = 0, store: Store | None = None) -> None:
        self.share, self._local, self._store = share, local, store
        # A group that other code started may have no CPU backend.
        cpu_group = None if store else dist.new_group(backend="gloo", timeout=SILENCE)
        self._cpu = cast("dist.ProcessGroup | None", cpu_group)

    @classmethod
    def join(cls) -> "ProcessGroup | None":
        """Join the process group that the environment describes; None if there is none.

        Raises:
            InputError: The environment is incomplete, or the other processes do not start.
        """
        world = _number("WORLD_SIZE", 1)
        if world == 1:
            return None
        missing = [name for name in _NEEDED if not os.environ.get(name)]
        if missing:
            raise InputError(
                f"WORLD_SIZE is {world}, but {missing[0]} is not set: start with torchrun, or unset it"
            )
        share, local = Rank(_number("RANK", 0), world), _number("LOCAL_RANK", 0)
        if not 0 <= share.rank < world:
            raise InputError(f"RANK is {share.rank}, but WORLD_SIZE is {world}: ranks are 0 to {world - 1}")
        nccl = torch.cuda.is_available() and dist.is_nccl_available()
        try:
            store, *_ = next(iter(rendezvous("env://", timeout=ARRIVAL)))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if nccl else "gloo",
                store=PrefixStore("group", store),
                rank=share.rank,
                world_size=world,
                timeout=SILENCE,
            )
            process_group = cls(share, local, PrefixStore("foveate", store))
            process_group.broadcast_json(None)  # returns when all processes have joined
        except (RuntimeError, ValueError, InputError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise InputError(
                f"process {share.rank} has not met the {world - 1} others at {where}"
                f" ({one_line(error, 120)}): start {world} processes, and let each reach that address"
            ) from error
        return process_group

    @classmethod
    def joined(cls) -> "ProcessGroup | None":
        """Return an existing process group, such as that of Ray Train; None if there is none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return None
        return cls(Rank(dist.get_rank(), dist.get_world_size()), _number("LOCAL_RANK", 0))

    def leave(self) -> None:
        """End the group. Messages in the store stay."""
        if self._store and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the first, which writes files and reports."""
        return self.share.rank == 0

    def shares(self) -> list[Rank]:
        """Return the shares of all processes, in order."""
        return [Rank(rank, self.share.world) for rank in range(self.share.world)]

    def device(self, requested: str) -> str:
        """Return the device of this process; on GPUs, each process of a computer uses its own GPU.

        Raises:
            InputError: There are fewer GPUs than processes, or a GPU index was given.
        """
        if requested.startswith("cuda:"):
            raise InputError(f"--device is {requested!r}, but each process takes a GPU of its own: say cuda")
        if requested != "cuda" or not torch.cuda.is_available():
            return requested
        if self._local >= torch.cuda.device_count():
            raise InputError(
                f"process {self.share.rank} is number {self._local}, counted from 0, on a computer with"
                f" {torch.cuda.device_count()} GPUs: start no more processes than GPUs"
            )
        torch.cuda.set_device(self._local)
        return f"cuda:{self._local}"

    # --- numbers ---

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor with the sum over all processes; the bits are the same in all processes."""
        with self._communication():
            dist.all_reduce(tensor, group=self._group(tensor))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensor of each process; all have the same shape."""
        tensors = [torch.empty_like(tensor) for _ in range(self.share.world)]
        with self._communication():
            dist.all_gather(tensors, tensor.contiguous(), group=self._group(tensor))
        return tensors

    def broadcast(self, tensor: Tensor) -> None:
        """Replace a tensor with that of the first process."""
        with self._communication():
            dist.broadcast(tensor, src=0, group=self._group(tensor))

    def merge(self, tensor: Tensor, rows: Sequence[int]) -> None:
        """Fill a CPU tensor `[H, N, D]`: these rows from this process, the rest from the other processes."""
        other_rows = torch.ones(tensor.shape[1], dtype=torch.bool)
        other_rows[torch.tensor(rows, dtype=torch.long)] = False
        tensor[:, other_rows] = 0
        self.add(tensor.view(torch.uint8))  # bytes: no rounding; all but one are 0

    def lend(self, stored: Mapping[str, Tensor], like: Mapping[str, FeatureKey]) -> dict[str, Tensor]:
        """Return the tensors that the first process holds, in all processes.

        Args:
            stored: Tensors by name; only those of the first process count.
            like: Shape and type of each possible tensor.
        """
        tensors: dict[str, Tensor] = {}
        for name in self.broadcast_json(list(stored)):
            key = like[name]
            tensors[name] = stored[name] if self.first else torch.empty(key.shape, dtype=key.dtype)
            self.broadcast(tensors[name].view(torch.uint8))
        return tensors

    # --- messages ---

    def broadcast_json(self, value: T) -> T:
        """Return the value of the first process, sent as JSON."""
        return cast("T", json.loads(self._bytes(json.dumps(value).encode() if self.first else b"")))

    @contextmanager
    def lent(self, *paths: Path | None) -> Generator[list[Path | None]]:
        """Give all processes the first process's files; the others, which may not share its disk, get copies.

        Args:
            paths: The same arguments in all processes; a path may be None in all but the first.
        """
        names = self.broadcast_json([path.name if path and path.is_file() else "" for path in paths])
        if self.first:
            for path, name in zip(paths, names, strict=True):
                if path and name:
                    self._bytes(path.read_bytes())
            yield list(paths)
            return
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder) / name if name else None for name in names]
            for copy in copies:
                if copy:
                    copy.write_bytes(self._bytes(b""))
            yield list(copies)

    def demand_same(self, values: Mapping[str, Any], what: str) -> None:
        """Check that this process has the same values as the first.

        Raises:
            InputError: A value differs; the message names it.
        """
        own = json.loads(json.dumps(values))
        theirs = self.broadcast_json(own)
        differing = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
        if differing:
            raise InputError(
                f"process {self.share.rank} has {what} of its own ({differing[0]}): give all processes the"
                " same command, the same files and the same foveate"
            )
        self.add(torch.zeros(1))  # wait until all processes have checked

    def demand_equal(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """Check that all processes have the same learned tensors.

        Raises:
            InputError: The tensors differ. All processes raise it.
        """
        own = torch.frombuffer(bytearray.fromhex(digest_of(tensors)), dtype=torch.uint8)
        differing = [rank for rank, digest in enumerate(self.gather(own)) if not torch.equal(digest, own)]
        any_differ = torch.tensor([float(bool(differing))])
        self.add(any_differ)
        if any_differ.item():
            raise InputError(
                f"{when}, processes have learned different things, as process {self.share.rank} sees it:"
                " are computers, their GPUs or their versions of torch not the same?"
            )

    def leave_word(self, name: str, text: str) -> None:
        """Leave a message in the store; the other processes may have ended."""
        if self._store:
            with _ignore_store_errors():
                self._store.set(name, text)

    def claim(self, name: str) -> bool:
        """Return whether this process is the first to claim a name; True without a store."""
        claims = 1
        if self._store:
            with _ignore_store_errors():
                claims = self._store.add(name, 1)
        return claims == 1

    def words(self, *names: str, patience: float = 0.0) -> str | None:
        """Return the last of the named messages; None if some are missing.

        Args:
            names: Names of the messages.
            patience: Seconds to wait for them.
        """
        text: str | None = None
        if self._store:
            with _ignore_store_errors():
                end = time.monotonic() + patience
                while not (complete := self._store.check(list(names))) and time.monotonic() < end:
                    time.sleep(0.02)
                if complete:
                    text = [self._store.get(name).decode(errors="replace") for name in names][-1]
        return text

    def _bytes(self, data: bytes) -> bytes:
        """Broadcast bytes of the first process."""
        length = torch.tensor([len(data)])
        self.broadcast(length)
        buffer = torch.zeros(int(length), dtype=torch.uint8)
        if self.first and data:
            buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        self.broadcast(buffer)
        return buffer.numpy().tobytes()

    def _group(self, tensor: Tensor) -> dist.ProcessGroup | None:
        return None if tensor.is_cuda else self._cpu

    @contextmanager
    def _communication(self) -> Generator[None]:
        """Turn errors of communication into `ProcessLost`."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.share.rank} of {self.share.world} has lost another one, which has ended or"
                " does not answer; the same command for all goes on after the last finished epoch"
            ) from error


@contextmanager
def _ignore_store_errors() -> Generator[None]:
    """Ignore errors if the store does not exist any more."""
    try:
        yield
    except RuntimeError:
        return


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}: torchrun sets it to a number")
    return int(text)
