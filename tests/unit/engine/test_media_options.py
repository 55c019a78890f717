"""Options that would change nothing are found, with the field to name."""

from types import SimpleNamespace
from typing import Any

import pytest

from vlmserve.engine.media_options import find_ignored_option, ignored_video_options

BY_TIME = ignored_video_options(samples_by_time=True)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"media_io_kwargs": {"video": {"num_frames": 8}}}, "media_io_kwargs.video.num_frames"),
        ({"media_io_kwargs": {"video": {"max_duration": 8}}}, "media_io_kwargs.video.max_duration"),
        ({"mm_processor_kwargs": {"num_frames": 8}}, "mm_processor_kwargs.num_frames"),
        (
            {"mm_processor_kwargs": {"videos_kwargs": {"num_frames": 8}}},
            "mm_processor_kwargs.videos_kwargs.num_frames",
        ),
    ],
)
def test_number_of_frames_where_frames_are_sampled_by_time(
    options: dict[str, Any], field: str
) -> None:
    request = SimpleNamespace(**options)

    found = find_ignored_option(request, [], BY_TIME)

    assert found is not None
    assert found[0] == field
    assert "max_frames" in found[1]
    assert find_ignored_option(request, [], ignored_video_options(samples_by_time=False)) is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"media_io_kwargs": None, "mm_processor_kwargs": None},
        {"media_io_kwargs": {"video": {"fps": 1, "max_frames": 8}}},
        {"mm_processor_kwargs": {"max_pixels": 50176}},
        {"media_io_kwargs": {"image": {"num_frames": 1}}},
    ],
)
def test_options_that_do_something(options: dict[str, Any]) -> None:
    assert find_ignored_option(SimpleNamespace(**options), [], BY_TIME) is None


@pytest.mark.parametrize(("detail", "is_found"), [("low", True), ("auto", False), ("high", False)])
def test_detail_of_an_image(detail: str, is_found: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:", "detail": detail}}
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": ["x", part]}]

    found = find_ignored_option(SimpleNamespace(), messages, frozenset())

    assert (found is not None) is is_found
    if found is not None:
        assert found[0] == "messages[1].content[1].image_url.detail"
