"""Boxes around things, in declared coordinates."""

import re
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, model_validator
from scipy.optimize import linear_sum_assignment
from typing_extensions import override

from vlmserve.evals.scorers.coordinates import Coordinates, Resize, Size, to_fractions
from vlmserve.evals.scorers.json_text import read_json
from vlmserve.evals.scorers.scorer import Scorer, shorten

_Array = np.ndarray[Any, np.dtype[np.float64]]
_LIMITS: dict[Coordinates, float] = {
    "pixels": np.inf,
    "0-1": 1.0,
    "0-1000": 1000.0,
    "resized": np.inf,
}
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_POINT = rf"\({_NUMBER},{_NUMBER}\)"
# Qwen-VL and Qwen2-VL; their marks are special tokens, which an engine leaves out of its text.
_CORNERS = re.compile(rf"{_POINT}\s*,\s*{_POINT}")
_BARE = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")
_KEYS = ("bbox_2d", "bbox", "box_2d", "box")
_N_CORNERS = 4


class Box(NamedTuple):
    """Left, top, right, bottom, and what is in it."""

    corners: tuple[float, float, float, float]
    label: str | None = None


class _BoxScorer(Scorer):
    coordinates: Coordinates
    """What the numbers of targets count; targets outside the range are refused."""

    answers: Coordinates | None = None
    """What those of answers count, where it is something else: both become fractions of the
    sample's one image. An overlap of boxes that count the same does not depend on what it is."""

    max_pixels: int | None = Field(default=None, gt=0)
    """Of ``resized``: the largest area, as the processor has it."""

    min_pixels: int = Field(default=3136, gt=0)
    """Of ``resized``: the smallest area."""

    factor: int = Field(default=28, gt=0)
    """Of ``resized``: patch size times merge size; 28 of Qwen2-VL and Qwen2.5-VL."""

    @model_validator(mode="after")
    def _resizing_is_known(self) -> "_BoxScorer":
        is_resized = self.needs_image_size and "resized" in {self.coordinates, self.answers}
        if is_resized and self.max_pixels is None:
            raise ValueError("resized pixels need max_pixels, as the processor has it")
        return self

    @property
    @override
    def needs_image_size(self) -> bool:
        return self.answers is not None and self.answers != self.coordinates

    @override
    def score(self, answer: str, target: str) -> float:
        return self._compare(read_boxes(answer), read_boxes(target))

    @override
    def score_image(self, answer: str, target: str, size_px: Size) -> float:
        resize = None
        if self.max_pixels is not None:
            resize = Resize(self.factor, self.min_pixels, self.max_pixels)
        given, due = (
            [
                Box(to_fractions(box.corners, coordinates, size_px, resize), box.label)
                for box in read_boxes(text)
            ]
            for text, coordinates in (
                (answer, self.answers or self.coordinates),
                (target, self.coordinates),
            )
        )
        return self._compare(given, due)

    @abstractmethod
    def _compare(self, given: "list[Box]", due: "list[Box]") -> float:
        """Compare boxes that count the same."""

    @override
    def check_target(self, target: str) -> None:
        boxes = read_boxes(target)
        if not boxes:
            raise ValueError(f"no box: {shorten(target)}")
        limit = _LIMITS[self.coordinates]
        for box in boxes:
            left, top, right, bottom = box.corners
            if not (left < right and top < bottom):
                raise ValueError(f"a box without area, or with swapped corners: {box.corners}")
            if min(left, top) < 0 or max(right, bottom) > limit:
                raise ValueError(f"outside of {self.coordinates}: {box.corners}")


class BoxIou(_BoxScorer):
    """Overlap of the answer's first box with the target's only one: intersection over union.

    Boxes are read as Qwen-VL writes them, ``<|box_start|>(x,y),(x,y)<|box_end|>``, with or without
    the marks, as JSON with ``bbox_2d``, or as ``[x, y, x, y]``.
    """

    name: ClassVar[str] = "box_iou"
    about: ClassVar[str] = "intersection over union of one box"
    source: ClassVar[str] = (
        "M. Everingham et al. 2010, The PASCAL VOC challenge, equation 4; resized pixels as in "
        "Qwen2.5-VL cookbooks/spatial_understanding.ipynb plot_bounding_boxes"
    )

    threshold: float | None = Field(default=None, gt=0.0, le=1.0)
    """Score 1 from this overlap on and 0 below, as RefCOCO's Acc@0.5; the overlap when unset."""

    @override
    def _compare(self, given: list[Box], due: list[Box]) -> float:
        overlap = float(overlaps(given[:1], due[:1])[0, 0]) if given else 0.0
        return overlap if self.threshold is None else float(overlap >= self.threshold)

    @override
    def check_target(self, target: str) -> None:
        super().check_target(target)
        if (count := len(read_boxes(target))) > 1:
            raise ValueError(f"{count} boxes; several are what the scorer boxes is for")


class Boxes(_BoxScorer):
    """F1 of boxes: 2 x matches over the boxes of both sides.

    Each box is matched with one of the other side at most, so that as many as can be overlap by the
    threshold (Hungarian method). Boxes are read as by ``box_iou``.
    """

    name: ClassVar[str] = "boxes"
    about: ClassVar[str] = "F1 of boxes matched one to one from an overlap of 0.5 on"
    source: ClassVar[str] = "H. Kuhn 1955, Naval Research Logistics 2, by scipy; overlap as box_iou"

    threshold: float = Field(default=0.5, gt=0.0, le=1.0)
    """Intersection over union from which a match counts."""

    labels: bool = False
    """Whether labels must be the same, too, without case; they are read from JSON alone."""

    @override
    def _compare(self, given: list[Box], due: list[Box]) -> float:
        if not given:
            return 0.0
        overlap = overlaps(given, due)
        fits = overlap >= self.threshold
        if self.labels:
            fits &= np.array([[_label(one) == _label(other) for other in due] for one in given])
        # More matches before better ones.
        rows, columns = linear_sum_assignment(np.where(fits, 1.0 + overlap, 0.0), maximize=True)
        return 2 * int(fits[rows, columns].sum()) / (len(given) + len(due))

    @override
    def check_target(self, target: str) -> None:
        super().check_target(target)
        if self.labels and any(box.label is None for box in read_boxes(target)):
            raise ValueError(f"a box without a label: {shorten(target)}")


def read_boxes(text: str) -> list[Box]:
    """Read the boxes in a text, in their order; none where it holds none."""
    try:
        boxes = list(_in_json(read_json(text)))
    except (ValueError, RecursionError):
        boxes = []
    if boxes:
        return boxes
    found = _CORNERS.findall(text) or _BARE.findall(text)
    return [
        Box((float(left), float(top), float(right), float(bottom)))
        for left, top, right, bottom in found
    ]


def _in_json(value: Any) -> Iterator[Box]:
    if isinstance(value, dict):
        label = value.get("label")
        for key in _KEYS:
            for box in _in_json(value.get(key)):
                yield Box(box.corners, label if isinstance(label, str) else None)
    elif isinstance(value, list):
        numbers = [float(one) for one in value if type(one) in {int, float}]
        if len(numbers) == len(value) == _N_CORNERS:
            left, top, right, bottom = numbers
            yield Box((left, top, right, bottom))
            return
        for child in value:
            yield from _in_json(child)


def overlaps(one: list[Box], other: list[Box]) -> _Array:
    """Intersection over union of each box with each.

    Args:
        one: ``n`` boxes; one with swapped corners has no area and overlaps with nothing.
        other: ``m`` boxes.

    Returns:
        Shape ``(n, m)``, each from 0 to 1.
    """
    first = np.array([box.corners for box in one])[:, None, :]
    second = np.array([box.corners for box in other])[None, :, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(
        first[..., :2], second[..., :2]
    )
    shared = np.clip(sides, 0.0, None).prod(axis=-1)
    union = _area(first) + _area(second) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _area(corners: _Array) -> _Array:
    sizes: _Array = np.clip(corners[..., 2:] - corners[..., :2], 0.0, None)
    return np.asarray(sizes.prod(axis=-1))


def _label(box: Box) -> str | None:
    return None if box.label is None else box.label.strip().casefold()
