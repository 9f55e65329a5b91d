"""Interface of proposers: pictures and texts in, masks and scores out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

Mask = Bool[np.ndarray, "height width"]  # True on the foreground, at the picture's upright size
Heat = Float[np.ndarray, "height width"]  # foreground likelihood of each pixel, in [0, 1]


@dataclass(frozen=True)
class Request:
    """One picture that needs a mask.

    Attributes:
        name: The picture's path relative to the root folder, with "/" between the parts.
        picture: The picture itself, upright, of mode "RGB".
        label: Its class name; empty if it is unknown.
        prompt: The search text for a proposer that reads texts: the class name, or a sentence with it.
    """

    name: str
    picture: Image.Image
    label: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Proposal:
    """A proposer's result for one picture, before the clean-up (`foveate.foreground.cleanup`).

    Attributes:
        mask: The foreground, in the picture's size.
        score: Confidence in [0, 1]; the page of each proposer defines it.
        heat: Foreground likelihood of each pixel, for the refinement; None if there is only a mask.
        meta: Further values to store with the mask (the chosen query, found boxes); JSON values.
    """

    mask: Mask
    score: float
    heat: Heat | None = None
    meta: Mapping[str, object] = field(default_factory=dict[str, object])


class Proposer(ABC):
    """Finds the foreground of pictures.

    Attributes:
        name: Name in options: "classical".
        reads_text: Whether it needs a search text.
        coarse: Whether its masks are coarse, so that refinement by the picture's colours improves them.
            It makes fine masks worse.
        batch: Preferred number of pictures in a call.
    """

    name: str
    reads_text: bool = False
    coarse: bool = False
    batch: int = 1

    @abstractmethod
    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        """Return a proposal for each request, in order; no proposal depends on the other requests.

        Raises:
            InputError: The proposer cannot work at all (its worker died, its model is broken).
        """

    @property
    def key(self) -> Mapping[str, object]:
        """Settings, versions and weights that masks depend on; JSON values, stored with each set of masks."""
        return {}

    def close(self) -> None:  # noqa: B027  (most have nothing to let go of)
        """Release workers and models."""
