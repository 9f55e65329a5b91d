"""Commands under torchrun: several processes do one task, and one process prints.

The first process prints. If only another process finds an error, that process prints it and the first is
silent.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from foveate.errors import InputError
from foveate.train.parallel import ProcessGroup, ProcessLost

WRONG, SAID, HEARD = "wrong", "said", "heard"
"""Keys of messages between the processes."""

GRACE = 2.0
"""Seconds that the first process has to find the same error, if the error occurs in all processes."""

PATIENCE = 5.0
"""Seconds that the first process then waits until the others have received the error."""


@contextmanager
def launched() -> Generator[ProcessGroup | None]:
    """Join the process group that the environment variables describe; None for a single process.

    Raises:
        InputError: The other processes do not start.
        SystemExit: There was an error, and a process has printed it.
    """
    process_group = ProcessGroup.join()
    if process_group is None:
        yield None
        return
    try:
        with _only_first_prints(process_group):
            yield process_group
    except ProcessLost as error:
        try:
            _end(process_group, error)
        finally:
            os._exit(
                2
            )  # a group that has lost a process cannot end cleanly: its threads may abort this process
    except InputError as error:
        _end(process_group, error)
    except KeyboardInterrupt:
        if process_group.first:
            raise
        raise SystemExit(130) from None
    except Exception as error:
        process_group.leave_word(
            WRONG, f"process {process_group.share.rank}: {type(error).__name__}: {error}"
        )
        raise
    finally:
        process_group.leave()


@contextmanager
def _only_first_prints(process_group: ProcessGroup) -> Generator[None]:
    """Silence all processes but the first."""
    if process_group.first:
        yield
        return
    with Path(os.devnull).open("w") as devnull, redirect_stdout(devnull), redirect_stderr(devnull):
        yield


def _end(process_group: ProcessGroup, error: InputError) -> None:
    """Print an error once, and exit.

    Raises:
        SystemExit: Always.
    """
    rank, message = process_group.share.rank, None
    if isinstance(error, ProcessLost):  # a consequence of another process's error, or of a kill
        message = process_group.words(WRONG)
    else:
        process_group.leave_word(WRONG, message := str(error))
    if rank:
        process_group.words(SAID, patience=GRACE)
    if process_group.claim(SAID):
        sys.stderr.write(f"foveate: {' '.join((message or str(error)).split())}\n")
        sys.stderr.flush()
    process_group.leave_word(f"{HEARD} {rank}", "")
    if rank == 0 and message is not None:  # this process may host the key-value store
        process_group.words(
            *(f"{HEARD} {other_rank}" for other_rank in range(1, process_group.share.world)),
            patience=PATIENCE,
        )
    raise SystemExit(2)
