"""Which pictures a method repairs or breaks, beside the method it stands on."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from foveate.data.loader import PictureSet
from foveate.data.pictures import open_picture
from foveate.data.transforms import eval_view
from foveate.explain.measure import Looks
from foveate.types import PerImage


@dataclass(frozen=True)
class CaseGroup:
    """Pictures that one method got right and another wrong.

    Attributes:
        title: Which, in words.
        places: Those to be shown, the largest change of the true class's probability first.
        number: How many there are in all.
    """

    title: str
    places: list[int]
    number: int


def changed(chain: Sequence[Looks], most: int) -> list[CaseGroup]:
    """Return repaired and broken pictures of each method beside the one before it.

    Args:
        chain: The same pictures seen by zero-shot CLIP, a backbone, a plug-in over it.
        most: Pictures to show of each group.
    """
    groups: list[CaseGroup] = []
    for before, after in pairwise(chain):
        gain = after.of(after.labels) - before.of(before.labels)
        repaired, broken = ~before.right & after.right, before.right & ~after.right
        groups.append(_group(f"{before.method} wrong, {after.method} right", repaired, gain, most))
        groups.append(_group(f"{before.method} right, {after.method} wrong", broken, -gain, most))
    return groups


def _group(title: str, which: Bool[Tensor, " batch"], change: PerImage, most: int) -> CaseGroup:
    order = change.argsort(descending=True, stable=True)
    places = [int(place) for place in order[which[order]]]
    return CaseGroup(title, places[:most], len(places))


@dataclass(frozen=True)
class Shown:
    """One picture as it is shown.

    Attributes:
        name: Its own, as messages have it.
        picture: The view that methods saw, in a size for people.
        mask: `[S, S]` its foreground; None without a mask.
    """

    name: str
    picture: Image.Image
    mask: Float[Tensor, "height width"] | None


def shown(pictures: PictureSet, place: int, side: int) -> Shown:
    """Return the view of a picture that methods saw, with so many pixels a side.

    Args:
        pictures: An un-augmented set.
        place: Of the picture in it.
        side: Of the result.

    Raises:
        BadPicture: It cannot be read any more.
    """
    sample = pictures.photos.samples[place]
    whole = open_picture(sample.picture)
    picture, _ = eval_view(whole.size, side).apply(whole)
    mask = pictures.item(place).mask[0] if pictures.has_masks and sample.mask is not None else None
    return Shown(sample.name, picture, mask)
