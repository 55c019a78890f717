import numpy as np
import pytest

from vlmserve.demo.digits import load_digits
from vlmserve.demo.drawing import CELL_PX, NEW_COLORS, VIDEO_SHAPES, draw_shape
from vlmserve.demo.samples import BASE_TASKS, MAX_OPERAND, TASKS, Sample, SampleGenerator, Task
from vlmserve.demo.splits import SPLITS, Split, split_of
from vlmserve.demo.video import decode_mp4, encode_mp4
from vlmserve.errors import MediaError


def draw(task: Task, split: Split, number: int = 40, *, multi_turn: bool = False) -> list[Sample]:
    generator = SampleGenerator("test", split, multi_turn=multi_turn)
    return [generator.sample(task) for _ in range(number)]


def questions(samples: list[Sample], task: Task) -> set[str]:
    return {turn.question for sample in samples for turn in sample.turns if turn.task == task}


def test_every_split_gets_its_share() -> None:
    found = [split_of(str(number).encode()) for number in range(8000)]

    assert found.count("train") == pytest.approx(6000, rel=0.05)
    assert found.count("validation") == pytest.approx(1000, rel=0.15)
    assert found.count("heldout") == pytest.approx(1000, rel=0.15)


def test_no_digit_image_is_in_two_splits() -> None:
    pixels = {
        split: {scan.tobytes() for scans in load_digits(split).values() for scan in scans}
        for split in SPLITS
    }

    assert not pixels["train"] & pixels["validation"]
    assert not pixels["train"] & pixels["heldout"]
    assert not pixels["validation"] & pixels["heldout"]
    assert sum(len(scans) for s in SPLITS for scans in load_digits(s).values()) == 1797
    for split in SPLITS:
        assert all(len(scans) >= 12 for scans in load_digits(split).values())


def test_no_operand_pair_is_in_two_splits_in_either_order() -> None:
    pairs: dict[Split, set[frozenset[str]]] = {}
    for split in SPLITS:
        asked = questions(draw("add", split, 600, multi_turn=True), "add")
        pairs[split] = {frozenset(q[8:-1].split(" plus ")) for q in asked}

    assert all(len(each) > 50 for each in pairs.values())
    assert not pairs["train"] & (pairs["validation"] | pairs["heldout"])
    assert not pairs["validation"] & pairs["heldout"]


def test_no_word_is_in_two_splits_forwards_or_backwards() -> None:
    for split in SPLITS:
        for sample in draw("reverse", split, 100, multi_turn=True):
            for turn in sample.turns:
                word = turn.question.removeprefix("Reverse: ").replace(" ", "")
                assert turn.target.replace(" ", "") == word[::-1]
                assert split_of(min(word, word[::-1]).encode()) == split


@pytest.mark.parametrize("task", ["color", "count", "bright", "same", "order", "newcolor"])
def test_drawn_pictures_belong_to_the_split_of_their_pixels(task: Task) -> None:
    for split in SPLITS:
        for sample in draw(task, split, 10):
            pixels = b"".join(medium.pixels.tobytes() for medium in sample.media)
            assert split_of(pixels) == split


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_draws_same_samples(task: Task) -> None:
    for one, other in zip(draw(task, "train", 5), draw(task, "train", 5), strict=True):
        assert one.turns == other.turns
        assert [m.file() for m in one.media] == [m.file() for m in other.media]


def test_other_seeds_and_splits_draw_other_samples() -> None:
    def first(seed: int, split: Split) -> bytes:
        return SampleGenerator(seed, split).sample("color").media[0].pixels.tobytes()

    assert len({first(0, "train"), first(1, "train"), first(0, "heldout")}) == 3


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_of_its_task_and_fits_the_grid(task: Task) -> None:
    for sample in draw(task, "validation", 10):
        assert sample.task == task
        assert len(sample.turns) == 1
        assert sample.turns[0].target
        for medium in sample.media:
            assert all(side % CELL_PX == 0 for side in medium.pixels.shape[-3:-1])


def test_targets_are_true() -> None:
    for sample in draw("add", "heldout"):
        a, b = sample.turns[0].question[8:-1].split(" plus ")
        assert int(a) + int(b) == int(sample.turns[0].target)
        assert max(int(a), int(b)) <= MAX_OPERAND
    for sample in draw("bright", "heldout"):
        first, second = (medium.pixels.mean() for medium in sample.media)
        assert (sample.turns[0].target == "second") == (second > first)
    for sample in draw("video", "heldout"):
        frames = sample.media[0].pixels.astype(np.int16)
        first, last = (np.abs(f - np.median(f, axis=(0, 1))).sum(-1) for f in frames[[0, -1]])
        moved = np.subtract(
            *(np.argwhere(each > each.max() / 2).mean(axis=0) for each in (last, first))
        )
        axis = int(np.abs(moved).argmax())
        names = (("up", "down"), ("left", "right"))[axis]
        assert sample.turns[0].target == names[int(moved[axis] > 0)]


def test_base_tasks_never_show_a_new_color() -> None:
    assert "newcolor" not in BASE_TASKS
    for task in BASE_TASKS:
        for sample in draw(task, "train", 20, multi_turn=True):
            assert not {turn.target for turn in sample.turns} & set(NEW_COLORS)


def test_videos_are_what_their_file_holds_and_short_for_their_side() -> None:
    for sample in draw("video", "train", 20):
        (medium,) = sample.media
        assert medium.video is not None
        assert np.array_equal(decode_mp4(medium.video), medium.pixels)
        frames, height, width, _ = medium.pixels.shape
        assert VIDEO_SHAPES[frames] == height == width
        # Where time is not longer than the sides, both ways of placing the text after it agree.
        assert frames // 2 <= height // CELL_PX


def test_codec_keeps_frames_recognisable() -> None:
    frames = draw("video", "train", 1)[0].media[0].pixels

    again = decode_mp4(encode_mp4(frames))

    assert again.shape == frames.shape
    assert np.abs(again.astype(np.int16) - frames).mean() < 8


def test_bytes_that_are_no_video_are_refused() -> None:
    with pytest.raises(MediaError, match="no frame"):
        decode_mp4(b"not a video")


def test_an_unknown_shape_is_refused() -> None:
    from random import Random

    with pytest.raises(ValueError, match="hexagon"):
        draw_shape(Random(0), "hexagon", (255, 0, 0))  # noqa: S311


def test_heldout_digits_are_shown_once_before_any_is_shown_again() -> None:
    # The ink and background differ each time, so undo them: the scan is what correlates.
    def scan(sample: Sample) -> bytes:
        grey = sample.media[0].pixels[..., 0].astype(float)
        low, high = grey.min(), grey.max()
        middle = (grey - low) / (high - low) > 0.5
        y, x = (side // 2 for side in middle.shape)
        return bytes(middle[y - 24 : y + 24, x - 24 : x + 24].tobytes())

    samples = draw("digit", "heldout", 100)

    assert len({scan(sample) for sample in samples}) >= 99
