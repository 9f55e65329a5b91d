"""Runs a program of another environment as a server: one JSON line for each request and answer.

The program writes `{"ready": ...}` once, then answers each line `{"id": 7, ...}` with a line that has
the same id. Earlier output is ignored. If it takes too long or sends an invalid answer, it is killed
with all its child processes, restarted once, and the request is repeated.
"""

import json
import os
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from foveate.errors import InputError

Answer = TypeVar("Answer")

LONGEST_LINE = 1 << 26  # bytes: twice the run lengths of the noisiest mask of 12 megapixels
GRACE = 5.0  # seconds for a worker to exit after its input ends


class BadAnswer(ValueError):
    """A worker gave no answer, or an invalid one; the message follows the worker's name."""


class Worker:
    """Worker process: started at the first request, and restarted at most once for each failed request."""

    def __init__(self, command: Sequence[str], folder: Path, name: str, timeout: float):
        """Store the settings; no process is started yet.

        Args:
            command: The program and its arguments.
            folder: Working directory.
            name: Name in messages: "SEEM's worker".
            timeout: Maximum seconds for the start, and for each answer.
        """
        self.command = list(command)
        self.folder = folder
        self.name = name
        self.timeout = timeout
        self._process: _Process | None = None
        self._request_count = 0

    def ask(
        self, question: Mapping[str, object], read: Callable[[Mapping[str, Any]], Answer], about: str
    ) -> Answer:
        """Return the answer to a request.

        Args:
            question: JSON values of the request; an id is added.
            read: Parses the worker's output; raises `BadAnswer` if it is invalid.
            about: Subject of the request, for messages: a picture's name.

        Raises:
            InputError: The worker does not start, or fails twice at this request.
        """
        self._request_count += 1
        try:
            try:
                return read(self._started().exchange({"id": self._request_count, **question}))
            except BadAnswer:
                self._discard()  # the request is repeated with a new worker
                return read(self._started().exchange({"id": self._request_count, **question}))
        except BadAnswer as error:
            output = self._last_words()
            raise InputError(f"{self.name} {error}, twice, for {about}; {output}") from error
        except BaseException:
            self._discard()  # it may still compute an answer that is no longer needed
            raise

    def close(self) -> None:
        """Stop the worker and its child processes; the next request starts a new one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _discard(self) -> None:
        if self._process is not None:
            _kill_group(self._process.process)
            self.close()

    def _started(self) -> "_Process":
        if self._process is None:
            self._process = _Process(self.command, self.folder, self.timeout)
            try:
                self._process.wait_until_ready()
            except BadAnswer as error:
                output = self._last_words()
                raise InputError(f"{self.name} does not start: it {error}; {output}") from error
        return self._process

    def _last_words(self) -> str:
        process = self._process
        self._discard()  # only then is all of its output read
        text = process.last_words() if process else ""
        return f"the last it wrote: {text}" if text else "it wrote nothing about it"


class _Process:
    """One process of a worker."""

    def __init__(self, command: list[str], folder: Path, timeout: float):
        self.timeout = timeout
        self.expired = False
        try:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # its own process group: killed as one, not affected by Ctrl-C
            )
        except OSError as error:
            raise InputError(f"{command[0]} cannot be run in {folder}: {error.strerror}") from error
        self.written = deque[bytes](maxlen=20)
        reader = threading.Thread(target=_drain, args=(self.process.stderr, self.written), daemon=True)
        reader.start()
        self.end = weakref.finalize(self, _end, self.process, reader)  # also at interpreter exit

    def wait_until_ready(self) -> None:
        with self._timed():
            while not _ready(self._line()):
                pass

    def exchange(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        """Send a request and return the answer.

        Raises:
            BadAnswer: There is no answer, or it is not a JSON object with this request's id.
        """
        with self._timed():
            try:
                pipe = _require_pipe(self.process.stdin)
                pipe.write(json.dumps(question).encode() + b"\n")
                pipe.flush()
            except OSError:
                raise self._ended() from None
            line = self._line()
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise BadAnswer("answered something that is not JSON") from None
        if not isinstance(answer, dict) or answer.get("id") != question["id"]:
            raise BadAnswer("answered another question than the one asked")
        return answer

    def last_words(self, most: int = 400) -> str:
        """Return the last lines of its standard error, as one line."""
        text = b"".join(self.written).decode(errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        joined = " | ".join(lines[-3:])
        return "".join(character if character.isprintable() else "?" for character in joined)[-most:]

    def _line(self) -> bytes:
        line = _require_pipe(self.process.stdout).readline(LONGEST_LINE)
        if line.endswith(b"\n"):
            return line
        raise BadAnswer("wrote a line without end") if len(line) == LONGEST_LINE else self._ended()

    def _ended(self) -> BadAnswer:
        if self.expired:
            return BadAnswer(f"did not answer within {self.timeout:g} s")
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return BadAnswer("closed its output")
        return BadAnswer(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

    @contextmanager
    def _timed(self) -> Generator[None]:
        """Kill the process after the timeout: a read that waits for its pipe then ends."""
        timer = threading.Timer(self.timeout, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # otherwise it might kill a later process with the same id

    def _expire(self) -> None:
        self.expired = True
        _kill_group(self.process)


def _ready(line: bytes) -> bool:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        return isinstance(message, dict) and bool(message.get("ready"))
    return False


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the worker was started without its pipes")
    return pipe


def _drain(stderr: IO[bytes], written: deque[bytes]) -> None:
    """Read all of a worker's standard error, so that it never blocks; keep the end."""
    with suppress(ValueError):  # closed meanwhile
        for chunk in iter(lambda: stderr.readline(1000), b""):
            written.append(chunk)


def _end(process: "subprocess.Popen[bytes]", reader: threading.Thread) -> None:
    """Stop a process and its children, and release everything: no zombie, no open pipe."""
    with suppress(OSError):
        _require_pipe(process.stdin).close()  # no more requests
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    _kill_group(process)
    process.wait()
    reader.join(GRACE)
    _require_pipe(process.stdout).close()
    if not reader.is_alive():  # a child outside the group may hold this pipe; closing it would block
        _require_pipe(process.stderr).close()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    if os.name != "posix":
        process.kill()
        return
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
