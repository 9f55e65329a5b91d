"""`python -m foveate` is `foveate`."""

from foveate.cli import script

script()
