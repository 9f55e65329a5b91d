"""Pictures to read, and the real ones beside the repository."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a real data set; the test is skipped where there is none."""

    def find(name: str) -> Path:
        path = SHARED.resolve() / name
        if not path.exists():
            pytest.skip(f"no real pictures: {path} is not there")
        return path

    return find


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
