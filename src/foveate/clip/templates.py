"""Prompt templates for class names, one for each data set.

- Zero-shot, CoOp and MMRL: Zhou et al. 2022, https://arxiv.org/abs/2109.01134
- KgCoOp: Yao et al. 2023, https://arxiv.org/abs/2303.13283
- PromptSRC: Khattak et al. 2023, https://arxiv.org/abs/2307.06948
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
"""By data set name in configurations; used by zero-shot CLIP and MMRL."""

KGCOOP_TEMPLATES = DATASET_TEMPLATES | {"DescribableTextures": "a photo of a {}, a type of texture."}
"""Templates of KgCoOp's reference texts; the one for textures differs."""

IMAGENET_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
)
"""60 of the templates of CLIP's authors for ImageNet; PromptSRC averages over them on any data set."""


def fill(template: str, name: str) -> str:
    """Insert a class name into a template; underscores in the name become spaces.

    Raises:
        InputError: The template has no `{}`, or more than one.
    """
    if template.count("{}") != 1:
        raise InputError(
            f"template '{template}' has {template.count('{}')} times {{}} for the name, not once"
        )
    return template.replace("{}", name.replace("_", " "))
