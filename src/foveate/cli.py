"""The command line: `foveate COMMAND ...`.

Only the command asked for is imported, so `foveate --help` answers at once. A person's mistake is one line
and exit code 2; anything else that escapes is our bug and shows its traceback.
"""

import difflib
import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from foveate.errors import InputError

COMMANDS = {
    "demo": "see it work on drawn scenes, in about two minutes",
    "fit": "learn a classifier from a few labelled photos",
    "predict": "name what photos show",
    "evaluate": "measure a classifier on photos whose names are known",
}

HELP = """foveate: adapt CLIP to a task from a few pictures, and keep its gaze on the object.

usage: foveate COMMAND ... [--help]

{commands}

examples:
  foveate demo
  foveate fit photos/ --masks masks/ --method fvgpt+coop --shots 16 --out out/pets
  foveate predict out/pets new.jpg more/ --classes "barn owl,heron"
  foveate evaluate out/pets --split base
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        listed = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
        print(HELP.format(commands=listed))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"foveate {version('foveate')}")
        return 0
    try:
        return _run(words[0], words[1:])
    except InputError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _refuse(
            f"{error.filename or 'the output'}: {error.strerror}; make room or choose another folder"
        )
    except KeyboardInterrupt:
        print("foveate: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def _run(name: str, words: Sequence[str]) -> int:
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(COMMANDS)}"
        raise InputError(f"there is no command {name!r}; {hint}")
    import_module(f"foveate.commands.{name}").run(words)
    return 0


def _refuse(message: str) -> int:
    print(f"foveate: {' '.join(message.split())}", file=sys.stderr)
    return 2


def script() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    script()
