"""The page of `foveate check`."""

from pathlib import Path
from typing import Any

from foveate.check.checking import KINDS, Checked, Finding
from foveate.data.samples import Photos
from foveate.foreground.pictures import open_picture
from foveate.pages.rendering import folder_of, inline, render, square

MOST = 60
"""Maximum number of findings of a kind on the page."""

_UNSEEN = ("unreadable", "leak")  # kinds without pictures: there is nothing to see, or too much


def write_page(checked: Checked, title: str, file: Path) -> None:
    """Write the page.

    Args:
        checked: The findings.
        title: Title of the page: the source that was checked.
        file: The page.

    Raises:
        InputError: jinja2 is not installed, or the folder is not there.
    """
    kinds, folder = list[dict[str, Any]](), folder_of(checked.photos)
    for kind, number in checked.counts().items():
        findings = [finding for finding in checked.findings if finding.kind == kind][:MOST]
        cards = [_card(checked.photos, finding, folder) for finding in findings]
        has_pictures = any(card["pictures"] for card in cards)
        heading = KINDS[kind][0].upper() + KINDS[kind][1:]
        key = kind.replace(" ", "-")
        kinds.append({"key": key, "title": heading, "number": number, "cards": cards, "drawn": has_pictures})
    render(
        "checked.html.j2",
        file,
        title=title,
        pictures=len(checked.photos),
        findings=checked.findings,
        leak=checked.leak,
        kinds=kinds,
    )


def _card(photos: Photos, finding: Finding, folder: str) -> dict[str, Any]:
    indices = () if finding.kind in _UNSEEN else finding.indices[:2]
    pictures = [inline(square(open_picture(photos.samples[index].picture))) for index in indices]
    names = [name.removeprefix(folder) for name in finding.pictures]
    return {"label": finding.label, "told": finding.told, "names": names, "pictures": pictures}
