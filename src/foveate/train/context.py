"""The reporter and the process group of a training, passed to each step of a run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from foveate.train.journal import Reporter
from foveate.train.parallel import ProcessGroup

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """Objects that a run needs besides its settings.

    Attributes:
        reporter: Receives the progress of the run, in the first process only.
        process_group: Process group that shares each batch; None for a single process.
    """

    reporter: Reporter = field(default_factory=Reporter)
    process_group: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the first, which writes files and reports."""
        return self.process_group is None or self.process_group.first

    @property
    def local_reporter(self) -> Reporter:
        """The reporter of this process; in all but the first process, one that does nothing."""
        return self.reporter if self.first else Reporter()

    def everywhere(self, find: Callable[[], T]) -> T:
        """Return the result of `find` in the first process, sent as JSON; a single process calls `find`."""
        if self.process_group is None:
            return find()
        return self.process_group.broadcast_json(cast("T", find() if self.process_group.first else None))

    def lent(self, *paths: Path | None) -> AbstractContextManager[list[Path | None]]:
        """Give all processes copies of the first process's files; a single process uses its own files."""
        return nullcontext(list(paths)) if self.process_group is None else self.process_group.lent(*paths)
