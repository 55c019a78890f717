"""Token formulas against the real processors of transformers, and golden values for the rest.

``VLMSERVE_FORMULA_SIZES`` sets how many random sizes each family is held against (200 by default).
The processor's own arithmetic answers for all of them; those that are not too large are really
processed as well, which is what counts.
"""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from vlmserve.checkpoint.families import FAMILIES
from vlmserve.checkpoint.processor_settings import read_processor_settings
from vlmserve.checkpoint.visual_tokens.base import VisualSize, VisualTokens
from vlmserve.errors import MediaError
from vlmserve.platform import cure_torch_extensions

_N_SIZES = int(os.environ.get("VLMSERVE_FORMULA_SIZES", "200"))
_MOST_PROCESSED_PIXELS = 1_000_000
_DEMO = Path(__file__).parents[3] / "src" / "vlmserve" / "demo" / "weights" / "base"

# Single pixels, Qwen's aspect ratio of 200 from both sides, halves of 28 and 32 that round to even,
# LLaVA's pinpoints with a pixel more or less, and shapes halfway between two grids of tiles.
_EDGES = (
    *((1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (1, 201), (201, 1), (3, 600), (3, 601)),
    *((14, 14), (42, 42), (70, 14), (14, 70), (16, 48), (98, 42), (27, 29), (28, 28), (48, 80)),
    *((336, 336), (337, 336), (335, 336), (672, 336), (673, 336), (336, 1008), (1008, 337)),
    *((448, 448), (896, 448), (1344, 448), (672, 448), (1120, 448), (560, 448), (448, 560)),
    *((384, 384), (768, 384), (385, 384), (2304, 384), (1153, 944), (4000, 20), (4000, 19)),
    *((5000, 1), (1, 5000), (640, 480), (1024, 768), (1920, 1080), (3000, 2000), (1000, 300)),
)


def _sizes(n: int) -> list[tuple[int, int]]:
    """The edges, and random widths and heights whose logarithms are spread evenly."""
    rng = random.Random(5)  # noqa: S311
    drawn = [(round(2 ** rng.uniform(0, 12.2)), round(2 ** rng.uniform(0, 12.2))) for _ in range(n)]
    return [*_EDGES, *drawn]


@dataclass(frozen=True)
class Case:
    """A processor of transformers, and the family that counts for it."""

    family: str
    create: Callable[[], Any]
    config: Mapping[str, Any]
    image_token: str
    label: str = ""
    most_processed_ratio: float = 6000
    """LLaVA-1.5's processor enlarges the shorter edge, so that narrow images become huge."""

    @override
    def __str__(self) -> str:
        return self.label or self.family


def _tokenizer(special: Mapping[str, str] | None = None) -> Any:
    cure_torch_extensions()
    from transformers import PreTrainedTokenizerFast

    extra = dict(special or {})
    return PreTrainedTokenizerFast.from_pretrained(_DEMO, extra_special_tokens=extra)


def _qwen2_vl(name: str) -> Any:
    cure_torch_extensions()
    import transformers

    geometry = {"size": {"shortest_edge": 3136, "longest_edge": 200_704}}
    return getattr(transformers, name)(
        image_processor=transformers.Qwen2VLImageProcessor(**geometry),
        tokenizer=_tokenizer(),
        video_processor=transformers.Qwen2VLVideoProcessor(
            size={"shortest_edge": 4 * 784, "longest_edge": 64 * 784},
            do_sample_frames=False,
            cap_pixels_per_frame=False,
        ),
    )


def _qwen3_vl() -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(
            patch_size=16, size={"shortest_edge": 4096, "longest_edge": 262_144}
        ),
        tokenizer=_tokenizer(),
        video_processor=transformers.Qwen3VLVideoProcessor(
            size={"shortest_edge": 8192, "longest_edge": 300_000},
            do_sample_frames=False,
            cap_pixels_per_frame=False,
        ),
    )


def _llava(strategy: str = "default") -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=_tokenizer({"image_token": "<image>"}),
        patch_size=14,
        vision_feature_select_strategy=strategy,
        num_additional_image_tokens=1,
    )


def _llava_next() -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=_tokenizer({"image_token": "<image>"}),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_onevision() -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(),
        tokenizer=_tokenizer({"image_token": "<image>", "video_token": "<video>"}),
        video_processor=transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )


def _internvl(least: int = 1, most: int = 12) -> Any:
    cure_torch_extensions()
    import transformers

    return transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(
            size={"height": 448, "width": 448}, min_patches=least, max_patches=most
        ),
        tokenizer=_tokenizer(
            {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            }
        ),
        video_processor=transformers.InternVLVideoProcessor(size={"height": 448, "width": 448}),
        image_seq_length=256,
    )


_CLIP_336 = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
_SIGLIP_384 = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
_PAD = "<|image_pad|>"
_CASES = [
    Case("qwen2_vl", partial(_qwen2_vl, "Qwen2VLProcessor"), {}, _PAD),
    Case("qwen2_5_vl", partial(_qwen2_vl, "Qwen2_5_VLProcessor"), {}, _PAD),
    Case("qwen3_vl", _qwen3_vl, {}, _PAD),
    Case("llava", _llava, {"vision_config": _CLIP_336}, "<image>", most_processed_ratio=40),
    Case(
        "llava",
        partial(_llava, "full"),
        {"vision_config": _CLIP_336, "vision_feature_select_strategy": "full"},
        "<image>",
        label="llava full",
        most_processed_ratio=40,
    ),
    Case("llava_next", _llava_next, {"vision_config": _CLIP_336}, "<image>"),
    Case("llava_onevision", _llava_onevision, {"vision_config": _SIGLIP_384}, "<image>"),
    Case("internvl", _internvl, {}, "<IMG_CONTEXT>"),
    Case("internvl", partial(_internvl, 2, 7), {}, "<IMG_CONTEXT>", label="internvl 2 to 7 tiles"),
]


@dataclass(frozen=True)
class Pair:
    """A real processor, and the formula made from the files that it saves."""

    case: Case
    processor: Any
    formula: VisualTokens

    def processed(self, width: int, height: int) -> int:
        """Tokens in the place of one placeholder after really processing an image."""
        image = np.zeros((height, width, 3), dtype=np.uint8)
        inputs = self.processor(
            images=[image], text=[self.case.image_token], input_data_format="channels_last"
        )
        return len(inputs["input_ids"][0])

    def counted(self, width: int, height: int) -> int:
        """Tokens by the processor's own arithmetic."""
        data = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        tokens: int = data["num_image_tokens"][0]
        return tokens


@pytest.fixture(scope="module", params=_CASES, ids=str)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _pair(request.param, tmp_path_factory.mktemp(request.param.family))


def _pair(case: Case, directory: Path) -> Pair:
    processor = case.create()
    processor.save_pretrained(directory)
    return Pair(case, processor, _formula(case.family, case.config, directory))


def _formula(name: str, config: Mapping[str, Any], directory: Path) -> VisualTokens:
    family = next(family for family in FAMILIES if family.name == name)
    formula = family.visual_tokens(config, read_processor_settings(directory, name))
    assert formula is not None
    return formula


def _ours(count: Callable[[], VisualSize | None]) -> int | None:
    try:
        size = count()
    except MediaError:
        return None
    assert size is not None
    return size.tokens


def _theirs(count: Callable[[], int]) -> int | None:
    """Refusals are whatever falls out: ``None`` as best resolution, an empty resized image, ..."""
    try:
        return count()
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError):
        return None


def _differences(
    sizes: Sequence[tuple[int, ...]],
    ours: Callable[..., VisualSize | None],
    theirs: Callable[..., int],
) -> dict[tuple[int, ...], tuple[int | None, int | None]]:
    wrong, n_accepted = {}, 0
    for size in sizes:
        answers = _ours(partial(ours, *size)), _theirs(partial(theirs, *size))
        n_accepted += answers[1] is not None
        if answers[0] != answers[1]:
            wrong[size] = answers
    assert n_accepted > len(sizes) / 2
    return wrong


def test_images_take_the_tokens_that_the_processor_counts(pair: Pair) -> None:
    assert _differences(_sizes(_N_SIZES), pair.formula.image, pair.counted) == {}


def test_images_take_the_tokens_that_processing_gives(pair: Pair) -> None:
    sizes = [
        size
        for size in _sizes(_N_SIZES)
        if size[0] * size[1] <= _MOST_PROCESSED_PIXELS
        and max(size) / min(size) <= pair.case.most_processed_ratio
    ]

    assert len(sizes) > _N_SIZES / 3
    assert _differences(sizes, pair.formula.image, pair.processed) == {}


def test_llava_onevision_does_not_tile_images_in_a_list_of_their_own() -> None:
    """What ``LlavaOnevisionTokens`` says of transformers, and does not follow."""
    processor = _llava_onevision()
    images = [np.zeros((100, 200, 3), dtype=np.uint8)] * 2

    inputs = processor(images=[images], text=["<image><image>"], input_data_format="channels_last")

    assert len(inputs["input_ids"][0]) == 2 * 730


@dataclass(frozen=True)
class VideoCase:
    """A video processor with its family."""

    family: str
    create: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @override
    def __str__(self) -> str:
        return " ".join([self.family, *self.settings])


_VIDEO_TOKENS = {"llava_onevision": "<video>", "internvl": "<video>"}
_VIDEO_CASES = [
    VideoCase("qwen2_vl", partial(_qwen2_vl, "Qwen2VLProcessor")),
    VideoCase(
        "qwen2_5_vl",
        partial(_qwen2_vl, "Qwen2_5_VLProcessor"),
        {"cap_pixels_per_frame": True, "max_video_tokens": 200},
    ),
    VideoCase("qwen3_vl", _qwen3_vl),
    VideoCase("qwen3_vl", _qwen3_vl, {"cap_pixels_per_frame": True, "max_video_tokens": 16}),
    VideoCase("llava_onevision", _llava_onevision),
    VideoCase("internvl", _internvl),
]
_FPS = 7.0


@pytest.mark.parametrize("case", _VIDEO_CASES, ids=str)
def test_videos_take_the_tokens_that_processing_gives(case: VideoCase, tmp_path: Path) -> None:
    from transformers.video_utils import VideoMetadata

    processor = case.create()
    for key, value in case.settings.items():
        setattr(processor.video_processor, key, value)
    processor.save_pretrained(tmp_path)
    formula = _formula(case.family, {"vision_config": _SIGLIP_384}, tmp_path)
    token = _VIDEO_TOKENS.get(case.family, "<|video_pad|>")

    def theirs(width: int, height: int, n_frames: int) -> int:
        video = np.zeros((n_frames, 3, height, width), dtype=np.uint8)
        metadata = VideoMetadata(
            total_num_frames=n_frames, fps=_FPS, frames_indices=list(range(n_frames))
        )
        inputs = processor(videos=[video], text=[token], video_metadata=[[metadata]])
        return len(inputs["input_ids"][0])

    def ours(width: int, height: int, n_frames: int) -> VisualSize:
        times = tuple(index / _FPS for index in range(n_frames))
        size = formula.video(width, height, n_frames, frame_times_s=times)
        assert size is not None
        n_text = sum(len(processor.tokenizer.encode(text)) for text in size.inserted_texts)
        return replace(size, tokens=size.tokens + n_text)

    rng = random.Random(3)  # noqa: S311
    sizes = [
        (round(2 ** rng.uniform(0, 9)), round(2 ** rng.uniform(0, 9)), rng.randint(1, 24))
        for _ in range(max(40, _N_SIZES // 10))
    ]
    wrong = _differences([*sizes, (1, 201, 4), (64, 64, 1), (20, 500, 9)], ours, theirs)

    assert wrong == {}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen2_vl", {"fps": 2, "num_frames": None}),
        ("qwen2_vl", {"fps": None, "num_frames": 7}),
        ("qwen2_5_vl", {"fps": 1.5, "max_frames": 21}),
        ("qwen3_vl", {}),
        ("qwen3_vl", {"fps": 0.5, "max_frames": 9}),
    ],
)
def test_frames_are_sampled_as_the_processor_does(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    cure_torch_extensions()
    import transformers
    from transformers.video_utils import VideoMetadata

    name = "Qwen3VLVideoProcessor" if family == "qwen3_vl" else "Qwen2VLVideoProcessor"
    processor = getattr(transformers, name)(do_sample_frames=True, **settings)
    processor.save_pretrained(tmp_path)
    formula = _formula(family, {}, tmp_path)
    rng = random.Random(9)  # noqa: S311

    def theirs(n_frames: int, fps: float) -> int:
        metadata = VideoMetadata(total_num_frames=n_frames, fps=fps)
        given = {key: settings.get(key) for key in ("fps", "num_frames")}
        return len(processor.sample_frames(metadata, **given))

    for _ in range(_N_SIZES):
        n_frames, fps = round(2 ** rng.uniform(0, 13)), rng.choice([1, 24, 25, 29.97, 30, 60])
        try:
            ours = formula.sample_frames(n_frames / fps, fps, n_frames)
        except MediaError:
            ours = None
        assert ours == _theirs(partial(theirs, n_frames, fps)), (n_frames, fps)
