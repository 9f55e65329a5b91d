"""The words that options about pictures and masks take, apart from what imports numpy or PyTorch."""

from typing import Literal

OnBad = Literal["error", "skip"]
"""Whether a bad picture or mask is an error, or is left out with a note."""

MaskValues = Literal["auto", "binary255", "binary1", "index", "index_void255", "soft"]
"""`binary255`: 128 and above is foreground. `binary1`: 1 is. `index`: everything but 0 is. `index_void255`:
everything but 0 and 255 is. `soft`: graded, 128 and above is foreground. `auto`: found out with
`detect_values`."""

Fill = Literal["mean", "black", "blur", "image_mean"]
"""What replaces removed pixels: the normalisation's mean colour, black, the picture itself blurred, or each
picture's own mean colour."""
