"""Templates, and pictures inside a page."""

import base64
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.data.samples import Photos
from foveate.data.transforms import eval_view
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.foreground.proposers.registry import demand

SIDE = 144
"""Side in pixels of a picture in a page: the middle square, as the towers see it."""


def render(template: str, file: Path, **values: Any) -> None:
    """Write a page.

    Args:
        template: File name of a template of this package.
        file: The page.
        values: Values for the template.

    Raises:
        InputError: jinja2 is not installed, or the folder is not there.
    """
    demand("report", "--report", "jinja2")
    import jinja2

    if not file.parent.is_dir():
        raise InputError(f"--report {file}: there is no folder {file.parent}")
    loader = jinja2.PackageLoader("foveate.pages", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    write_atomically(file, environment.get_template(template).render(**values))


def folder_of(photos: Photos) -> str:
    """Return the common folder of all files of a set, with a separator at its end; may be empty."""
    parents = {str(sample.picture.parent) for sample in photos.samples if isinstance(sample.picture, Path)}
    try:
        common = os.path.commonpath(parents)
    except ValueError:  # none, or on several drives
        return ""
    return os.path.join(common, "") if common else ""  # noqa: PTH118  (a path has no slash at its end)


def square(picture: Image.Image) -> Image.Image:
    """Return the part of a picture that the towers see, in RGB, resized to `SIDE`."""
    return eval_view(picture.size, SIDE).apply(picture, None)[0]


def inline(picture: Image.Image) -> str:
    """Return a picture as a data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
