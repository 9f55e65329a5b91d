"""Run the command line with `python -m foveate`."""

from foveate.cli import script

script()
