"""Synthetic pictures and class names: speed does not depend on their content, so no data set is needed."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from foveate.data.samples import Photos, Sample

SIZES = ((256, 256), (320, 240), (375, 500), (500, 375))
"""Width and height of the pictures, in rotation; similar to common data sets."""

ADJECTIVES = """
alpine arctic barred bearded black blue branded brown canyon common coastal crested dark desert dusky
eastern false field giant golden great green grey hairy hooded island lesser little long marsh meadow
mountain northern orange painted pale plain prairie purple ringed river rock royal rusty sand scarlet
shore silver slender smooth southern spotted striped swamp tawny timber tufted velvet western white wild
winter yellow
"""
BEGINNINGS = """
arrow bell blade bone bristle butter button cap cotton crown fire flag foam glass hair horn iron jewel
lace lamp leaf milk moon needle paper pearl pepper pin plume reed ribbon saddle sail salt shell sickle
silk snow spear spoon star stone straw sun thistle thorn thread tide wax whip wind wing wool
"""
ENDS = """
back beak bill bird bloom bush cap crest daisy fin finch fish flower fly foot fox grass hawk head jay
lark lily lizard mouse moth nettle nut owl palm poppy ray root seal snail snake snipe tail thrush toad
top tree vine weed wing worm wort wren
"""
SHARES = (0.45, 0.45, 0.07, 0.03)
"""Shares of names with one to four words. A name has 5.0 tokens on average, including "." and EOT: a
little more than in Flowers102 (4.5) and in ImageNet (3.9)."""


def made_up_names(number: int) -> list[str]:
    """Return distinct names of one to four words; the first names do not depend on `number`."""
    rng, names = random.Random(0), dict[str, None]()
    adjectives, beginnings, ends = ADJECTIVES.split(), BEGINNINGS.split(), ENDS.split()
    while len(names) < number:
        adjective_count = rng.choices(range(len(SHARES)), SHARES)[0]
        noun = rng.choice(beginnings) + rng.choice(ends)
        names[" ".join([*rng.sample(adjectives, adjective_count), noun])] = None
    return list(names)


def draw_photos(folder: Path, number: int, names: Sequence[str]) -> Photos:
    """Draw JPEG pictures of `SIZES` (an ellipse on coloured noise) and JPEG masks of the same sizes.

    Args:
        folder: Output folder; created if missing.
        number: Number of pictures; labels cycle through the classes.
        names: Class names.
    """
    samples: list[Sample] = []
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        rng = np.random.default_rng(index)
        size = SIZES[index % len(SIZES)]
        noise = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        mask = Image.new("L", size)
        left, top = (int(rng.integers(0, side // 3)) for side in size)
        box = (left, top, left + size[0] // 2, top + size[1] // 2)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        ImageDraw.Draw(picture).ellipse(box, fill=colour)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        files = folder / f"{index}.jpg", folder / f"{index}-mask.jpg"
        for image, file in zip((picture, mask), files, strict=True):
            image.save(file, quality=90)
        samples.append(Sample(files[0], index % len(names), files[1]))
    return Photos(tuple(names), tuple(samples), mask_values="binary255")
