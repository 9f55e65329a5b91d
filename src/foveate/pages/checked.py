"""The page of `foveate check`."""

from pathlib import Path
from typing import Any

from foveate.check.checking import KINDS, Checked, Finding
from foveate.data.pictures import open_picture
from foveate.data.samples import Photos
from foveate.pages.rendering import folder_of, inline, render, square

MOST = 60
"""Findings of a kind that are shown."""

_UNSEEN = ("unreadable", "leak")  # there is nothing to see, or too much


def write_page(checked: Checked, title: str, file: Path) -> None:
    """Write the page.

    Args:
        checked: What was found.
        title: What was checked.
        file: The page.

    Raises:
        InputError: jinja2 is not installed, or the folder is not there.
    """
    kinds, folder = list[dict[str, Any]](), folder_of(checked.photos)
    for kind, number in checked.counts().items():
        own = [one for one in checked.findings if one.kind == kind][:MOST]
        cards = [_card(checked.photos, one, folder) for one in own]
        drawn = any(card["pictures"] for card in cards)
        heading = KINDS[kind][0].upper() + KINDS[kind][1:]
        key = kind.replace(" ", "-")
        kinds.append({"key": key, "title": heading, "number": number, "cards": cards, "drawn": drawn})
    render(
        "checked.html.j2",
        file,
        title=title,
        pictures=len(checked.photos),
        findings=checked.findings,
        leak=checked.leak,
        kinds=kinds,
    )


def _card(photos: Photos, one: Finding, folder: str) -> dict[str, Any]:
    places = () if one.kind in _UNSEEN else one.places[:2]
    pictures = [inline(square(open_picture(photos.samples[place].picture))) for place in places]
    names = [name.removeprefix(folder) for name in one.pictures]
    return {"label": one.label, "told": one.told, "names": names, "pictures": pictures}
