"""Are videos served with the frames, and at the sizes, that the model was trained on?"""

from collections.abc import Iterator, Mapping
from dataclasses import fields

from vlmserve.checkpoint.families.base import Section, subsection
from vlmserve.checkpoint.families.qwen2_vl import PATCH_SETTINGS, QwenVL
from vlmserve.checkpoint.processor_settings import PartSettings, load_processor_settings
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.visual_tokens.base import VisualTokens
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, shown_path
from vlmserve.doctor.image_drift import trained_processor
from vlmserve.doctor.video_drift import CLIPS, Clip, VideoDrift, find_video_drift
from vlmserve.errors import MediaError
from vlmserve.frameworks.media_limits import LIMITS_APART, TRAIN_ENV

_VIDEO_LIMITS = tuple(
    field.name for field in fields(VisionLimits) if field.name.startswith(("video", "fps"))
)
# vllm 0.32 hands these families frames that its loader took, and lets the processor take again.
_SAMPLED_BY_LOADER = ("qwen2_vl", "qwen2_5_vl")

# From a thumbnail, which the class's smallest size enlarges, to high definition.
_FRAMES = ((56, 56), (320, 240), (640, 360), (1920, 1080))

_SOURCE = (
    "vllm 0.32 multimodal/video.py; LLaMA-Factory 0.9.5 data/mm_plugin.py; qwen-vl-utils 0.0.14 "
    "vision_process.py; LlamaFactory#6868"
)


def check_video(exam: Examination) -> Iterator[Outcome]:
    """``proc.video``: other frames than in training, or settings that contradict each other."""
    yield from _contradictions(exam.checkpoint)
    sign = _sign_of_video(exam)
    if sign is None:
        return
    drift = find_video_drift(exam)
    drifted = [] if drift is None else drift.drifted()
    if drift is not None and drifted:
        yield _served_otherwise(exam, drift, sign, drifted)
    else:
        yield from _against_origin(exam, sign)


def _against_origin(exam: Examination, sign: Evidence) -> Iterator[Outcome]:
    """Frames of another size than by the training's video processor, or by the base's."""
    checkpoint = exam.checkpoint
    origin, family = trained_processor(checkpoint), checkpoint.family
    if origin is None or family is None:
        return
    served = load_processor_settings(checkpoint)
    ways = [family.visual_tokens(checkpoint.config, each) for each in (served, origin)]
    rows = []
    for width_px, height_px in _FRAMES:
        found, expected = (_frame_tokens(way, width_px, height_px) for way in ways)
        if found != expected:
            rows.append((f"{width_px}x{height_px}", found, expected))
    if not rows:
        return
    is_adapter, training = checkpoint.adapter is not None, checkpoint.training
    is_apart = training is not None and training.framework in LIMITS_APART
    whose = "training's" if is_adapter else "base's"
    yield Finding(
        id="proc.video",
        title=f"the video processor that is served is not the {whose}: 8 frames of {rows[0][0]} "
        f"are {rows[0][1]} tokens, were {rows[0][2]}",
        evidence=[
            sign,
            *(
                _setting_evidence(checkpoint, part.video, "size", role)
                for part, role in ((served, "served"), (origin, f"the {whose}"))
            ),
            *(
                Evidence(
                    file="frames",
                    key=f"8 frames of {size}",
                    value=f"{found} tokens served, {expected} by the {whose}",
                )
                for size, found, expected in rows
            ),
        ],
        consequence="The model sees larger or smaller frames than it was trained on, unless "
        "training used this processor.",
        remedy="put the video processor's settings of the training into the model's processor "
        "files, or give them with engine.mm_processor_kwargs: {videos_kwargs: {size: ...}}",
        source=_SOURCE,
        severity="warn" if is_adapter or is_apart else "info",
    )


def _frame_tokens(formula: VisualTokens | None, width_px: int, height_px: int) -> int | None:
    if formula is None:
        return None
    try:
        video = formula.video(width_px, height_px, 8)
    except MediaError:
        return None
    return None if video is None else video.tokens


def _setting_evidence(checkpoint: Checkpoint, part: PartSettings, key: str, role: str) -> Evidence:
    source = part.source(key)
    file = source.key if source.path is None else shown_path(source.path, checkpoint)
    shown = "default of the class" if source.path is None else source.key
    return Evidence(file=file, key=shown, value=f"{part.get(key)} ({role})")


def _contradictions(checkpoint: Checkpoint) -> Iterator[Outcome]:
    family = checkpoint.family
    if not isinstance(family, QwenVL):
        return
    video = load_processor_settings(checkpoint).video
    vision = Section(
        subsection(checkpoint.config, "vision_config"), family.vision_defaults, "vision_config."
    )
    config = shown_path(checkpoint.model.path / "config.json", checkpoint)
    for key, config_key in PATCH_SETTINGS.items():
        expected = vision.size(config_key)
        if video.source(key).path is not None and video[key] != expected:
            model = Evidence(file=config, key=f"vision_config.{config_key}", value=str(expected))
            yield _contradiction(
                checkpoint,
                video,
                key,
                f"the video processor's {key} is {video[key]}, the model's is {expected}",
                also=model,
            )
    size = video.get("size")
    edges = size if isinstance(size, Mapping) else {}
    smallest, largest = edges.get("shortest_edge"), edges.get("longest_edge")
    if isinstance(smallest, int) and isinstance(largest, int) and smallest > largest:
        yield _contradiction(
            checkpoint,
            video,
            "size",
            f"the smallest frame, {smallest} pixels, is larger than the largest, {largest}",
        )
    if family.name in _SAMPLED_BY_LOADER and video.get("do_sample_frames"):
        yield _contradiction(
            checkpoint,
            video,
            "do_sample_frames",
            "the processor takes frames out of those that the server has taken already",
        )


def _contradiction(
    checkpoint: Checkpoint,
    video: PartSettings,
    key: str,
    title: str,
    *,
    also: Evidence | None = None,
) -> Finding:
    evidence = [_setting_evidence(checkpoint, video, key, "the video processor")]
    return Finding(
        id="proc.video",
        title=title,
        evidence=evidence if also is None else [*evidence, also],
        consequence="Requests with videos fail, or show the model other frames than intended.",
        remedy="take the video processor's settings from the base model, or correct the key",
        source="transformers 5.19 video_processing_utils.py _decode_and_sample_videos; vllm 0.32 "
        "models/qwen2_5_vl.py",
    )


def _sign_of_video(exam: Examination) -> Evidence | None:
    """What says that the model was trained on videos at all."""
    for name in _VIDEO_LIMITS:
        value = getattr(exam.train_env, name, None)
        if value is not None:
            return Evidence(file=TRAIN_ENV, key=name.upper(), value=f"{value:g}")
    if exam.data is None:
        return None
    counts = [
        sum(medium.kind == "video" for medium in sample.media) for sample in exam.data.samples
    ]
    n_samples = sum(count > 0 for count in counts)
    if not n_samples:
        return None
    return Evidence(file=str(exam.data.path), key="", value=f"{n_samples} samples with videos")


def _served_otherwise(
    exam: Examination, drift: VideoDrift, sign: Evidence, drifted: list[Clip]
) -> Finding:
    clip = drifted[-1]
    is_assumed = any(
        getattr(drift.limits.known, name) is None
        for name in ("fps", "fps_max_frames", "video_max_pixels")
    )
    said = "probably " if is_assumed else ""
    return Finding(
        id="proc.video",
        title=f"videos are {said}not served as in training: {clip} were "
        f"{drift.trained.shown(clip)}, are {drift.served.shown(clip)}",
        evidence=[
            sign,
            *_limit_evidence(exam, drift),
            *_choice_evidence(exam),
            *(
                Evidence(
                    file="frames",
                    key=str(each),
                    value=f"{drift.trained.shown(each)} in training, "
                    f"{drift.served.shown(each)} in vlmserve serve",
                )
                for each in CLIPS
            ),
        ],
        consequence="The model sees more or fewer frames, or larger or smaller ones, than it was "
        "trained on.",
        remedy=_remedy(exam, drift),
        source=_SOURCE,
    )


def _limit_evidence(exam: Examination, drift: VideoDrift) -> Iterator[Evidence]:
    limits, training = drift.limits, exam.checkpoint.training
    for name in _VIDEO_LIMITS:
        known, assumed = getattr(limits.known, name), getattr(limits.assumed, name)
        if known is not None and name in limits.sources:
            file, key = limits.sources[name]
            yield Evidence(file=file, key=key, value=f"{known:g}")
        elif assumed is not None and training is not None:
            yield Evidence(
                file=", ".join(training.files),
                key=name,
                value=f"not recorded; the default of {training.framework} is {assumed:g}",
            )


def _choice_evidence(exam: Examination) -> Iterator[Evidence]:
    engine = exam.serve.engine
    for name in ("mm_processor_kwargs", "media_io_kwargs"):
        chosen = getattr(engine, name)
        if chosen:
            yield Evidence(file="serve config", key=f"engine.{name}", value=str(chosen))


def _remedy(exam: Examination, drift: VideoDrift) -> str:
    probable = drift.limits.probable
    if not isinstance(exam.checkpoint.family, QwenVL):
        return (
            "serve with the training's frames: --set "
            f"'engine.media_io_kwargs={{video: {{fps: {probable.fps or 2:g}, num_frames: "
            f"{probable.fps_max_frames or -1}}}}}'"
        )
    named = ("fps", "fps_max_frames", "video_max_pixels")
    known = [
        f"{TRAIN_ENV} {name.upper()}={value:g}"
        for name in named
        if (value := getattr(probable, name)) is not None
    ]
    if exam.serve.engine.media_io_kwargs or exam.serve.engine.mm_processor_kwargs:
        return (
            "take what differs from the training out of engine.media_io_kwargs and "
            "engine.mm_processor_kwargs"
        )
    return f"tell what the training had, and vlmserve serve applies it: {' '.join(known)}"


CHECKS = (
    Check(
        id="proc.video",
        run=check_video,
        cause="Training frameworks take frames by their own rules (LLaMA-Factory 2 a second and at "
        "most 128, of at most 256 x 256 pixels; qwen-vl-utils 2 a second and at most 768), and "
        "servers by theirs. Nothing of it is in the processor's files.",
        evidence="Frames and tokens of a frame for three usual videos, by the training's limits "
        "(its files, `--train-env`, the framework's defaults) and by those of vLLM's loader and "
        "the served processor, where `--data` has videos or `--train-env` tells of them; and the "
        "sizes that the served video processor gives frames against the training's. Settings "
        "of the video processor that contradict each other or the model count in any case.",
        example="videos are probably not served as in training: 300 s of 1920x1080 were 128 frames "
        "of 42 tokens, are 600 frames of 1345.5 tokens",
        remedy="Tell the training's limits with `--train-env FPS=... --train-env "
        "FPS_MAX_FRAMES=... --train-env VIDEO_MAX_PIXELS=...`; `vlmserve serve` applies them.",
    ),
)
"""The checks of this theme, in the order in which they run."""
