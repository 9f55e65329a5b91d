"""Types of options for pictures and masks; this module imports neither numpy nor PyTorch."""

from collections.abc import Callable
from typing import Literal

OnCount = Callable[[int, int], None]
"""Called with the number of pictures that are done, and the total."""

OnBad = Literal["error", "skip"]
"""Whether a bad picture or mask is an error, or is skipped with a note."""

MaskValues = Literal["auto", "binary255", "binary1", "index", "index_void255", "soft"]
"""`binary255`: 128 and above is foreground. `binary1`: 1 is foreground. `index`: everything except 0 is.
`index_void255`: everything except 0 and 255 is. `soft`: graded, 128 and above is foreground. `auto`:
detected by `detect_values`."""

GroundFill = Literal["inpaint", "mean"]
"""Fill of the removed object in another picture's ground: the colours around it, or the mean colour of
the normalisation."""

Fill = Literal["mean", "black", "blur", "image_mean"]
"""Replacement of removed pixels: the mean colour of the normalisation, black, the blurred picture, or
the picture's own mean colour."""
