"""What a proposer is asked, and what it answers: pictures and texts in, masks and scores out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

Mask = Bool[np.ndarray, "height width"]  # True on the foreground, at the picture's upright size
Heat = Float[np.ndarray, "height width"]  # how likely each pixel is foreground, in [0, 1]


@dataclass(frozen=True)
class Request:
    """One picture whose foreground is wanted.

    Attributes:
        name: The picture's path below the folder of all pictures, with "/" between the parts.
        picture: The picture itself, upright, of mode "RGB".
        label: Its class name; empty where none is known.
        prompt: What a proposer that reads texts is told to look for: the class name, or a sentence with it.
    """

    name: str
    picture: Image.Image
    label: str = ""
    prompt: str = ""


@dataclass(frozen=True)
class Proposal:
    """A proposer's answer about one picture, before it is tidied (`foveate.foreground.cleanup`).

    Attributes:
        mask: The foreground; of the picture's size.
        score: How sure the proposer is, in [0, 1]; each proposer's page says what it means.
        heat: How likely each pixel is foreground, for the refinement; None where the mask is all there is.
        meta: What else is worth keeping with the mask (the query chosen, boxes found); JSON values.
    """

    mask: Mask
    score: float
    heat: Heat | None = None
    meta: Mapping[str, object] = field(default_factory=dict[str, object])


class Proposer(ABC):
    """Something that finds the foreground of pictures.

    Attributes:
        name: As it is asked for: "classical".
        reads_text: Whether it must be told what to look for.
        coarse: Whether its masks are coarse, so that they gain from a refinement by the picture's colours.
            Fine masks lose by it.
        batch: Pictures it likes to be given at once.
    """

    name: str
    reads_text: bool = False
    coarse: bool = False
    batch: int = 1

    @abstractmethod
    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        """Answer each request, in order; no answer depends on the other requests.

        Raises:
            InputError: The proposer cannot work at all (its worker died, its model is broken).
        """

    @property
    def key(self) -> Mapping[str, object]:
        """Settings, versions and weights that masks depend on; JSON values, kept beside each set of masks."""
        return {}

    def close(self) -> None:  # noqa: B027  (most have nothing to let go of)
        """Let go of workers and models."""
