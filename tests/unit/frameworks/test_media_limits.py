import pytest

from vlmserve.checkpoint.provenance import TrainingInfo, VisionLimits
from vlmserve.checkpoint.visual_tokens.qwen import smart_resize
from vlmserve.frameworks.frame_sampling import (
    LLAMA_FACTORY_RULE,
    QWEN_RULE,
    FrameRule,
    UniformRule,
)
from vlmserve.frameworks.media_limits import find_training_limits


def training(framework: str, limits: VisionLimits | None = None) -> TrainingInfo:
    return TrainingInfo(
        framework=framework,
        version=None,
        model=None,
        template=None,
        system=None,
        max_length=None,
        truncation_strategy=None,
        limits=limits or VisionLimits(),
        log_history=(),
        files=("trainer_state.json", "args.json"),
    )


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((640, 480), 391), ((1024, 768), 768), ((1920, 1080), 777), ((3000, 2000), 748)],
)
def test_llama_factory_by_default(size: tuple[int, int], tokens: int) -> None:
    limits = find_training_limits(training("llama-factory"), None)
    assert limits is not None
    width, height = smart_resize(
        *limits.shrink_image(*size), factor=28, min_pixels=3136, max_pixels=12845056
    )
    assert width * height // 28**2 == tokens


def test_small_images_are_enlarged_by_llama_factory_alone() -> None:
    limits = find_training_limits(training("llama-factory"), None)
    assert limits is not None
    assert limits.shrink_image(16, 16) == (32, 32)
    swift = find_training_limits(training("ms-swift", VisionLimits(max_pixels=50176)), None)
    assert swift is not None
    assert swift.shrink_image(16, 16) == (16, 16)
    assert swift.shrink_image(1920, 1080) == (298, 168)


def test_limits_of_the_environment_act_in_the_processor() -> None:
    info = training("ms-swift", VisionLimits(max_pixels=50176))
    limits = find_training_limits(info, VisionLimits(max_pixels=1003520))
    assert limits is not None
    assert limits.shrink_image(1920, 1080) == (1920, 1080)
    assert limits.known.max_pixels == 1003520
    assert limits.sources["max_pixels"] == ("--train-env", "MAX_PIXELS")


def test_sources_name_the_frameworks_own_settings() -> None:
    info = training("llama-factory", VisionLimits(max_pixels=262144, fps_max_frames=16))
    limits = find_training_limits(info, None)
    assert limits is not None
    assert limits.sources == {
        "max_pixels": ("args.json", "image_max_pixels"),
        "fps_max_frames": ("args.json", "video_maxlen"),
    }
    assert limits.probable.max_pixels == 262144
    assert limits.probable.video_max_pixels == 65536


def test_frames_are_shrunk_by_llama_factory_alone() -> None:
    limits = find_training_limits(training("llama-factory"), None)
    assert limits is not None
    assert limits.shrink_frame(1920, 1080) == (341, 192)
    swift = find_training_limits(training("ms-swift"), None)
    assert swift is not None
    assert swift.shrink_frame(1920, 1080) == (1920, 1080)


def test_nothing_is_known_of_an_unknown_run() -> None:
    assert find_training_limits(None, None) is None
    told = find_training_limits(None, VisionLimits(fps=1.0))
    assert told is not None
    assert (told.framework, told.known.fps) == (None, 1.0)
    plain = find_training_limits(training("transformers"), None)
    assert plain is not None
    assert plain.probable == VisionLimits()
    assert plain.shrink_image(4000, 3000) == (4000, 3000)


@pytest.mark.parametrize(
    ("rule", "duration_s", "n_frames", "expected"),
    [
        (QWEN_RULE, 10, 300, 20),
        (QWEN_RULE, 1, 30, 4),
        (QWEN_RULE, 600, 18000, 768),
        (QWEN_RULE, 10.6, 318, 20),
        (QWEN_RULE, 0.1, 3, 2),
        (LLAMA_FACTORY_RULE, 10.6, 318, 21),
        (LLAMA_FACTORY_RULE, 300, 9000, 128),
        (LLAMA_FACTORY_RULE, 0.3, 9, 1),
        (UniformRule(32), 60, 1800, 32),
        (UniformRule(32), 1, 10, 10),
        (UniformRule(32, 2.0), 10, 300, 20),
        (UniformRule(-1), 1, 30, 30),
    ],
)
def test_frames(
    rule: FrameRule | UniformRule, duration_s: float, n_frames: int, expected: int
) -> None:
    assert rule.frames(duration_s, n_frames) == expected


def test_rule_with_other_limits() -> None:
    rule = QWEN_RULE.limited(VisionLimits(fps=1.0, fps_min_frames=8, fps_max_frames=16))
    assert [rule.frames(seconds, 3000) for seconds in (2, 10, 100)] == [8, 10, 16]
