"""The command line: `foveate COMMAND ...`.

Only the command asked for is imported, so `foveate --help` answers at once. A person's mistake is one line
and exit code 2; anything else that escapes is our bug and shows its traceback.
"""

import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from keyword import iskeyword

import foveate
from foveate.errors import InputError, printable

COMMANDS = {
    "demo": "see it work on drawn scenes, in some three minutes",
    "select": "choose which photos of many to learn from",
    "fit": "learn a classifier from a few labelled photos",
    "predict": "name what photos show",
    "masks": "find the foreground of photos",
    "evaluate": "measure a classifier on photos whose names are known",
    "explain": "show what a classifier looks at, and measure it",
    "features": "keep what a frozen CLIP sees of many pictures, as tensors in files",
    "cost": "measure what methods cost, in learned numbers, time and memory",
    "sweep": "every run of a table of the papers, on one machine or on many",
    "report": "make tables and charts of a sweep's results, beside the published ones",
    "export": "write a classifier so that it runs without PyTorch",
    "import": "turn a checkpoint of a method's authors into a classifier",
    "data": "look at data sets on disk, draw small ones, keep few-shot draws",
    "doctor": "tell what is installed here, and what is missing",
    "completion": "let a shell complete commands and options",
}

_GOES_ON = ("fit", "masks", "features", "sweep")

HELP = """foveate: adapt CLIP to a task from a few pictures, and keep its gaze on the object.

usage: foveate COMMAND ... [--help]

{commands}

examples:
  foveate demo
  foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
  foveate predict out/pets new.jpg more/ --classes "barn owl,heron"
  foveate evaluate out/pets --split base
"""

# What a disk or its owner may refuse, and what to do; anything else the system says is our mistake.
_NOT_OURS = {
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
        again = "; the same command goes on where it was" if words[0] in _GOES_ON else ""
        print(f"foveate: stopped{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = _in_words(error)
        if message is None:
            raise
        print(f"foveate: {printable(' '.join(message.split()))}", file=sys.stderr)
        return 2


def _in_words(error: Exception) -> str | None:
    """Return what to tell a person; None where it is our mistake."""
    if isinstance(error, InputError):
        return str(error).replace('on_bad="skip"', "--on-bad skip")
    if isinstance(error, OSError) and error.errno in _NOT_OURS:
        return f"{error.filename or 'the disk'}: {error.strerror}; {_NOT_OURS[error.errno]}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return "the GPU's memory is full: take a smaller --batch-size, or --device cpu"
    return None


def _run(name: str, words: Sequence[str]) -> int:
    if name in ("-h", "--help", "help", "-V", "--version"):
        print(f"foveate {foveate.__version__}" if name in ("-V", "--version") else _help(), flush=True)
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {name!r}; {hint}")
    try:
        command = import_module(f"foveate.commands.{python_name(name)}")
        with import_module("foveate.commands.screen").notes_for_warnings():
            command.run(words)
        sys.stdout.flush()  # so that a closed pipe is noticed here
    except SystemExit as done:  # --help and --print-config are done early
        return int(done.code or 0)
    return 0


def python_name(command: str) -> str:
    """Return what a command's module and function are called: "import" is a word of Python's own."""
    return f"{command}_" if iskeyword(command) else command


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items()))


def script() -> None:
    """Entry point of the installed command."""
    # What a program is started without, it may write to all the same.
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(os.devnull, mode)  # noqa: SIM115, PTH123  (for as long as the program runs)
        for stream, mode in ((sys.stdin, "r"), (sys.stdout, "w"), (sys.stderr, "w"))
    )
    if hasattr(signal, "SIGXFSZ"):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a limit on files is an error like others then
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may be any bytes
    sys.exit(main())


if __name__ == "__main__":
    script()
