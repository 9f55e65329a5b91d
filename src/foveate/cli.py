"""The command line: `foveate COMMAND ...`.

It imports only the module of the given command, so `foveate --help` is fast. A user's mistake gives one
line on stderr and exit code 2. Any other exception is a bug and shows its traceback.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

import foveate
from foveate.commands import COMMANDS as COMMANDS
from foveate.commands import python_name as python_name
from foveate.configs import nearest
from foveate.errors import GPU_IS_FULL, SKIP, InputError, printable

_RESUMABLE = ("fit", "masks", "features", "sweep")
_SKIPS = ("fit", "predict", "evaluate", "explain", "masks", "features", "select")  # have --on-bad

HELP = """foveate: adapt CLIP to a task from a few pictures, and keep its gaze on the object.

usage: foveate COMMAND ... [--help], or foveate help COMMAND

{commands}

examples:
  foveate demo
  foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
  foveate predict out/pets new.jpg more/ --classes "barn owl,heron"
  foveate evaluate out/pets --split base
"""

# What the user can do about an error of the operating system. Any other OSError is a bug.
_OS_REMEDIES = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT), "make room, and the same command goes on; or choose another"
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or choose another place"
    ),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP), "choose another path"),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST), "remove it, or choose another place"),
    errno.EFBIG: "no file may be that large here; raise the limit (ulimit -f), or choose another place",
    errno.EBADF: "a standard stream is closed; open it, or send it to a file",
    errno.EIO: "the disk does not answer as it should; choose another place",
}


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    words = list(sys.argv[1:] if words is None else words) or ["--help"]
    try:
        return _run(words[0], words[1:])
    except KeyboardInterrupt:
        resume_hint = "; the same command goes on where it was" if words[0] in _RESUMABLE else ""
        print(f"foveate: stopped{resume_hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = _in_words(error, words[0])
        if message is None:
            raise
        print(f"foveate: {printable(' '.join(message.split()))}", file=sys.stderr)
        return 2


def _in_words(error: Exception, command: str) -> str | None:
    """Return the message for a user's mistake; None if the exception is a bug."""
    if isinstance(error, InputError):
        message = str(error) if command in _SKIPS else str(error).replace(SKIP, "")
        return message.replace('on_bad="skip"', "--on-bad skip")
    if isinstance(error, OSError) and error.errno in _OS_REMEDIES:
        return f"{error.filename or 'the disk'}: {error.strerror}; {_OS_REMEDIES[error.errno]}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's class; torch is not imported here
        return GPU_IS_FULL
    return None


def _run(name: str, words: Sequence[str]) -> int:
    if name == "help" and words and words[0] != "help":
        return _run(words[0], [*words[1:], "--help"])
    if name in ("-h", "--help", "help", "-V", "--version"):
        print(f"foveate {foveate.__version__}" if name in ("-V", "--version") else _help(), flush=True)
        return 0
    if name not in COMMANDS:
        raise InputError(f"there is no command {name!r}; {nearest(name, COMMANDS)}")
    try:
        command = import_module(f"foveate.commands.{python_name(name)}")
        with import_module("foveate.commands.screen").notes_for_warnings():
            command.run(words)
        sys.stdout.flush()  # raises here if the pipe is closed
    except SystemExit as exit_request:  # --help and --print-config exit early
        return int(exit_request.code or 0)
    return 0


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items()))


def script() -> None:
    """Entry point of the installed command."""
    # Streams that are missing at the start are replaced, so that writing to them works.
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(os.devnull, mode)  # noqa: SIM115, PTH123  (for as long as the program runs)
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # exceeding a file size limit then raises OSError
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be any bytes
    sys.exit(main())


if __name__ == "__main__":
    script()
