"""Pictures to read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """A picture of random pixels: `noise(width, height, seed)`."""

    def make(width: int, height: int, seed: int = 0) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return make


@pytest.fixture
def lay(tmp_path: Path, noise: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Write a small picture (or a mask, where the name says mask) at each path, below one new folder."""

    def write(*paths: str, size: tuple[int, int] = (12, 8)) -> Path:
        for number, path in enumerate(paths):
            file = tmp_path / "photos" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            image = noise(*size, number)
            if "mask" in path:
                image = Image.fromarray(np.eye(size[1], size[0], dtype=np.uint8) * 255)
            image.save(file)
        return tmp_path / "photos"

    return write
