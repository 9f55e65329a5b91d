"""Texts around a class name, as the field writes them for each data set.

- Zero-shot, CoOp and MMRL: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
- KgCoOp: Yao et al. 2023, https://arxiv.org/abs/2303.13283
"""

from foveate.errors import InputError

DEFAULT_TEMPLATE = "a photo of a {}."

DATASET_TEMPLATES: dict[str, str] = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "Food101": "a photo of {}, a type of food.",
    "UCF101": "a photo of a person doing {}.",
    **dict.fromkeys(("ImageNet", "ImageNetV2", "ImageNetSketch", "ImageNetA", "ImageNetR"), DEFAULT_TEMPLATE),
    **dict.fromkeys(("Caltech101", "StanfordCars", "SUN397"), DEFAULT_TEMPLATE),
}
"""By the data sets' names in configurations; what zero-shot CLIP and MMRL use."""

KGCOOP_TEMPLATES = DATASET_TEMPLATES | {"DescribableTextures": "a photo of a {}, a type of texture."}
"""What KgCoOp pulls towards: it writes textures in another way."""


def fill(template: str, name: str) -> str:
    """Put a class name into a template; underscores in it become spaces.

    Raises:
        InputError: The template has no `{}`, or several.
    """
    if template.count("{}") != 1:
        raise InputError(
            f"template '{template}' has {template.count('{}')} times {{}} for the name, not once"
        )
    return template.replace("{}", name.replace("_", " "))
