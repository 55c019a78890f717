"""Options that would change nothing are found, with the field to name."""

from types import SimpleNamespace
from typing import Any

import pytest

from vlmserve.config.engine import EngineConfig
from vlmserve.engine import media_options
from vlmserve.engine.media_options import (
    check_video_settings,
    find_ignored_option,
    ignored_video_options,
)
from vlmserve.errors import ConfigError

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


@pytest.mark.parametrize("kind", ["image_url", "video_url"])
@pytest.mark.parametrize("name", ["max_pixels", "resized_height", "fps"])
def test_options_that_qwens_own_code_reads_of_a_part(kind: str, name: str) -> None:
    url = {"url": "data:"}
    beside = {"type": kind, kind: url, name: 100}
    within = {"type": kind, kind: {**url, name: 100}}
    neither = {"type": kind, kind: url, name: None}

    def find(*parts: Any) -> Any:
        messages = [{"role": "user", "content": list(parts)}]
        return find_ignored_option(SimpleNamespace(), messages, frozenset())

    assert find(neither, beside)[0] == f"messages[0].content[1].{name}"
    assert find(neither, within)[0] == f"messages[0].content[1].{kind}.{name}"
    assert find(neither) is None


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"media_io_kwargs": {"video": {"num_frames": 8}}}, "media_io_kwargs.video.num_frames"),
        ({"media_io_kwargs": {"video": {"num_frames": 32}}}, "media_io_kwargs.video.num_frames"),
        (
            {"media_io_kwargs": {"video": {"num_frames": 64, "max_duration": 8}}},
            "media_io_kwargs.video.max_duration",
        ),
        ({"mm_processor_kwargs": {"num_frames": 64}}, "mm_processor_kwargs.num_frames"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(
    settings: dict[str, Any], field: str
) -> None:
    engine = EngineConfig.model_validate(settings)

    with pytest.raises(ConfigError, match=f"^engine.{field}: would change nothing.*max_frames"):
        check_video_settings(engine, BY_TIME)
    assert check_video_settings(engine, ignored_video_options(samples_by_time=False)) == ()


@pytest.mark.parametrize("number", [33, 768, -1])
def test_longer_lists_of_frames_may_be_allowed(number: int) -> None:
    engine = EngineConfig(media_io_kwargs={"video": {"num_frames": number, "fps": 1}})

    (note,) = check_video_settings(engine, BY_TIME)
    assert f"num_frames={number} limits lists of frames alone" in note
    assert check_video_settings(EngineConfig(), BY_TIME) == ()


def test_vllm_takes_as_many_listed_frames_as_is_written_here() -> None:
    from vllm.multimodal.media.image import ImageMediaIO
    from vllm.multimodal.media.video import VideoMediaIO

    assert VideoMediaIO(ImageMediaIO()).num_frames == media_options._LISTED_FRAMES
