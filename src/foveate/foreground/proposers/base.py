"""Interface of proposers: pictures and texts in, masks and scores out."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from foveate.errors import InputError

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


# Search texts for proposers that read texts.
#
# The templates are those that FVG-PT's authors used for masks:
#
# - FVG-PT: https://arxiv.org/abs/2603.08708, Table 9


DEFAULT_PROMPT = "the {}"
"""For data sets that are not in `MASK_PROMPTS`: its simplest template, that of DTD and SUN397."""

MASK_PROMPTS: dict[str, str] = {
    "Food101": "the whole {} in the middle",
    "Caltech101": "a huge {}",
    "StanfordCars": "a huge and whole car",
    "OxfordPets": "the pet in the middle",
    "OxfordFlowers": "the flower in the middle",
    "DescribableTextures": "the {}",
    "SUN397": "the {}",
    "EuroSAT": "the satellite {}",
    "FGVCAircraft": "the huge airplane in the middle",
    "UCF101": "the people with {}",
    **dict.fromkeys(
        ("ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"), "the whole {} in the middle"
    ),
}
"""By name of the data set in configurations; `{}` is the class name, if the template uses it."""


def mask_prompt(dataset: str | None, label: str) -> str:
    """Return the search text for the foreground of a picture.

    Args:
        dataset: Name of a data set, in any case, with or without "-" and "_"; None if there is none.
        label: Class name of the picture; "_" is read as a space.

    Returns:
        The text; empty if the template needs a class name and there is none.
    """
    sentence = _BY_PLAIN_NAME.get(_plain(dataset or ""), DEFAULT_PROMPT)
    name = " ".join(label.replace("_", " ").split())
    return sentence.replace("{}", name) if name or "{}" not in sentence else ""


def search_text(request: Request, proposer: str) -> str:
    """Return the search text of a request: its prompt, otherwise its class name.

    Raises:
        InputError: The request has neither.
    """
    text = request.prompt.strip() or " ".join(request.label.replace("_", " ").split())
    if not text:
        raise InputError(
            f"{request.name}: {proposer} must be told what to look for: give classes or a prompt"
        )
    return text


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


_BY_PLAIN_NAME = {_plain(name): sentence for name, sentence in MASK_PROMPTS.items()}
