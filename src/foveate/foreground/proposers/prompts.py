"""Search texts for proposers that read texts.

The templates are those that FVG-PT's authors used for masks:

- FVG-PT: https://arxiv.org/abs/2603.08708, Table 9
"""

import re

from foveate.errors import InputError
from foveate.foreground.proposers.base import Request

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
