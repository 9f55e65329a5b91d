"""Drawn scenes of one object at one place, with exact masks.

A `Scene` has a few values. `render` draws scenes as pictures and masks, and `render_ground` draws the
same pictures without their object. The pixels of a scene do not depend on the other scenes in a call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]

SIZE = 64  # pixels on each side

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
    """One object at one place.

    Attributes:
        shape: A key of `SHAPES`.
        colour: A key of `COLOURS`.
        texture: One of `TEXTURES`.
        place: A key of `ALL_PLACES`, or "plain" for uniform grey.
        radius: Half the object's size as a share of the picture.
        x: Distance of the centre from the left edge, as a share of the picture.
        y: Distance of the centre from the top edge, likewise.
        angle: Rotation of the object, in radians.
        seed: Seed of all other values: noise, light, phases.
        clutter: Number of small things on the ground, behind the object.
        others: Number of other, smaller objects; they are not in the mask.
        occluded: Whether a grey tile covers a part of the object; this part is not in the mask.
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
    clutter: int = 0
    others: int = 0
    occluded: bool = False

    @property
    def name(self) -> str:
        """Class name of the object: colour and shape."""
        return f"{self.colour} {self.shape}"


# --- shapes: (u, v) in the object's own square [-1, 1]², v upwards -> whether inside

Inside = Callable[[Floats, Floats], NDArray[np.bool_]]


def _triangle(u: Floats, v: Floats) -> NDArray[np.bool_]:
    return (v > -0.75) & (v + 1.9 * np.abs(u) < 0.95)


def _star(u: Floats, v: Floats) -> NDArray[np.bool_]:
    # One tenth of a five-pointed star, by folding the angle; its edge is a straight line in this sector.
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


# --- textures: (u, v) -> darkening, in [0, 1]


def _texture(name: str, u: Floats, v: Floats) -> Floats:
    if name == "striped":
        return (np.sin(9.5 * (u + v)) > 0).astype(np.float32)
    if name == "dotted":
        return (np.sin(8.5 * u) * np.sin(8.5 * v) > 0.35).astype(np.float32)
    if name == "checked":
        return ((np.sin(6.3 * u) > 0) ^ (np.sin(6.3 * v) > 0)).astype(np.float32)
    return np.zeros_like(u)


# --- places: (x, y) in [0, 1]², y downwards, and a random stream -> RGB in [0, 255]


def _noise(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Return smooth noise in [-1, 1]: a coarse random grid, enlarged linearly."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    positions = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    low = positions.astype(np.int64)
    fraction = (positions - low)[:, None]
    rows = grid[low] * (1 - fraction) + grid[low + 1] * fraction
    return rows[:, low] * (1 - fraction.T) + rows[:, low + 1] * fraction.T


def _rgb(colour: tuple[int, int, int]) -> Floats:
    return np.array(colour, np.float32)


def _blend(dark: tuple[int, int, int], light: tuple[int, int, int], amount: Floats) -> Floats:
    """Mix two colours by `amount` in [0, 1] for each pixel."""
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


def _leaves(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    spots = np.sin(17 * x + 4 * _noise(rng, len(x), 6)) * np.sin(17 * y + 4 * _noise(rng, len(x), 6))
    return _blend((96, 52, 20), (196, 128, 42), 0.5 + 0.55 * spots + 0.2 * _noise(rng, len(x), 24))


def _gravel(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    pebbles = np.abs(_noise(rng, len(x), 14)) + 0.5 * np.abs(_noise(rng, len(x), 28))
    return _blend((70, 66, 66), (206, 200, 190), 1.6 * pebbles)


def _mud(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    wet = 0.6 * _noise(rng, len(x), 3) + 0.2 * np.sin(12 * x - 9 * y + rng.uniform(0, 6))
    return _blend((52, 36, 28), (112, 84, 62), 0.5 + 0.6 * wet)


def _tiles(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    column, row = np.floor(x * 5 + rng.uniform(0, 1)), np.floor(y * 5 + rng.uniform(0, 1))
    return _blend((68, 110, 150), (224, 230, 232), (column + row) % 2 + 0.08 * _noise(rng, len(x), 16))


def _lava(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    cracks = 1 - 3.2 * np.abs(_noise(rng, len(x), 7))
    return _blend((34, 22, 24), (238, 92, 22), cracks)


def _dusk(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    bands = y + 0.10 * _noise(rng, len(x), 3) + 0.03 * np.sin(30 * y + rng.uniform(0, 6))
    return _blend((78, 52, 120), (250, 172, 120), bands)


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
"""Places in the training of embedded CLIPs."""

SHOT_PLACES: dict[str, Place] = {"leaves": _leaves, "gravel": _gravel, "mud": _mud}
"""Additional places for few-shot training; no CLIP was trained on them."""

TEST_PLACES: dict[str, Place] = {"tiles": _tiles, "lava": _lava, "dusk": _dusk}
"""Places only for tests."""

ALL_PLACES: dict[str, Place] = PLACES | SHOT_PLACES | TEST_PLACES

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


def render_ground(scenes: Sequence[Scene], size: int = SIZE) -> Bytes:
    """Draw scenes without their object: place, clutter and other objects are as in `render`.

    Returns:
        `[N, size, size, 3]` pictures.
    """
    return np.stack([_draw(scene, size, whole=False)[0] for scene in scenes])


def _draw(scene: Scene, size: int, *, whole: bool = True) -> tuple[Bytes, NDArray[np.bool_]]:
    """Draw a picture and its mask; without `whole`, the object itself is left out."""
    rng = np.random.default_rng(scene.seed)
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    picture = np.full((size, size, 3), 128, np.float32)
    if scene.place != "plain":
        picture = ALL_PLACES[scene.place](rng, x, y) * rng.uniform(0.85, 1.1)
    tint = rng.uniform(0.88, 1.06, 3).astype(np.float32)
    noise = rng.normal(0, 3, picture.shape).astype(np.float32)
    for thing in _things(scene):
        picture, _ = _paint(picture, thing, np.float32(0.9), x, y)
    mask = np.zeros((size, size), np.bool_)
    if whole:
        picture, cover = _paint(picture, scene, tint, x, y)
        mask = cover >= 0.5
        if scene.occluded:
            picture, hidden = _occlude(picture, scene, size)
            mask = mask & (hidden < 0.5)
    return (picture + noise).clip(0, 255).astype(np.uint8), mask


def _paint(
    picture: Floats, scene: Scene, tint: np.floating[Any] | Floats, x: Floats, y: Floats
) -> tuple[Floats, Floats]:
    """Paint an object over a picture; also return its coverage of each pixel."""
    cover = _cover(scene, len(picture))
    shade = _texture(scene.texture, *_object_coordinates(scene, x, y))[..., None]
    paint = _rgb(COLOURS[scene.colour]) * tint * (1 - 0.5 * shade)
    return picture + cover[..., None] * (paint - picture), cover


def _things(scene: Scene) -> list[Scene]:
    """Return the other things on the ground: small clutter, and other objects away from the main one."""
    rng = np.random.default_rng([scene.seed, 1])
    shapes, colours = list(SHAPES), list(COLOURS)
    things: list[Scene] = []
    for number in range(scene.clutter + scene.others):
        small = number < scene.clutter
        radius = rng.uniform(0.05, 0.085) if small else 0.7 * scene.radius
        phi = rng.uniform(0, 2 * np.pi)
        x, y = rng.uniform(0.08, 0.92, 2)
        if not small:
            x, y = scene.x + 1.6 * scene.radius * np.cos(phi), scene.y + 1.6 * scene.radius * np.sin(phi)
        things.append(
            Scene(
                shape=shapes[int(rng.integers(len(shapes)))],
                colour=colours[int(rng.integers(len(colours)))],
                radius=float(radius),
                x=float(np.clip(x, 0.05, 0.95)),
                y=float(np.clip(y, 0.05, 0.95)),
                angle=float(rng.uniform(0, 2 * np.pi)),
            )
        )
    return things


def _occlude(picture: Floats, scene: Scene, size: int) -> tuple[Floats, Floats]:
    """Put a grey tile over an edge of the object; also return the tile's coverage of each pixel."""
    rng = np.random.default_rng([scene.seed, 2])
    dx, dy = scene.radius * rng.uniform(-0.9, 0.9, 2)
    tile = Scene(
        "square",
        "red",
        radius=float(scene.radius * rng.uniform(0.3, 0.5)),
        x=float(scene.x + dx),
        y=float(scene.y + dy),
        angle=float(rng.uniform(0, 3)),
    )
    cover = _cover(tile, size)
    grey = np.float32(rng.uniform(60, 190))
    return picture + cover[..., None] * (grey - picture), cover


def _object_coordinates(scene: Scene, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Transform picture coordinates to the object's: centre 0, edge ±1, v upwards."""
    dx, dy = (x - scene.x) / scene.radius, (scene.y - y) / scene.radius
    cos, sin = np.float32(np.cos(scene.angle)), np.float32(np.sin(scene.angle))
    return (cos * dx + sin * dy).astype(np.float32), (cos * dy - sin * dx).astype(np.float32)


def _cover(scene: Scene, size: int, fine: int = 2) -> Floats:
    """Return the object's coverage of each pixel, from `fine`² samples."""
    centres = (np.arange(size * fine, dtype=np.float32) + 0.5) / (size * fine)
    x, y = np.meshgrid(centres, centres)
    inside = SHAPES[scene.shape](*_object_coordinates(scene, x, y))
    return inside.reshape(size, fine, size, fine).mean((1, 3), dtype=np.float32)
