"""Token formulas that no processor here can answer for: golden values and second opinions."""

import json
import random
from pathlib import Path
from typing import Any, Literal

import pytest

from vlmserve.checkpoint.families import FAMILIES
from vlmserve.checkpoint.processor_settings import read_processor_settings
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.formula import load_visual_tokens
from vlmserve.checkpoint.visual_tokens.llava_original import create_llava_original_tokens
from vlmserve.checkpoint.visual_tokens.mplug_owl import MPlugOwl2Tokens, MPlugOwl3Tokens
from vlmserve.checkpoint.visual_tokens.xcomposer import (
    XCOMPOSER2,
    XCOMPOSER2_4KHD,
    XCOMPOSER2_4KHD_TRAINING,
    XCOMPOSER2_5,
    XCOMPOSER2_5_TRAINING,
    XCOMPOSER2_VL,
    XComposerHDTokens,
)
from vlmserve.errors import CheckpointError, MediaError
from vlmserve.platform import cure_torch_extensions

_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_LLAVA_16 = {
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "image_aspect_ratio": "anyres",
    "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": _PINPOINTS,
}
_ONEVISION = {
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "image_aspect_ratio": "anyres_max_9",
    "mm_patch_merge_type": "spatial_unpad",
    "image_grid_pinpoints": "(1x1),(1x2),(6x6)",
    "architectures": ["LlavaQwenForCausalLM"],
}
_QWEN_SHIPPED = {"min_pixels": 3136, "max_pixels": 12_845_056}


def _formula(name: str, config: dict[str, Any], directory: Path) -> VisualTokens | None:
    family = next(family for family in FAMILIES if family.name == name)
    return family.visual_tokens(config, read_processor_settings(directory, name))


# From transformers' and the models' own processors, run once by hand.
@pytest.mark.parametrize(
    ("formula", "size", "n_images", "tokens"),
    [
        (XCOMPOSER2, (640, 480), 1, 256),
        (XCOMPOSER2_VL, (3000, 20), 3, 1225),
        (XCOMPOSER2_4KHD, (1024, 768), 1, 3085),
        (XCOMPOSER2_4KHD_TRAINING, (1008, 1680), 1, 2377),
        (XCOMPOSER2_4KHD_TRAINING, (1024, 768), 1, 1921),
        (XComposerHDTokens(336, 55), (1024, 768), 1, 7141),
        (XCOMPOSER2_5, (1120, 560), 1, 1241),
        (XCOMPOSER2_5, (640, 480), 1, 2061),
        (XCOMPOSER2_5_TRAINING, (640, 480), 1, 2061),
        (XCOMPOSER2_5, (1024, 768), 1, 2061),
        (XCOMPOSER2_5_TRAINING, (1024, 768), 1, 4081),
        (XCOMPOSER2_5, (1920, 1080), 1, 5281),
        (XCOMPOSER2_5, (1920, 1080), 2, 2861),
        (XCOMPOSER2_5_TRAINING, (1920, 1080), 2, 6481),
        (XCOMPOSER2_5, (3000, 2000), 1, 10101),
        (XCOMPOSER2_5, (3000, 2000), 2, 2861),
        (XCOMPOSER2_5_TRAINING, (3000, 2000), 1, 5281),
        (MPlugOwl2Tokens(), (17, 2000), 4, 65),
    ],
)
def test_golden_values(
    formula: VisualTokens, size: tuple[int, int], n_images: int, tokens: int
) -> None:
    assert formula.image(*size, n_images=n_images).tokens == tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((640, 480), 391), ((1024, 768), 999), ((1920, 1080), 2691), ((3000, 2000), 7597)],
)
def test_golden_values_of_qwen2_vl(size: tuple[int, int], tokens: int, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(_QWEN_SHIPPED))
    formula = _formula("qwen2_vl", {}, tmp_path)

    assert formula is not None
    assert formula.image(*size).tokens == tokens


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((336, 336), 1176),
        ((640, 480), 2340),
        ((768, 1024), 2352),
        ((1920, 1080), 1948),
        ((1000, 300), 2182),
    ],
)
@pytest.mark.parametrize("name", ["llava_next", "llava_original"])
def test_golden_values_of_llava_next(
    name: str, size: tuple[int, int], tokens: int, tmp_path: Path
) -> None:
    config = {"vision_config": None} if name == "llava_next" else _LLAVA_16
    formula = _formula(name, config, tmp_path)

    assert formula is not None
    assert formula.image(*size).tokens == tokens


def test_original_llava_and_transformers_agree(tmp_path: Path) -> None:
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14}
    converted = _formula("llava_onevision", {"vision_config": vision}, tmp_path)
    original = _formula("llava_original", _ONEVISION, tmp_path)
    assert converted is not None
    assert original is not None
    rng = random.Random(2)  # noqa: S311

    for _ in range(3000):
        size = rng.randint(30, 3000), rng.randint(30, 3000)
        assert original.image(*size).tokens == converted.image(*size).tokens, size

    assert original.image(640, 480, n_images=2).tokens == 729 + 1
    video = original.video(640, 480, 8)
    assert video == converted.video(640, 480, 8)
    assert video is not None
    assert video.tokens == 8 * 14 * 14 + 1


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({"image_aspect_ratio": "pad"}, 576),
        ({"image_aspect_ratio": "pad", "mm_vision_select_feature": "cls_patch"}, 577),
        ({"image_aspect_ratio": "pad", "mm_use_im_start_end": True}, 578),
        ({"mm_patch_merge_type": "flat"}, 576 * 5),
        ({"mm_patch_merge_type": "spatial"}, 576 * 5),
        ({"image_grid_pinpoints": "[(336, 672), (672, 672)]"}, 2340),
    ],
)
def test_original_llava_follows_its_configuration(
    changes: dict[str, Any], tokens: int, tmp_path: Path
) -> None:
    formula = _formula("llava_original", {**_LLAVA_16, **changes}, tmp_path)

    assert formula is not None
    assert formula.image(640, 480).tokens == tokens
    assert formula.video(640, 480, 4) is None


@pytest.mark.parametrize(
    "config",
    [
        {**_LLAVA_16, "mm_vision_tower": "/models/tower"},
        {**_LLAVA_16, "mm_resampler_type": "spatial_pool"},
        {**_LLAVA_16, "mm_patch_merge_type": "spatial_unpad_maxpool2x2"},
    ],
)
def test_original_llava_says_when_it_does_not_know(config: dict[str, Any]) -> None:
    assert create_llava_original_tokens(config, has_video=False) is None


@pytest.mark.parametrize(
    ("position", "mode", "tokens"),
    [
        ("grid", "bilinear", 4 * 14 * 15),
        ("frame", "bilinear", 4 * (14 * 14 + 1)),
        ("one_token", "average", 4 * 13 * 13 + 1),
        ("no_token", "max", 4 * 13 * 13),
    ],
)
def test_original_llava_pools_videos(position: str, mode: str, tokens: int) -> None:
    config = {**_ONEVISION, "mm_newline_position": position, "mm_spatial_pool_mode": mode}
    formula = create_llava_original_tokens(config, has_video=True)

    assert formula is not None
    size = formula.video(320, 240, 4)
    assert size is not None
    assert size.tokens == tokens


def test_original_llava_names_a_malformed_setting() -> None:
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        create_llava_original_tokens({**_LLAVA_16, "image_grid_pinpoints": "x"}, has_video=False)


def test_xcomposer_transposes_upright_images() -> None:
    wide, tall = XCOMPOSER2_5.image(1920, 560), XCOMPOSER2_5.image(560, 1920)

    assert (wide.width_px, wide.height_px) == (tall.height_px, tall.width_px) == (2240, 1120)
    assert wide.tokens == (2 * 4 + 1) * 400 + 1 + (2 + 1) * 20
    assert tall.tokens == (2 * 4 + 1) * 400 + 1 + (4 + 1) * 20


def test_xcomposer_pastes_videos_into_one_picture() -> None:
    # Frames of 640x480 become 1120x840 under captions: 4 * 890 pixels, 3.18 tiles high.
    size = XCOMPOSER2_5.video(640, 480, 4)

    assert size is not None
    assert size.tokens == (4 + 1) * 400 + 1 + (4 + 1) * 20
    assert XCOMPOSER2_5.sample_frames(90.0, 29.97, 2697) == 32
    assert XCOMPOSER2_5.sample_frames(4.0, 25.0, 100) == 4
    assert XCOMPOSER2_4KHD.video(640, 480, 4) is None


@pytest.mark.engine
@pytest.mark.parametrize(
    "config",
    [{}, {"max_dynamic_patch": 6, "use_thumbnail": False}, {"dynamic_image_size": False}],
    ids=str,
)
def test_original_internvl_counts_as_vllm_does(config: dict[str, Any], tmp_path: Path) -> None:
    cure_torch_extensions()
    from vllm.transformers_utils.processors import internvl

    settings = {
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        **config,
    }
    formula = _formula("internvl_chat", settings, tmp_path)
    assert formula is not None
    least, most = internvl.resolve_internvl_min_max_num(**{**settings, "use_thumbnail": False})
    ratios = internvl.get_internvl_target_ratios(least, most)
    rng = random.Random(4)  # noqa: S311

    for _ in range(2000):
        width, height = round(2 ** rng.uniform(0, 12)), round(2 ** rng.uniform(0, 12))
        tiles, target_width, target_height = internvl.calculate_internvl_targets(
            orig_width=width,
            orig_height=height,
            target_ratios=ratios,
            image_size=448,
            use_thumbnail=settings["use_thumbnail"],
        )
        size = formula.image(width, height)
        assert size.tokens == tiles * 256 + 2, (width, height)
        assert (size.width_px, size.height_px) == (target_width, target_height)


def test_mplug_owl3_cuts_as_its_own_code_does() -> None:
    torch = pytest.importorskip("torch")
    grids = [(2, 2), (1, 3), (1, 4), (3, 1), (4, 1), (2, 3), (3, 2)]
    anchors = torch.tensor([[0, 0, columns * 384, rows * 384] for rows, columns in grids])

    def overlap(others: Any) -> Any:
        low = torch.minimum(anchors[:, 2], others[:, 2]) * torch.minimum(
            anchors[:, 3], others[:, 3]
        )
        areas = anchors[:, 2] * anchors[:, 3] + others[:, 2] * others[:, 3]
        return low / (areas - low + 1e-5)

    def best(width: int, height: int) -> tuple[int, int]:
        image = torch.tensor([[0, 0, width, height]]).expand(len(grids), 4)
        same_width = anchors.clone()
        same_width[:, 3] = height / width * anchors[:, 2]
        return grids[int(torch.argmax(overlap(same_width) * 100 + overlap(image)))]

    formula = MPlugOwl3Tokens()
    rng = random.Random(8)  # noqa: S311
    for _ in range(300):
        width, height = round(2 ** rng.uniform(0, 12)), round(2 ** rng.uniform(0, 12))
        rows, columns = best(width, height)
        size = formula.image(width, height)
        assert (size.height_px, size.width_px) == (rows * 384, columns * 384), (width, height)
        assert size.tokens == rows * columns + 1


def test_mplug_owl3_keeps_visual_features_out_of_the_prompt() -> None:
    formula = MPlugOwl3Tokens()

    assert formula.visual_features == 729
    assert formula.image(1152, 768).inserted_texts == (
        *("<|start_cut|>2*3\n", " ", " ", "\n", " ", " ", "\n", "<|end_cut|>"),
    )
    assert MPlugOwl3Tokens(is_cut=False).image(1152, 768).tokens == 1
    video = formula.video(1152, 768, 16)
    assert video is not None
    assert video.tokens == 16


@pytest.mark.parametrize("formula", [XCOMPOSER2_5, XCOMPOSER2, MPlugOwl3Tokens()])
def test_no_image_is_smaller_than_a_pixel(formula: VisualTokens) -> None:
    with pytest.raises(MediaError, match="0x7 pixels"):
        formula.image(0, 7)


def test_a_refusal_says_why(tmp_path: Path) -> None:
    qwen = _formula("qwen2_vl", {}, tmp_path)
    assert qwen is not None

    with pytest.raises(MediaError, match=r"1x201 pixels: .* 200 times"):
        qwen.image(1, 201)
    with pytest.raises(MediaError, match="so narrow"):
        XCOMPOSER2_5.image(50_000, 1)


@pytest.mark.parametrize(
    ("rows", "tokens"),
    [
        (1601, (2061, 4081, 2061)),
        (577, (3085, 1921, 7141)),
        (1226, (1225, 1225, 1225)),
        (257, (256, 256, 256)),
    ],
)
def test_xcomposer_is_known_by_its_tensors(
    rows: int, tokens: tuple[int, int, int], tmp_path: Path
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    config = {"auto_map": {"AutoConfig": "configuration_x.InternLMXComposer2Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    table = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"
    save_file({table: np.zeros((rows, 1), np.float32)}, tmp_path / "model.safetensors")

    checkpoint = load_checkpoint(tmp_path)
    programs: tuple[Literal["inference", "own training", "framework"], ...]
    programs = ("inference", "own training", "framework")
    formulas = [load_visual_tokens(checkpoint, program=program) for program in programs]

    counts = [formula.image(1024, 768).tokens for formula in formulas if formula is not None]
    assert tuple(counts) == tokens


def test_original_internvl_shares_tiles_in_its_own_training(tmp_path: Path) -> None:
    config = {"architectures": ["InternVLChatModel"], "model_type": "internvl_chat"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = load_checkpoint(tmp_path)
    served = load_visual_tokens(checkpoint)
    trained = load_visual_tokens(checkpoint, program="own training")

    assert served is not None
    assert trained is not None
    assert served.image(1344, 896, n_images=3).tokens == (6 + 1) * 256 + 2
    # 12 tiles for 3 images leave 4 for each; 1:1 is as near to 3:2 as 2:1, and 2 x 2 the finest.
    assert trained.image(1344, 896, n_images=3).tokens == (4 + 1) * 256 + 2
    assert trained.image(1344, 896).tokens == (6 + 1) * 256 + 2
