"""Which pictures count as the same, and that none of those is missed."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from vlmserve.errors import MediaError
from vlmserve.media.likeness import (
    Fingerprint,
    LikenessIndex,
    take_fingerprint,
    take_fingerprints,
)


def photo(seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """Blurred noise: large and small structure, as a photograph has."""
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            ),
            dtype=float,
        )
        for side in (3, 9, 40)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **kw: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **kw)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "copy",
    [
        encode(photo(1), "JPEG", quality=90),
        encode(photo(1), "JPEG", quality=30),
        encode(photo(1), "WEBP", quality=60),
        encode(photo(1).resize((200, 150)), "JPEG", quality=85),
        encode(photo(1).resize((800, 600))),
        encode(photo(1).convert("RGBA")),
    ],
    ids=["q90", "q30", "webp", "half", "double", "rgba"],
)
def test_copies_are_alike(copy: bytes) -> None:
    index = LikenessIndex([take_fingerprint(encode(photo(seed))) for seed in range(3)])

    assert index.find(take_fingerprint(copy)) == [1]


@pytest.mark.parametrize(
    "other",
    [
        photo(1).crop((40, 0, 400, 300)),
        photo(1).resize((400, 250)),
        photo(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        photo(1).rotate(90),
        photo(2),
    ],
    ids=["crop", "aspect", "mirror", "rotate", "other"],
)
def test_other_pictures_are_not(other: Image.Image) -> None:
    index = LikenessIndex([take_fingerprint(encode(photo(1)))])

    assert index.find(take_fingerprint(encode(other))) == []


def test_small_drawings_that_differ_by_a_word_are_not_alike() -> None:
    def page(word: str) -> bytes:
        image = Image.new("RGB", (200, 100), "white")
        ImageDraw.Draw(image).text((20, 20), f"the answer is {word}", fill="black", font_size=20)
        return encode(image)

    index = LikenessIndex([take_fingerprint(page("forty two"))])

    assert index.find(take_fingerprint(page("nothing"))) == []
    assert index.find(take_fingerprint(page("forty two"))) == [0]


def test_empty_pictures_have_no_likeness() -> None:
    blank = take_fingerprint(encode(Image.new("RGB", (100, 100), "white")))
    grey = take_fingerprint(encode(Image.new("RGB", (100, 100), (250, 250, 250))))

    assert blank.thumbnail is None
    assert blank.digest != grey.digest
    assert LikenessIndex([blank]).find(grey) == []


def test_the_cells_miss_none_that_comparing_all_would_find() -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 255, (8, 16, 16, 3))
    # Copies that are moved by up to a little more than is allowed, so that many are at the edge.
    noise = random.integers(-4, 5, (10, *base.shape)) + random.integers(-3, 4, (10, 8, 1, 1, 1))
    thumbnails = np.clip(base + noise, 0, 255).astype(np.uint8).reshape(-1, 16, 16, 3)
    prints = [Fingerprint(bytes([0]), thumbnail, 1.0) for thumbnail in thumbnails]
    index = LikenessIndex(prints)

    n_found = 0
    for one in prints[::7]:
        # One index a picture compares with everything: its only cell is always looked at.
        alone = [
            number for number, other in enumerate(prints) if LikenessIndex([other]).find(one) == [0]
        ]
        assert index.find(one) == alone
        n_found += len(alone)
    assert n_found > len(prints[::7])


def test_files_of_any_kind_have_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"film")

    first, second, gone = take_fingerprints([path, path.read_bytes, tmp_path / "gone"])

    assert isinstance(first, Fingerprint)
    assert isinstance(second, Fingerprint)
    assert first.digest == second.digest
    assert first.thumbnail is None
    assert isinstance(gone, MediaError)
    assert LikenessIndex([]).find(first) == []
