"""Draws the demo's pictures: coloured shapes, groups of shapes, grey fields and moving dots.

Every side is a multiple of 28 pixels (patch 14 x merge 2), so that the processor never resizes
and a picture of ``(h, w)`` pixels is exactly ``h / 28 * w / 28`` tokens. Shapes fill most of their
canvas and counted shapes lie near the centres of the 28-pixel cells: a model of a million
parameters then learns them in minutes.
"""

import math
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Pixels = npt.NDArray[np.uint8]
"""An RGB picture of shape ``(h, w, 3)``, or the frames of a video, ``(t, h, w, 3)``."""

Rgb = tuple[int, int, int]

CELL_PX = 28
"""Side of the square of pixels that becomes one token."""

COLORS: dict[str, Rgb] = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 225),
    "yellow": (235, 215, 50),
    "purple": (140, 50, 170),
    "white": (240, 240, 240),
}
"""The colours that the base model learns."""

NEW_COLORS: dict[str, Rgb] = {
    "orange": (245, 140, 20),
    "pink": (250, 150, 190),
    "cyan": (40, 205, 215),
}
"""The colours that only the fine-tunes learn."""

SHAPES = ("circle", "square", "triangle", "star", "cross")

DIRECTIONS: dict[str, tuple[int, int]] = {
    "up": (0, -1),
    "down": (0, 1),
    "left": (-1, 0),
    "right": (1, 0),
}
"""Name to ``(dx, dy)``, with y growing downwards."""

VIDEO_SHAPES: dict[int, int] = {4: 56, 6: 84, 8: 112}
"""Frames to side in pixels. Half the frames never exceed the side in tokens: transformers from 5.3
places the text after a video at ``max(h, w)``, vLLM at ``max(t, h, w)``, and here both agree."""

_CANVASES = [(56, 56)] * 6 + [(84, 84)] * 3 + [(56, 84), (84, 56)] * 2 + [(112, 84), (56, 112)]
_SMALL_CANVASES = [(56, 56)] * 7 + [(56, 84), (84, 56), (84, 84)]
_GROUP_CANVASES = [(56, 84), (84, 56), (84, 84), (84, 84), (56, 112), (112, 56)]

_SMALLEST_CHANCE = 0.6  # that a digit stands on the smallest canvas whatever the list says
_ROTATE_CHANCE = 0.7


def draw_shape(random: Random, shape: str, color: Rgb, *, small: bool = False) -> Pixels:
    """Draw one large shape near the middle of a dark canvas of a random size.

    Args:
        random: The source of size, place and shade.
        shape: One of ``SHAPES``.
        color: Its colour, before a slight change of shade.
        small: Prefer the smallest canvas, as samples of several images do.
    """
    height, width = random.choice(_SMALL_CANVASES if small else _CANVASES)
    image, draw = _dark_canvas(random, height, width)
    radius = min(random.uniform(0.30, 0.43) * min(height, width), 40.0)
    slack_x = max(0.0, min(width / 2 - radius - 1, 9.0))
    slack_y = max(0.0, min(height / 2 - radius - 1, 9.0))
    x = width / 2 + random.uniform(-slack_x, slack_x)
    y = height / 2 + random.uniform(-slack_y, slack_y)
    _fill_shape(draw, shape, (x, y), radius, _shade(random, color))
    return np.asarray(image)


def draw_group(random: Random, count: int, shape: str, color: Rgb) -> Pixels:
    """Draw ``count`` small equal shapes, each in its own 28-pixel cell (at most 6)."""
    height, width = random.choice(_GROUP_CANVASES)
    image, draw = _dark_canvas(random, height, width)
    cells = [(y, x) for y in range(height // CELL_PX) for x in range(width // CELL_PX)]
    for row, column in random.sample(cells, count):
        x = (column + 0.5) * CELL_PX + random.uniform(-3, 3)
        y = (row + 0.5) * CELL_PX + random.uniform(-3, 3)
        _fill_shape(draw, shape, (x, y), random.uniform(8, 10), _shade(random, color))
    return np.asarray(image)


def draw_field(random: Random, level: int) -> Pixels:
    """Fill a canvas with coarse noise around one brightness, 0 to 255, slightly tinted."""
    height, width = random.choice(_SMALL_CANVASES)
    noise = np.random.default_rng(random.getrandbits(32)).integers(
        -18, 19, size=(height // 4, width // 4, 1)
    )
    tint = np.array([random.randint(-15, 15) for _ in range(3)])
    field = level + noise.repeat(4, axis=0).repeat(4, axis=1) + tint
    pixels: Pixels = np.clip(field, 0, 255).astype(np.uint8)
    return pixels


def draw_digit(random: Random, digit: Pixels, *, augment: bool) -> Pixels:
    """Enlarge one handwritten digit onto a canvas.

    Args:
        random: The source of canvas size and shades, and of the augmentation.
        digit: The scan, shape ``(8, 8)``, ink 0 to 255.
        augment: Rotate, scale and shift it a little, as training does.
    """
    height, width = (
        (56, 56) if random.random() < _SMALLEST_CHANCE else random.choice(_SMALL_CANVASES)
    )
    side = random.randint(42, 54) if augment else 48
    glyph = Image.fromarray(digit)
    if augment and random.random() < _ROTATE_CHANCE:
        glyph = glyph.resize((64, 64), Image.Resampling.BICUBIC)
        glyph = glyph.rotate(random.uniform(-14, 14), Image.Resampling.BILINEAR)
    glyph = glyph.resize((side, side), Image.Resampling.BICUBIC)
    x, y = (width - side) // 2, (height - side) // 2
    if augment:
        x += random.randint(-min(x, 4), min(x, 4))
        y += random.randint(-min(y, 4), min(y, 4))
    ink = np.zeros((height, width), np.float32)
    ink[y : y + side, x : x + side] = np.asarray(glyph, dtype=np.float32) / 255
    bright, dark = random.uniform(180, 255), random.uniform(0, 30)
    grey = np.clip(dark + (bright - dark) * ink, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def draw_motion(random: Random, direction: str, color: Rgb) -> Pixels:
    """Draw a dot that crosses most of a square canvas in a straight line.

    Returns:
        The frames, shape ``(t, side, side, 3)`` with one of the pairs in ``VIDEO_SHAPES``.
    """
    num_frames = random.choice((4, 4, 6, 8))
    side = VIDEO_SHAPES[num_frames]
    dx, dy = DIRECTIONS[direction]
    background, shade = _dark(random), _shade(random, color)
    radius = random.uniform(5, 8) * side / 56
    room = side - 2 * radius - 2
    span = room * random.uniform(0.6, 1.0)
    start = radius + 1 + random.uniform(0, room - span)
    across = random.uniform(radius + 1, side - radius - 1)
    frames = []
    for index in range(num_frames):
        along = start + span * index / (num_frames - 1)
        if dx + dy < 0:
            along = side - along
        x, y = (along, across) if dx else (across, along)
        image = Image.new("RGB", (side, side), background)
        _fill_shape(ImageDraw.Draw(image), "circle", (x, y), radius, shade)
        frames.append(np.asarray(image))
    return np.stack(frames)


def _dark_canvas(
    random: Random, height: int, width: int
) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), _dark(random))
    return image, ImageDraw.Draw(image)


def _dark(random: Random) -> Rgb:
    level = random.randint(0, 70)
    red, green, blue = (max(0, level + random.randint(-8, 8)) for _ in range(3))
    return red, green, blue


def _shade(random: Random, color: Rgb) -> Rgb:
    red, green, blue = (min(255, max(0, part + random.randint(-14, 14))) for part in color)
    return red, green, blue


def _fill_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    center: tuple[float, float],
    radius: float,
    color: Rgb,
) -> None:
    (x, y), r = center, radius
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "square":
        r *= 0.88  # about the area of the circle, so that size does not give the shape away
        draw.rectangle([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r * 0.8), (x + r, y + r * 0.8)], fill=color)
    elif shape == "star":
        tips = [(r if i % 2 == 0 else r * 0.42, i * math.pi / 5) for i in range(10)]
        draw.polygon([(x + d * math.sin(a), y - d * math.cos(a)) for d, a in tips], fill=color)
    elif shape == "cross":
        arm = r * 0.32
        draw.rectangle([x - arm, y - r, x + arm, y + r], fill=color)
        draw.rectangle([x - r, y - arm, x + r, y + arm], fill=color)
    else:
        raise ValueError(f"no such shape: {shape!r}; known are {', '.join(SHAPES)}")
