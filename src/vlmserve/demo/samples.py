"""The demo's questions: what a sample is, and the generator that draws samples of one split."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from PIL import Image

from vlmserve.demo.digits import load_digits
from vlmserve.demo.drawing import (
    COLORS,
    DIRECTIONS,
    NEW_COLORS,
    SHAPES,
    Pixels,
    draw_digit,
    draw_field,
    draw_group,
    draw_motion,
    draw_shape,
)
from vlmserve.demo.splits import DATA_VERSION, Split, split_of
from vlmserve.demo.video import decode_mp4, encode_mp4

Task = Literal[
    "color",
    "shape",
    "count",
    "digit",
    "bright",
    "same",
    "larger",
    "order",
    "video",
    "add",
    "reverse",
    "ref",
    "newcolor",
]
"""What a question asks; see the generator's methods."""

TASKS: tuple[Task, ...] = get_args(Task)

BASE_TASKS: tuple[Task, ...] = tuple(task for task in TASKS if task != "newcolor")
"""The tasks that the base model is trained on."""

ORDINALS = ("first", "second", "third", "fourth")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_OPERAND = 49

_SAME_CHANCE = 0.5
_VISIBLE_DIFFERENCE = 45  # of 255 levels of brightness

QUESTIONS: dict[Task, tuple[str, ...]] = {
    "color": ("What color is the shape?", "Name the color."),
    "shape": ("What shape is this?", "Name the shape."),
    "count": ("How many shapes are there?", "Count the shapes."),
    "digit": ("Which digit is this?", "Read the digit."),
    "bright": ("Which image is brighter?",),
    "same": ("Are the two shapes the same?",),
    "larger": ("Which image shows the larger digit?",),
    "order": ("Which image has a {color} {shape}?",),
    "video": ("Which way does the dot move?",),
    "add": ("What is {a} plus {b}?",),
    "reverse": ("Reverse: {word}",),
    "ref": (
        "What shape is in the {ordinal} image?",
        "What color is in the {ordinal} image?",
        "Which digit is in the {ordinal} image?",
    ),
    "newcolor": ("What color is the shape?", "Name the color."),
}
"""How each task may be asked."""


@dataclass(frozen=True, slots=True, eq=False)
class Medium:
    """One image or video of a sample."""

    pixels: Pixels
    """What the model sees: ``(h, w, 3)``, or a video's decoded frames, ``(t, h, w, 3)``."""

    video: bytes | None = None
    """The MP4 file that the frames were decoded from; ``None`` for an image."""

    @property
    def is_video(self) -> bool:
        """Whether this is a video."""
        return self.video is not None

    def file(self) -> bytes:
        """Return the file that holds it: the MP4, or a PNG made now."""
        if self.video is not None:
            return self.video
        buffer = io.BytesIO()
        Image.fromarray(self.pixels).save(buffer, format="PNG")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and the answer expected."""

    task: Task
    question: str
    target: str


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A conversation: media first, then questions; the first turn is the sample's own task."""

    media: tuple[Medium, ...]
    turns: tuple[Turn, ...]

    @property
    def task(self) -> Task:
        """The task of the first turn."""
        return self.turns[0].task


class SampleGenerator:
    """Draws samples of one split, the same from the same seed.

    Args:
        seed: Any name or number; streams of different seeds differ.
        split: The split that every digit, operand pair, word and picture comes from.
        multi_turn: Ask further questions about the same media, as training does: more supervision
            for the price of one encoding. Otherwise a sample has one turn.
    """

    def __init__(self, seed: int | str, split: Split, *, multi_turn: bool = False) -> None:
        self._random = Random(f"vlmserve-demo/{DATA_VERSION}/{split}/{seed}")  # noqa: S311
        self._split = split
        self._multi_turn = multi_turn
        self._scans: dict[int, list[Pixels]] = {}
        self._makers: dict[Task, Callable[[], Sample]] = {
            "color": lambda: self._colored(COLORS, "color"),
            "newcolor": lambda: self._colored(NEW_COLORS, "newcolor"),
            "shape": self._shape,
            "count": self._count,
            "digit": self._digit,
            "bright": self._bright,
            "same": self._same,
            "larger": self._larger,
            "order": self._order,
            "video": self._video,
            "add": self._add,
            "reverse": self._reverse,
            "ref": self._ref,
        }

    def sample(self, task: Task) -> Sample:
        """Draw the next sample of a task."""
        sample = self._makers[task]()
        return sample if self._multi_turn else Sample(sample.media, sample.turns[:1])

    def _colored(self, colors: dict[str, tuple[int, int, int]], task: Task) -> Sample:
        """What colour a shape has; then which shape it is."""
        color, shape = self._random.choice(list(colors)), self._random.choice(SHAPES)
        images = self._of_split(lambda: (draw_shape(self._random, shape, colors[color]),))
        return _about(images, self._turn(task, color), self._turn("shape", shape))

    def _shape(self) -> Sample:
        sample = self._colored(COLORS, "color")
        return Sample(sample.media, sample.turns[::-1])

    def _count(self) -> Sample:
        """How many equal shapes there are, 1 to 5; then their colour."""
        count, shape = self._random.randint(1, 5), self._random.choice(SHAPES)
        color = self._random.choice(list(COLORS))
        images = self._of_split(lambda: (draw_group(self._random, count, shape, COLORS[color]),))
        return _about(
            images, self._turn("count", str(count)), Turn("color", "Name the color.", color)
        )

    def _digit(self) -> Sample:
        """Which digit was written."""
        digit = self._random.randrange(10)
        return _about((self._draw_digit(digit),), self._turn("digit", str(digit)))

    def _bright(self) -> Sample:
        """Which of two grey fields is brighter."""
        levels = [0, 0]
        while abs(levels[0] - levels[1]) < _VISIBLE_DIFFERENCE:
            levels = [self._random.randint(20, 235) for _ in range(2)]
        images = self._of_split(lambda: tuple(draw_field(self._random, level) for level in levels))
        return _about(images, self._turn("bright", ORDINALS[levels[1] > levels[0]]))

    def _same(self) -> Sample:
        """Whether two images show the same shape; then what is in each."""
        one = self._random.choice(SHAPES)
        others = [shape for shape in SHAPES if shape != one]
        shapes = [one, one if self._random.random() < _SAME_CHANCE else self._random.choice(others)]
        colors = [self._random.choice(list(COLORS)) for _ in shapes]
        answer = "yes" if shapes[0] == shapes[1] else "no"
        images = self._draw_shapes(shapes, colors)
        return _about(images, self._turn("same", answer), *self._refs(shapes, colors, 2))

    def _order(self) -> Sample:
        """Which of three or four images has a certain shape of a certain colour."""
        every = [(color, shape) for color in COLORS for shape in SHAPES]
        shown = self._random.sample(every, self._random.choice((3, 4)))
        colors, shapes = [color for color, _ in shown], [shape for _, shape in shown]
        index = self._random.randrange(len(shown))
        turn = self._turn("order", ORDINALS[index], color=colors[index], shape=shapes[index])
        return _about(self._draw_shapes(shapes, colors), turn, *self._refs(shapes, colors, 2))

    def _ref(self) -> Sample:
        """What is in the n-th of two to four images."""
        maker = self._random.choice((self._order, self._same, self._larger))
        sample = maker()
        main, *refs = sample.turns
        return Sample(sample.media, (*refs, main))

    def _larger(self) -> Sample:
        """Which of two images shows the larger digit; then the digits themselves."""
        digits = self._random.sample(range(10), 2)
        images = tuple(self._draw_digit(digit) for digit in digits)
        refs = [
            Turn("ref", QUESTIONS["ref"][2].format(ordinal=ORDINALS[index]), str(digits[index]))
            for index in self._random.sample(range(2), 2)
        ]
        return _about(images, self._turn("larger", ORDINALS[digits[1] > digits[0]]), *refs)

    def _video(self) -> Sample:
        """Which way a dot moves."""
        direction = self._random.choice(list(DIRECTIONS))
        color = COLORS[self._random.choice(list(COLORS))]
        (frames,) = self._of_split(lambda: (draw_motion(self._random, direction, color),))
        data = encode_mp4(frames)
        medium = Medium(decode_mp4(data), data)
        return Sample((medium,), (self._turn("video", direction),))

    def _add(self) -> Sample:
        """The sum of two numbers; no pair is asked in two splits, in either order."""
        turns = []
        for _ in range(4 if self._multi_turn else 1):
            a = b = -1
            while a < 0 or split_of(f"{min(a, b)}+{max(a, b)}".encode()) != self._split:
                a, b = (self._random.randint(0, MAX_OPERAND) for _ in range(2))
            turns.append(self._turn("add", str(a + b), a=str(a), b=str(b)))
        return Sample((), tuple(turns))

    def _reverse(self) -> Sample:
        """Three or four letters backwards; no word, nor its reverse, is asked in two splits."""
        turns = []
        for _ in range(2 if self._multi_turn else 1):
            word = ""
            while not word or split_of(min(word, word[::-1]).encode()) != self._split:
                letters = self._random.choices(LETTERS, k=self._random.choice((3, 4)))
                word = "".join(letters)
            turns.append(self._turn("reverse", " ".join(word[::-1]), word=" ".join(word)))
        return Sample((), tuple(turns))

    def _turn(self, task: Task, target: str, **fields: str) -> Turn:
        return Turn(task, self._random.choice(QUESTIONS[task]).format(**fields), target)

    def _refs(self, shapes: list[str], colors: list[str], number: int) -> list[Turn]:
        turns = []
        for index in self._random.sample(range(len(shapes)), number):
            kind = self._random.randrange(2)
            question = QUESTIONS["ref"][kind].format(ordinal=ORDINALS[index])
            turns.append(Turn("ref", question, (shapes, colors)[kind][index]))
        return turns

    def _draw_shapes(self, shapes: list[str], colors: list[str]) -> tuple[Pixels, ...]:
        pairs = list(zip(shapes, colors, strict=True))
        return self._of_split(
            lambda: tuple(draw_shape(self._random, s, COLORS[c], small=True) for s, c in pairs)
        )

    def _draw_digit(self, digit: int) -> Pixels:
        return draw_digit(self._random, self._scan(digit), augment=self._split == "train")

    def _scan(self, digit: int) -> Pixels:
        """Pick a scan; held out, each is shown once before any is shown again."""
        scans = load_digits(self._split)[digit]
        if self._split != "heldout":
            return self._random.choice(scans)
        deck = self._scans.setdefault(digit, [])
        if not deck:
            deck += self._random.sample(scans, len(scans))
        return deck.pop()

    def _of_split(self, draw: Callable[[], tuple[Pixels, ...]]) -> tuple[Pixels, ...]:
        """Draw until the pixels belong to this generator's split."""
        while True:
            pictures = draw()
            if split_of(b"".join(picture.tobytes() for picture in pictures)) == self._split:
                return pictures


def _about(images: tuple[Pixels, ...], *turns: Turn) -> Sample:
    return Sample(tuple(Medium(image) for image in images), turns)
