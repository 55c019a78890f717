"""Are images served at the sizes that the model was trained on?"""

from collections.abc import Iterator, Mapping

from vlmserve.checkpoint.families.qwen2_vl import QwenVL
from vlmserve.checkpoint.processor_settings import load_processor_settings
from vlmserve.checkpoint.provenance import VisionLimits
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, shown_path
from vlmserve.doctor.image_drift import ImageDrift, ImageWay, find_image_drift
from vlmserve.doctor.image_sizes import ImageSizes, data_sizes, standard_sizes
from vlmserve.frameworks.media_limits import (
    LIMITS_APART,
    TRAIN_ENV,
    TrainingLimits,
    find_training_limits,
)

# Share of a data set's images from which on it counts.
_WORTH_NOTING = 0.01

_SOURCE = (
    "LLaMA-Factory 0.9.5 hparams/model_args.py, model/patcher.py; ms-swift 4 "
    "model/models/qwen.py patch_qwen_vl_utils; LlamaFactory#6925, Qwen3-VL#1062"
)


def check_pixels(exam: Examination) -> Iterator[Outcome]:
    """``proc.pixels``: an image is another number of tokens in serving than it was in training."""
    checkpoint = exam.checkpoint
    drift = find_image_drift(exam)
    limits = find_training_limits(checkpoint.training, exam.train_env)
    if drift is None:
        if limits is not None and limits.known.max_pixels is not None:
            yield Unknown(
                id="proc.pixels",
                reason=f"how {checkpoint.architecture} sizes images is not known to vlmserve",
            )
        return
    sizes = data_sizes(exam) or standard_sizes()
    served = drift.drifted(drift.served, sizes)
    if len(served) >= max(1.0, _WORTH_NOTING * len(sizes.sizes_px)):
        yield _served_otherwise(exam, drift, sizes, served)
        return
    if plain := drift.drifted(drift.plain, sizes):
        yield _carried_over(exam, drift, sizes, plain)
    reason = _unrecorded(checkpoint, limits)
    if reason is not None:
        yield Unknown(id="proc.pixels", reason=reason)


def _served_otherwise(
    exam: Examination, drift: ImageDrift, sizes: ImageSizes, drifted: list[tuple[int, int]]
) -> Finding:
    checkpoint = exam.checkpoint
    is_assumed = _is_assumed(drift)
    worst = _worst(drift, drift.served, drifted)
    if not _is_strong(checkpoint, drift, sizes):
        return _unlike_base(exam, drift, sizes, worst)
    said = "probably " if is_assumed else ""
    return Finding(
        id="proc.pixels",
        title=f"images are {said}not served at the sizes of the training: {worst}",
        evidence=[
            *_limit_evidence(checkpoint, drift),
            *_processor_evidence(checkpoint, drift),
            *_choice_evidence(exam),
            *_table(sizes, {"training": drift.trained, "vlmserve serve": drift.served}),
        ],
        consequence="The model sees images of a size that it was not trained on; small text and "
        "boxes suffer first, and nothing says so.",
        remedy=_remedy(checkpoint, drift, is_assumed=is_assumed),
        source=_SOURCE,
    )


def _unlike_base(exam: Examination, drift: ImageDrift, sizes: ImageSizes, worst: str) -> Finding:
    return Finding(
        id="proc.pixels",
        title=f"the processor's image limit is not the base model's: {worst}",
        evidence=[
            *_processor_evidence(exam.checkpoint, drift),
            *_choice_evidence(exam),
            *_table(sizes, {"the base": drift.trained, "vlmserve serve": drift.served}),
        ],
        consequence="None where training set this limit, as plain trainers save the processor that "
        "they used; where it was changed later, the model sees images of another size.",
        remedy="nothing to do if the training had this limit; else take the base's processor files",
        source=_SOURCE,
        severity="info",
    )


def _is_assumed(drift: ImageDrift) -> bool:
    limits = drift.limits
    if limits is None or limits.assumed.max_pixels is None:
        return False
    is_unrecorded = limits.known.max_pixels is None and limits.known.image_max_token_num is None
    return is_unrecorded or drift.assumes_one_tile


def _is_strong(checkpoint: Checkpoint, drift: ImageDrift, sizes: ImageSizes) -> bool:
    """Whether it is the serving that differs, and not a base that the training left behind.

    A plain Trainer saves the processor as it used it: where that differs from the base's, the
    checkpoint's own is right.
    """
    if checkpoint.adapter is not None or drift.origin is None:
        return True
    if drift.limits is not None and (
        drift.limits.framework in LIMITS_APART or drift.limits.told != VisionLimits()
    ):
        return True
    return not drift.drifted(drift.plain, sizes)


def _remedy(checkpoint: Checkpoint, drift: ImageDrift, *, is_assumed: bool) -> str:
    if drift.assumes_one_tile:
        return (
            "serve without tiles, as LLaMA-Factory trains unless it is told crop_to_patches: --set "
            "'engine.mm_processor_kwargs={crop_to_patches: false}'; say true where it was told"
        )
    if not isinstance(checkpoint.family, QwenVL):
        return "shrink images before they are sent, as the training framework did"
    if is_assumed:
        return (
            f"tell the limit of the training: {TRAIN_ENV} MAX_PIXELS=589824 is LLaMA-Factory's "
            "default since 0.9.2 (262144 in 0.9.1); vlmserve serve then applies it"
        )
    return (
        "serve with the training's limit: take the sizes out of engine.mm_processor_kwargs, take "
        f"the processor's files from the training, or tell it with {TRAIN_ENV} MAX_PIXELS=N"
    )


def _carried_over(
    exam: Examination, drift: ImageDrift, sizes: ImageSizes, drifted: list[tuple[int, int]]
) -> Finding:
    return Finding(
        id="proc.pixels",
        title="the processor's files lack the image limit of the training: "
        f"{_worst(drift, drift.plain, drifted)}",
        evidence=[
            *_limit_evidence(exam.checkpoint, drift),
            *_choice_evidence(exam),
            *_table(
                sizes,
                {
                    "training": drift.trained,
                    "plain vLLM": drift.plain,
                    "vlmserve serve": drift.served,
                },
            ),
        ],
        consequence="vlmserve serve applies the training's limit; plain vLLM and other servers go "
        "by the processor's files and show the model larger or smaller images than it knows.",
        remedy="nothing to do under vlmserve serve; for others write the limit into the "
        "processor's files (size.longest_edge, or max_pixels before transformers 5)",
        source=_SOURCE,
        severity="info",
    )


def _unrecorded(checkpoint: Checkpoint, limits: TrainingLimits | None) -> str | None:
    """Limits that the run may have had and that nothing records."""
    if limits is None or limits.framework != "ms-swift" or limits.told != VisionLimits():
        return None
    if not isinstance(checkpoint.family, QwenVL):
        return None
    return (
        "ms-swift takes image limits from its environment, which args.json does not record: give "
        f"{TRAIN_ENV} MAX_PIXELS=N, or IMAGE_MAX_TOKEN_NUM=N, if the run had it"
    )


def _worst(drift: ImageDrift, way: ImageWay, drifted: list[tuple[int, int]]) -> str:
    def factor(size: tuple[int, int]) -> float:
        trained, found = drift.trained.tokens(*size), way.tokens(*size)
        if not trained or not found:
            return float("inf")
        return max(trained / found, found / trained)

    size = max(drifted, key=factor)
    trained, found = drift.trained.tokens(*size), way.tokens(*size)
    return f"{size[0]}x{size[1]} was {_count(trained)}, is {_count(found)}"


def _limit_evidence(checkpoint: Checkpoint, drift: ImageDrift) -> Iterator[Evidence]:
    limits = drift.limits
    if limits is None:
        return
    names = ("min_pixels", "max_pixels", "image_min_token_num", "image_max_token_num")
    for name in names:
        value = getattr(limits.known, name)
        if value is not None:
            file, key = limits.sources[name]
            yield Evidence(file=file, key=key, value=str(value))
    if not _is_assumed(drift) or checkpoint.training is None:
        return
    defaults = {"crop_to_patches": "false"} if drift.assumes_one_tile else {}
    if limits.known.max_pixels is None:
        defaults["image_max_pixels"] = str(limits.assumed.max_pixels)
    for key, value in defaults.items():
        yield Evidence(
            file=", ".join(checkpoint.training.files),
            key=key,
            value=f"not recorded; the default of {checkpoint.training.framework} is {value}",
        )


def _processor_evidence(checkpoint: Checkpoint, drift: ImageDrift) -> Iterator[Evidence]:
    other = "of the training" if checkpoint.adapter is not None else "of the base"
    for settings, role in ((load_processor_settings(checkpoint), "served"), (drift.origin, other)):
        if settings is None or not settings.image.get("max_pixels"):
            continue
        source = settings.image.source("max_pixels")
        file = source.key if source.path is None else shown_path(source.path, checkpoint)
        key = "default of the class" if source.path is None else source.key
        yield Evidence(file=file, key=key, value=f"{settings.image['max_pixels']} ({role})")


def _choice_evidence(exam: Examination) -> Iterator[Evidence]:
    chosen = exam.serve.engine.mm_processor_kwargs
    if chosen:
        yield Evidence(file="serve config", key="engine.mm_processor_kwargs", value=str(chosen))


def _table(sizes: ImageSizes, ways: Mapping[str, ImageWay]) -> Iterator[Evidence]:
    """Tokens by each way, for each standard size or over the data set's images."""
    for label, rows in sizes.rows():
        counts = {
            name: sizes.summarise([way.tokens(*size) for size in rows])
            for name, way in ways.items()
        }
        value = ", ".join(f"{count} in {name}" for name, count in counts.items())
        yield Evidence(file=sizes.origin, key=label, value=value)


def _count(tokens: int | None) -> str:
    return "refused" if tokens is None else f"{tokens} tokens"


CHECKS = (
    Check(
        id="proc.pixels",
        run=check_pixels,
        cause="Training frameworks shrink images before the processor sees them: LLaMA-Factory to "
        "768 x 768 pixels unless told otherwise, ms-swift by `--max_pixels` and environment "
        "variables. The processor that they save still has the base's limit, and servers go by "
        "that.",
        evidence="The tokens of an image by the family's exact formula, with the limits of the "
        "training (its files, `--train-env`, or the framework's default) and with those of the "
        "processor that is served, after what `vlmserve serve` carries over and "
        "`engine.mm_processor_kwargs`. More than a tenth apart at 224x224, 640x480, 1024x768, "
        "1920x1080 or 3000x2000, or for a hundredth of the images of `--data`, is a finding; "
        "information where `vlmserve serve` makes up for it.",
        example="images are probably not served at the sizes of the training: 3000x2000 was 748 "
        "tokens, is 7597 tokens",
        remedy="Tell the training's limit with `--train-env MAX_PIXELS=N`, which `vlmserve serve` "
        "applies too, or write it into the processor's files.",
    ),
)
"""The checks of this theme, in the order in which they run."""
