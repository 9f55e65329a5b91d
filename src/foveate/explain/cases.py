"""Pictures that a method gets wrong, and those it repairs or breaks compared with the method below it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from foveate.data.loader import PictureSet
from foveate.data.transforms import eval_view
from foveate.explain.measure import Looks
from foveate.foreground.pictures import open_picture
from foveate.types import PerImage


@dataclass(frozen=True)
class CaseGroup:
    """Pictures of one kind, such as those that one method classifies correctly and another one does not.

    Attributes:
        title: Description of the group.
        indices: Indices of pictures to show, the clearest cases first.
        number: Number of pictures in the group.
    """

    title: str
    indices: list[int]
    number: int


def mistakes(looks: Looks, limit: int) -> CaseGroup:
    """Return the pictures that a method gets wrong, by decreasing probability of its wrong answer.

    Args:
        looks: Results of the method.
        limit: Largest number of pictures to show.
    """
    return _group(f"{looks.method} is wrong", ~looks.right, looks.of(looks.answers), limit)


def changed(chain: Sequence[Looks], limit: int) -> list[CaseGroup]:
    """Return repaired and broken pictures of each method, compared with the method before it.

    Args:
        chain: Results on the same pictures: zero-shot CLIP, a backbone, a plug-in over it.
        limit: Largest number of pictures to show per group; those whose true class gained or lost most
            probability come first.
    """
    groups: list[CaseGroup] = []
    for before, after in pairwise(chain):
        gain = after.of(after.labels) - before.of(before.labels)
        repaired, broken = ~before.right & after.right, before.right & ~after.right
        groups.append(_group(f"{before.method} wrong, {after.method} right", repaired, gain, limit))
        groups.append(_group(f"{before.method} right, {after.method} wrong", broken, -gain, limit))
    return groups


def _group(title: str, selected: Bool[Tensor, " batch"], clearness: PerImage, limit: int) -> CaseGroup:
    order = clearness.argsort(descending=True, stable=True)
    indices = [int(index) for index in order[selected[order]]]
    return CaseGroup(title, indices[:limit], len(indices))


@dataclass(frozen=True)
class Shown:
    """One picture for display.

    Attributes:
        name: Name of the picture.
        picture: The view that methods receive, at display size.
        mask: `[S, S]` foreground of the view; None without a mask.
    """

    name: str
    picture: Image.Image
    mask: Float[Tensor, "height width"] | None


def shown(pictures: PictureSet, index: int, side: int) -> Shown:
    """Return the view of a picture at display size.

    Args:
        pictures: Pictures without augmentation.
        index: Index of the picture.
        side: Side length of the result, in pixels.

    Raises:
        BadPicture: The picture is not readable any more.
    """
    sample = pictures.photos.samples[index]
    original = open_picture(sample.picture)
    picture, _ = eval_view(original.size, side).apply(original)
    mask = pictures.item(index).mask[0] if pictures.has_masks and sample.mask is not None else None
    return Shown(sample.name, picture, mask)
