"""Were the positions in training those that vLLM computes?

M-RoPE gives every token three positions, and who computes them changed twice:

- transformers before 4.47 computed them in ``generate`` alone, so a plain Trainer ran Qwen2-VL with
  one-dimensional positions (transformers#33487, Qwen3-VL#488).
- From transformers 5.3 on, the text behind a video starts ``max(height, width)`` behind the video's
  first position (models/qwen2_vl/modeling_qwen2_vl.py ``get_rope_index``); before, and in vllm 0.32
  (models/qwen2_vl.py ``get_mrope_input_positions``), one behind the largest of all three. The two
  differ for videos that have more steps in time than the longer side of a frame has tokens.

Qwen3-VL marks every frame by text, so that the second does not concern it, and Qwen2.5-VL came
after the first.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vlmserve.checkpoint.families.base import subsection
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.checkpoint.visual_tokens.formula import load_visual_tokens
from vlmserve.checkpoint.visual_tokens.qwen import Qwen2VLTokens
from vlmserve.datasets.sample import Dataset, Medium
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Severity, Unknown
from vlmserve.errors import MediaError

Version = tuple[int, int]

# Qwen2-VL's class came with 4.45: an older number in config.json is that of the published file.
_FIRST_WITH_QWEN2_VL: Version = (4, 45)
_FIRST_WITH_3D_TRAINING: Version = (4, 47)
_FIRST_WITH_SHORT_VIDEOS: Version = (5, 3)

_VIDEO_FAMILIES = ("qwen2_vl", "qwen2_5_vl")

# transformers 5.19 models/qwen2_5_vl/processing_qwen2_5_vl.py takes 2 frames a second where
# nothing is said, and the class of the configuration counts 4 positions a second.
_USUAL_FPS = 2.0
_DEFAULT_TOKENS_PER_SECOND = 4
_MOST_VIDEOS = 500


def check_mrope(exam: Examination) -> Iterator[Outcome]:
    """``pos.mrope``: other position ids in training than in serving."""
    checkpoint = exam.checkpoint
    version = _saved_by(checkpoint)
    if checkpoint.adapter is not None or version is None:
        return  # an adapter does not say what it was trained with
    if checkpoint.model_type == "qwen2_vl":
        yield from _one_dimensional(exam, version)
    if checkpoint.model_type in _VIDEO_FAMILIES and version >= _FIRST_WITH_SHORT_VIDEOS:
        yield from _after_videos(exam)


def _one_dimensional(exam: Examination, version: Version) -> Iterator[Outcome]:
    checkpoint = exam.checkpoint
    if not _FIRST_WITH_QWEN2_VL <= version < _FIRST_WITH_3D_TRAINING:
        return
    if exam.data is not None and not any(sample.media for sample in exam.data.samples):
        return
    judged = _by_framework(checkpoint)
    if judged is None:
        return
    severity, framework, note = judged
    yield Finding(
        id="pos.mrope",
        title="probably trained with one-dimensional positions, served with M-RoPE"
        if severity == "warn"
        else "maybe trained with one-dimensional positions, served with M-RoPE",
        evidence=[_version_evidence(checkpoint), framework],
        consequence="Behind an image the text stands at other positions than in training: after "
        "one of 1008x784 pixels at 51 and not at 1023. What was learned of places in images does "
        "not carry over.",
        remedy=f"train again with transformers 4.48 or later; {note}",
        source="transformers#33487, Qwen3-VL#488",
        severity=severity,
    )


def _by_framework(checkpoint: Checkpoint) -> tuple[Severity, Evidence, str] | None:
    """How likely it is that nobody passed ``position_ids``; ``None`` where somebody did."""
    training = checkpoint.training
    if training is None:
        # Saving writes the version anew: another one than the base's tells that it was trained.
        base = checkpoint.base
        if base is None or _saved_by(base) == _saved_by(checkpoint):
            return None
        file = str(base.path / "config.json")
        value = str(base.config.get("transformers_version"))
        evidence = Evidence(file=file, key="transformers_version", value=value)
        return "info", evidence, "ms-swift passes position_ids itself, and needs nothing"
    files = training.files
    evidence = Evidence(
        file=files[0] if files else "training_args.bin", key="", value=f"from {training.framework}"
    )
    match training.framework:
        case "transformers":
            return "warn", evidence, "if the training code passed position_ids itself, ignore this"
        case "llama-factory":
            note = "LLaMA-Factory passes position_ids itself from 0.9.2 (2024-12-12) on"
            return "info", evidence, note
    return None


def _after_videos(exam: Examination) -> Iterator[Outcome]:
    """The text behind long videos, by the videos of the data set."""
    checkpoint, data = exam.checkpoint, exam.data
    if data is None or exam.fast:
        return
    videos = _videos(data)
    if not videos:
        return
    formula = load_visual_tokens(checkpoint)
    if not isinstance(formula, Qwen2VLTokens):
        return
    per_second = _positions_per_second(checkpoint)
    measured = 0
    longer: list[tuple[str, Medium, int, int]] = []
    for where, video in videos:
        lengths = _lengths(video, formula, per_second)
        if lengths is None:
            continue
        measured += 1
        time, side = lengths
        if time > side:
            longer.append((where, video, time, side))
    if not measured:
        reason = (
            f"the {len(videos)} videos of {data.path} are files whose size and length are not "
            "read; positions behind videos can be checked for videos given as frames"
        )
        yield Unknown(id="pos.mrope", reason=reason)
    elif longer:
        yield _after_videos_finding(checkpoint, longer, measured)


def _after_videos_finding(
    checkpoint: Checkpoint, longer: list[tuple[str, Medium, int, int]], measured: int
) -> Finding:
    where, video, time, side = max(longer, key=lambda entry: entry[2] - entry[3])
    return Finding(
        id="pos.mrope",
        title=f"text behind {len(longer)} of {measured} videos stood elsewhere in training than "
        "it does in serving",
        evidence=[
            _version_evidence(checkpoint),
            Evidence(
                file=where,
                key=video.reference,
                value=f"{len(video.frames)} frames: the text behind starts {side} positions after "
                f"the video's first in training, {time} in vLLM",
            ),
        ],
        consequence="The model reads questions behind long videos at positions that it was not "
        "trained with; accuracy falls as videos grow longer.",
        remedy="train with transformers 5.2 or earlier, or with fewer frames than the longer side "
        "of a frame has tokens; if the training ran with another version than the one that saved "
        "config.json, ignore this",
        source="transformers 5.19 models/qwen2_vl/modeling_qwen2_vl.py get_rope_index; vllm 0.32 "
        "models/qwen2_vl.py get_mrope_input_positions; transformers#45381",
    )


def _videos(data: Dataset) -> list[tuple[str, Medium]]:
    found = [
        (sample.where, medium)
        for sample in data.samples
        for medium in sample.media
        if medium.kind == "video"
    ]
    step = -(-len(found) // _MOST_VIDEOS) or 1
    # Those that can be measured come first.
    return sorted(found[::step], key=lambda entry: not entry[1].frames)


def _lengths(
    video: Medium, formula: VisualTokens, per_second: float | None
) -> tuple[int, int] | None:
    """How many positions a video takes in time, and along the longer side of its frames.

    Returns:
        Both, or ``None`` for a video whose frames are not at hand.
    """
    from vlmserve.media.headers import read_image_header

    if not video.frames or not isinstance(formula, Qwen2VLTokens):
        return None
    source = video.frames[0].source
    if source is None:
        return None
    try:
        header = read_image_header(source)
        size = formula.video(header.width_px, header.height_px, len(video.frames))
    except MediaError:
        return None
    patches = formula.video_patches
    steps = size.n_frames // patches.temporal
    last = steps - 1
    if per_second is not None:
        # Qwen2.5-VL counts time, not steps: vllm 0.32 models/qwen2_5_vl.py iter_mm_grid_thw.
        step_s = patches.temporal / (video.frames_per_second or _USUAL_FPS)
        last = int(last * step_s * per_second)
    return last + 1, max(size.width_px, size.height_px) // patches.factor


def _positions_per_second(checkpoint: Checkpoint) -> float | None:
    """Positions in time that Qwen2.5-VL counts a second; ``None`` for Qwen2-VL, one a step."""
    if checkpoint.model_type != "qwen2_5_vl":
        return None
    vision: Mapping[str, Any] = subsection(checkpoint.config, "vision_config") or {}
    value = vision.get("tokens_per_second")
    return float(value) if isinstance(value, int | float) else float(_DEFAULT_TOKENS_PER_SECOND)


def _saved_by(checkpoint: Checkpoint) -> Version | None:
    """The transformers that saved ``config.json``, which need not be the one that trained."""
    stated = checkpoint.config.get("transformers_version")
    found = re.match(r"(\d+)\.(\d+)", stated) if isinstance(stated, str) else None
    return None if found is None else (int(found[1]), int(found[2]))


def _version_evidence(checkpoint: Checkpoint) -> Evidence:
    return Evidence(
        file="config.json",
        key="transformers_version",
        value=f"{checkpoint.config.get('transformers_version')}: saved by it, and so probably "
        "trained with it",
    )


CHECKS = (
    Check(
        id="pos.mrope",
        run=check_mrope,
        cause="transformers before 4.47 left M-RoPE out of training unless the framework passed "
        "`position_ids` (ms-swift does); from 5.3 on, the text behind a video stands nearer to it "
        "than in vLLM and in the versions before.",
        evidence="The version of transformers that saved `config.json`, the framework by the files "
        "that it left, and, with `--data`, whether there are images at all, and videos with more "
        "steps in time than the longer side of a frame has tokens. An export by another version "
        "hides both, so the finding says what it rests on.",
        example="probably trained with one-dimensional positions, served with M-RoPE",
        remedy="Train again with a version whose positions are vLLM's.",
    ),
)
"""The checks of this theme, in the order in which they run."""
