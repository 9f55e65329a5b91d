"""A command that torchrun has started several times, to do one thing together: one process speaks for all.

That is the first, unless another finds something wrong alone; then it says so, and the first is silent.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from foveate.errors import InputError
from foveate.train.parallel import ProcessGroup, ProcessLost

WRONG, SAID, HEARD = "wrong", "said", "heard"
"""Words that processes leave for each other."""

GRACE = 2.0
"""Seconds in which the first process finds the same thing wrong, if it is wrong everywhere."""

PATIENCE = 5.0
"""Seconds that it then waits for the others to notice."""


@contextmanager
def launched() -> Generator[ProcessGroup | None]:
    """Join the processes that the environment tells of; None for a process that is alone.

    Raises:
        InputError: The others do not come.
        SystemExit: Something is wrong, and was said.
    """
    team = ProcessGroup.join()
    if team is None:
        yield None
        return
    try:
        with _speaking(team):
            yield team
    except ProcessLost as error:
        try:
            _end(team, error)
        finally:
            os._exit(
                2
            )  # a group that has lost one cannot be ended in order: its threads may abort the process
    except InputError as error:
        _end(team, error)
    except KeyboardInterrupt:
        if team.first:
            raise
        raise SystemExit(130) from None
    except Exception as error:
        team.leave_word(WRONG, f"process {team.share.rank}: {type(error).__name__}: {error}")
        raise
    finally:
        team.leave()


@contextmanager
def _speaking(team: ProcessGroup) -> Generator[None]:
    """Let the first process speak alone."""
    if team.first:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _end(team: ProcessGroup, error: InputError) -> None:
    """Say what is wrong, once, and end.

    Raises:
        SystemExit: Always.
    """
    rank, wrong = team.share.rank, None
    if isinstance(error, ProcessLost):  # because of what another has found wrong, or of a kill
        wrong = team.words(WRONG)
    else:
        team.leave_word(WRONG, wrong := str(error))
    if rank:
        team.words(SAID, patience=GRACE)
    if team.claim(SAID):
        sys.stderr.write(f"foveate: {' '.join((wrong or str(error)).split())}\n")
        sys.stderr.flush()
    team.leave_word(f"{HEARD} {rank}", "")
    if rank == 0 and wrong is not None:  # it may be this process that keeps the words
        team.words(*(f"{HEARD} {other}" for other in range(1, team.share.world)), patience=PATIENCE)
    raise SystemExit(2)
