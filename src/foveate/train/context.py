"""Who hears of a training, and which processes do it together: what every step of a run is handed."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from foveate.train.parallel import ProcessGroup
from foveate.train.reporter import Reporter

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """What travels with a run beside its settings.

    Attributes:
        reporter: Hears of the run, in the first process alone.
        team: Processes that share each batch; None for a process that is alone.
    """

    reporter: Reporter = field(default_factory=Reporter)
    team: ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes, and says what there is to say."""
        return self.team is None or self.team.first

    @property
    def told(self) -> Reporter:
        """Who hears of what this process does: nobody, of any but the first."""
        return self.reporter if self.first else Reporter()

    def everywhere(self, find: Callable[[], T]) -> T:
        """Return what `find` returns in the first process, as JSON takes it; a lone process is the first."""
        if self.team is None:
            return find()
        return self.team.told(cast("T", find() if self.team.first else None))

    def lent(self, *paths: Path | None) -> AbstractContextManager[list[Path | None]]:
        """Give the first process's files to all; a lone process has them."""
        return nullcontext(list(paths)) if self.team is None else self.team.lent(*paths)
