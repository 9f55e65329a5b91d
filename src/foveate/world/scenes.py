"""The world: little procedural scenes of one object on one place, with exact masks and captions.

A scene is nine values (`Scene`); `render` turns scenes into pictures. The same scene gives the same pixels
whichever scenes are drawn beside it. The world is what foveate looks at when there is nothing else: small,
honest about it, and exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

SIZE = 64  # pixels a side

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (250, 136, 18),
    "yellow": (250, 226, 40),
    "green": (24, 168, 54),
    "cyan": (42, 214, 222),
    "blue": (36, 74, 216),
    "purple": (132, 42, 190),
    "pink": (250, 120, 190),
}
TEXTURES = ("plain", "striped", "dotted", "checked")


@dataclass(frozen=True)
class Scene:
    """One object on one place.

    Attributes:
        shape: A key of `SHAPES`.
        colour: A key of `COLOURS`.
        texture: One of `TEXTURES`.
        place: A key of `PLACES`, or "plain" for an even grey.
        radius: Half the object's size as a share of the picture.
        x: Centre from the left edge, as a share of the picture.
        y: Centre from the top edge, likewise.
        angle: Turn of the object, in radians.
        seed: Of everything that is left: noise, light, phases.
    """

    shape: str
    colour: str
    texture: str = "plain"
    place: str = "plain"
    radius: float = 0.3
    x: float = 0.5
    y: float = 0.5
    angle: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The class name of the object: colour and shape."""
        return f"{self.colour} {self.shape}"


# --- shapes: (u, v) in the object's own square [-1, 1]², v upwards -> inside or not ------------------------

Inside = Callable[[Floats, Floats], NDArray[np.bool_]]


def _triangle(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return (v > -0.75) & (v + 1.9 * np.abs(u) < 0.95)


def _star(u: Floats, v: Floats) -> NDArray[np.bool_]:
    # One tenth of a five-pointed star, by folding the angle; its edge is a straight line in that slice.
    slice_ = np.pi / 5
    angle = np.abs((np.arctan2(u, v) + slice_) % (2 * slice_) - slice_)
    radius = np.hypot(u, v)
    tip, notch = 1.0, 0.42
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = notch * np.cos(slice_), notch * np.sin(slice_)
    return (along - tip) * inner_y - across * (inner_x - tip) < 0


def _heart(u: Floats, v: Floats) -> NDArray[np.bool_]:
    x, y = 1.2 * u, 1.2 * v + 0.1
    return (x * x + y * y - 1) ** 3 - x * x * y**3 < 0


def _arrow(u: Floats, v: Floats) -> NDArray[np.bool_]:
    head = (u > 0.0) & (u + 1.1 * np.abs(v) < 0.95)
    return head | ((np.abs(v) < 0.24) & (u > -0.95) & (u <= 0.0))


SHAPES: dict[str, Inside] = {
    "circle": lambda u, v: u * u + v * v < 0.8,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.74,
    "triangle": _triangle,
    "star": _star,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.7) < 0.24,
    "cross": lambda u, v: (
        (np.minimum(np.abs(u), np.abs(v)) < 0.27) & (np.maximum(np.abs(u), np.abs(v)) < 0.9)
    ),
    "heart": _heart,
    "moon": lambda u, v: (u * u + v * v < 0.9) & ((u - 0.5) ** 2 + v * v > 0.55),
    "diamond": lambda u, v: np.abs(u) / 0.62 + np.abs(v) < 0.95,
    "arrow": _arrow,
    "hourglass": lambda u, v: (np.abs(v) < 0.85) & (np.abs(u) < 0.08 + 0.85 * np.abs(v)),
    "clover": lambda u, v: np.hypot(u, v) < 0.64 + 0.30 * np.cos(4 * np.arctan2(v, u)),
}


# --- textures: (u, v) -> how much darker, in [0, 1] --------------------------------------------------------


def _texture(name: str, u: Floats, v: Floats) -> Floats:
    if name == "striped":
        return (np.sin(9.5 * (u + v)) > 0).astype(np.float32)
    if name == "dotted":
        return (np.sin(8.5 * u) * np.sin(8.5 * v) > 0.35).astype(np.float32)
    if name == "checked":
        return ((np.sin(6.3 * u) > 0) ^ (np.sin(6.3 * v) > 0)).astype(np.float32)
    return np.zeros_like(u)


# --- places: (x, y) in [0, 1]², y downwards, and a random stream -> RGB in [0, 255] ------------------------


def _noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Smooth noise in [-1, 1]: a coarse random grid, enlarged linearly."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    low = at.astype(np.int64)
    part = (at - low)[:, None]
    rows = grid[low] * (1 - part) + grid[low + 1] * part
    return rows[:, low] * (1 - part.T) + rows[:, low + 1] * part.T


def _rgb(colour: tuple[int, int, int]) -> Floats:
    return np.array(colour, np.float32)


def _blend(dark: tuple[int, int, int], light: tuple[int, int, int], amount: Floats) -> Floats:
    """Mix two colours by `amount` in [0, 1], per pixel."""
    amount = amount.clip(0, 1)[..., None]
    return _rgb(dark) * (1 - amount) + _rgb(light) * amount


Place = Callable[[np.random.Generator, Floats, Floats], Floats]


def _grass(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    blades = _noise(rng, len(x), 32) * 0.5 + 0.3 * np.sin(70 * x + 5 * _noise(rng, len(x), 8))
    return _blend((44, 92, 40), (122, 160, 78), 0.5 + 0.6 * blades)


def _sand(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    ripples = np.sin(24 * y + 3 * x + 3 * _noise(rng, len(x), 3) + rng.uniform(0, 6))
    return _blend((190, 164, 118), (228, 208, 164), 0.5 + 0.3 * ripples + 0.2 * _noise(rng, len(x), 24))


def _water(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    waves = np.sin(34 * y + 4 * np.sin(7 * x + rng.uniform(0, 6)) + 3 * _noise(rng, len(x), 4))
    return _blend((34, 82, 118), (112, 164, 186), 0.45 + 0.35 * waves)


def _brick(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    rows = 7
    row = np.floor(y * rows + rng.uniform(0, 1))
    across = x * 3.5 + 0.5 * (row % 2) + rng.uniform(0, 1)
    mortar = ((y * rows) % 1 < 0.16) | (across % 1 < 0.08)
    wall = _blend((122, 58, 46), (166, 92, 72), 0.5 + 0.5 * _noise(rng, len(x), 12))
    return np.where(mortar[..., None], _rgb((176, 168, 158)), wall)


def _snow(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    return _blend((196, 206, 222), (246, 248, 252), 0.55 + 0.55 * _noise(rng, len(x), 4))


def _wood(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    grain = np.sin(40 * x + 6 * _noise(rng, len(x), 2) + 1.5 * np.sin(3 * y + rng.uniform(0, 6)))
    boards = (x * 4 + rng.uniform(0, 1)) % 1 < 0.05
    plank = _blend((104, 70, 42), (156, 112, 70), 0.5 + 0.4 * grain)
    return np.where(boards[..., None], _rgb((60, 40, 26)), plank)


def _stone(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    rough = 0.5 * _noise(rng, len(x), 6) + 0.4 * _noise(rng, len(x), 20)
    return _blend((96, 98, 104), (156, 156, 158), 0.5 + 0.7 * rough)


def _night(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    sky = _blend((10, 12, 34), (38, 36, 72), 0.4 + 0.4 * _noise(rng, len(x), 3))
    stars = rng.uniform(0, 1, x.shape) > 0.985
    return np.where(stars[..., None], _rgb((226, 226, 214)), sky)


PLACES: dict[str, Place] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "snow": _snow,
    "wood": _wood,
    "stone": _stone,
    "night": _night,
}

NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""All 96 class names of the world, shape by shape."""


def render(scenes: Sequence[Scene], size: int = SIZE) -> tuple[Bytes, NDArray[np.bool_]]:
    """Draw scenes.

    Returns:
        `[N, size, size, 3]` pictures and `[N, size, size]` masks, True on the object.
    """
    pictures = np.empty((len(scenes), size, size, 3), np.uint8)
    masks = np.empty((len(scenes), size, size), np.bool_)
    for i, scene in enumerate(scenes):
        pictures[i], masks[i] = _draw(scene, size)
    return pictures, masks


def _draw(scene: Scene, size: int) -> tuple[Bytes, NDArray[np.bool_]]:
    rng = np.random.default_rng(scene.seed)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(at, at)
    ground = np.full((size, size, 3), 128, np.float32)
    if scene.place != "plain":
        ground = PLACES[scene.place](rng, x, y) * rng.uniform(0.85, 1.1)
    cover = _cover(scene, size)
    u, v = _own_frame(scene, x, y)
    shade = _texture(scene.texture, u, v)[..., None]
    paint = _rgb(COLOURS[scene.colour]) * rng.uniform(0.88, 1.06, 3).astype(np.float32)
    paint = paint * (1 - 0.5 * shade)
    picture = ground + cover[..., None] * (paint - ground)
    picture += rng.normal(0, 3, picture.shape).astype(np.float32)
    return picture.clip(0, 255).astype(np.uint8), cover >= 0.5


def _own_frame(scene: Scene, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Turn picture coordinates into the object's: centre 0, edge ±1, v upwards."""
    dx, dy = (x - scene.x) / scene.radius, (scene.y - y) / scene.radius
    cos, sin = np.float32(np.cos(scene.angle)), np.float32(np.sin(scene.angle))
    return (cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32)


def _cover(scene: Scene, size: int, fine: int = 2) -> Floats:
    """Share of each pixel that the object covers, from `fine`² samples a pixel."""
    at = (np.arange(size * fine, dtype=np.float32) + 0.5) / (size * fine)
    x, y = np.meshgrid(at, at)
    inside = SHAPES[scene.shape](*_own_frame(scene, x, y))
    return inside.reshape(size, fine, size, fine).mean((1, 3), dtype=np.float32)
