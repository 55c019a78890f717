"""Did the training cut samples, or leave them out, because they were too long?"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vlmserve.checkpoint.families.xcomposer2 import XComposer2
from vlmserve.checkpoint.provenance import TrainingInfo
from vlmserve.checkpoint.text_config import find_text_section
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, shown_path
from vlmserve.doctor.sample_length import SampleLength, SampleLengths, count_samples
from vlmserve.frameworks.media_limits import TrainingLimits

_ID = "data.budget"
_SOURCE = (
    "InternLM-XComposer#227, LlamaFactory#5968; ms-swift swift/arguments/template_args.py "
    "truncation_strategy; haotian-liu/LLaVA llava/model/llava_arch.py"
)

# A few samples in the tail are cut on purpose.
_SHARE = 0.01
_FITTED_PERCENTS = (50, 95, 100)
_BARS = "▁▂▃▄▅▆▇█"
_MOST_BINS = 16
_MOST_REASONS = 5


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """The longest sample of a training."""

    tokens: int
    file: str
    """Where it stands; the option, where the user told it."""

    key: str


@dataclass(frozen=True, slots=True)
class _Fate:
    """What a framework does with samples that are too long."""

    verb: str
    consequence: str


_CUT = _Fate(
    "cut",
    "What stands behind the cut was not learned: mostly the answer. A sample whose whole answer is "
    "cut teaches nothing, and a batch of such samples has loss 0 or NaN.",
)
_DELETED = _Fate(
    "left out",
    "ms-swift deletes samples that are too long (truncation_strategy delete), so the model never "
    "saw them: the hardest images and the longest answers.",
)
_EMPTIED = _Fate(
    "cut, their answers first",
    "InternLM-XComposer puts images first and stops at the limit: without an end token no label is "
    "left, the sample teaches nothing, and the Trainer prints loss 0 instead of NaN.",
)
_LLAVA_CUT = _Fate(
    "cut",
    "LLaVA cuts behind the image's tokens have been put in, so that answers lose their end or are "
    "gone altogether.",
)
_FACTORY_CUT = _Fate(
    "cut",
    "LLaMA-Factory cuts questions and answers to cutoff_len. Where the cut goes through an image's "
    "tokens, training stops with an error; where it does not, answers lose their end.",
)


def check_budget(exam: Examination) -> Iterator[Outcome]:
    """``data.budget``: the samples fit into the length that the training allowed."""
    if exam.data is None or exam.fast:
        return
    lengths = count_samples(exam)
    if isinstance(lengths, str):
        yield Unknown(id=_ID, reason=lengths)
        return
    limit = find_length_limit(exam)
    if limit is None:
        yield Unknown(
            id=_ID,
            reason="no file tells how long a sample of the training may be; give --max-length N",
        )
        yield _distribution(exam, lengths, None)
        return
    long = [length for length in lengths.counted if length.measured > limit.tokens]
    if len(long) >= max(1, _SHARE * len(lengths.counted)):
        yield _too_long(exam, lengths, limit, long)
    else:
        yield _distribution(exam, lengths, limit)


def find_length_limit(exam: Examination) -> LengthLimit | None:
    """The longest sample of the training, as the user tells or as files record it.

    ``--max-length`` goes before what the framework recorded (``max_length``, ``cutoff_len``), and
    that before LLaVA's ``tokenizer_model_max_length`` and XComposer's ``max_length``.
    ms-swift without a ``max_length`` takes the model's own longest context.
    """
    if exam.max_length is not None:
        return LengthLimit(exam.max_length, "--max-length", "")
    checkpoint, training = exam.checkpoint, exam.checkpoint.training
    config = shown_path(checkpoint.model.path / "config.json", checkpoint)
    if training is not None and training.framework in _KEYS:
        file = next((file for file in reversed(training.files)), config)
        if training.max_length is not None:
            return LengthLimit(training.max_length, file, _KEYS[training.framework])
        if training.framework == "ms-swift":
            return _model_length(exam, config)
        return None
    # Elsewhere max_length is generation's.
    key = "max_length" if _is_xcomposer(exam) else "tokenizer_model_max_length"
    value = checkpoint.config.get(key)
    if type(value) is int and value > 0:
        return LengthLimit(value, config, key)
    return None


_KEYS = {"ms-swift": "max_length", "llama-factory": "cutoff_len"}


def _model_length(exam: Examination, file: str) -> LengthLimit | None:
    section = find_text_section(exam.checkpoint.config)
    value = section.values.get("max_position_embeddings")
    if type(value) is not int or value <= 0:
        return None
    return LengthLimit(value, file, f"{section.where}max_position_embeddings")


def _is_xcomposer(exam: Examination) -> bool:
    return isinstance(exam.checkpoint.family, XComposer2)


def _fate(exam: Examination) -> _Fate:
    training = exam.checkpoint.training
    if training is not None and training.framework == "ms-swift":
        strategy = training.truncation_strategy or "delete"
        return _DELETED if strategy == "delete" else _CUT
    if training is not None and training.framework == "llama-factory":
        return _FACTORY_CUT
    if _is_xcomposer(exam):
        return _EMPTIED
    is_llava = "mm_projector_type" in exam.checkpoint.config
    return _LLAVA_CUT if is_llava else _CUT


def _too_long(
    exam: Examination, lengths: SampleLengths, limit: LengthLimit, long: Sequence[SampleLength]
) -> Finding:
    fate = _fate(exam)
    totals = sorted(length.measured for length in lengths.counted)
    share = len(long) / len(totals)
    return Finding(
        id=_ID,
        title=f"{_percent(share)} of the samples ({len(long):,} of {len(totals):,}) are longer "
        f"than {limit.tokens:,} tokens and were {fate.verb}",
        evidence=[_limit_evidence(limit), *_evidence(exam, lengths)],
        consequence=fate.consequence,
        remedy=f"train again with {_option(exam.checkpoint.training)} {totals[-1]} "
        f"({fitting(totals, 95)} keeps 95 %)" + _smaller_images(lengths),
        source=_SOURCE,
    )


def _distribution(exam: Examination, lengths: SampleLengths, limit: LengthLimit | None) -> Finding:
    totals = sorted(length.measured for length in lengths.counted)
    long = 0 if limit is None else sum(total > limit.tokens for total in totals)
    room = max(length.total for length in lengths.counted)
    against = "" if limit is None else f", and the training allowed {limit.tokens:,}"
    some = "" if not long else f"; {long:,} of {len(totals):,} were {_fate(exam).verb}"
    evidence = [] if limit is None else [_limit_evidence(limit)]
    return Finding(
        id=_ID,
        severity="info",
        title=f"the longest of {_samples(len(totals))} has {totals[-1]:,} tokens{against}{some}",
        evidence=[*evidence, *_evidence(exam, lengths)],
        consequence="Requests like these samples need as much room, and the answer's besides.",
        remedy=f"serve with engine.max_model_len above {room}",
        source=_SOURCE,
    )


def _limit_evidence(limit: LengthLimit) -> Evidence:
    return Evidence(file=limit.file, key=limit.key, value=str(limit.tokens))


def _evidence(exam: Examination, lengths: SampleLengths) -> Iterator[Evidence]:
    file = "" if exam.data is None else str(exam.data.path)
    totals = sorted(length.measured for length in lengths.counted)
    fits = ", ".join(f"{percent} % in {fitting(totals, percent):,}" for percent in _FITTED_PERCENTS)
    yield Evidence(file=file, key="fit", value=fits)
    yield Evidence(file=file, key="tokens", value=histogram(totals))
    longest = max(lengths.counted, key=lambda length: length.measured)
    yield Evidence(file=longest.sample.where, key="longest", value=_parts(longest))
    yield Evidence(file=file, key="template", value=lengths.template)
    if longest.is_expanded_late:
        yield Evidence(
            file=file,
            key="media",
            value="one token each, as ms-swift measures samples of this model; the longest takes "
            f"{longest.total:,}",
        )
    yield from _media_limits(lengths.limits)
    reasons = list(lengths.uncounted.items())
    for reason, places in reasons[:_MOST_REASONS]:
        yield Evidence(
            file=places[0], key="not counted", value=f"{_samples(len(places))}: {reason}"
        )
    if len(reasons) > _MOST_REASONS:
        rest = sum(len(places) for _, places in reasons[_MOST_REASONS:])
        yield Evidence(file=file, key="not counted", value=f"{_samples(rest)} for other reasons")


def _media_limits(limits: TrainingLimits | None) -> Iterator[Evidence]:
    """The limits of images under which they were counted."""
    if limits is None:
        return
    for name in ("max_pixels", "image_max_token_num"):
        known, assumed = getattr(limits.known, name), getattr(limits.assumed, name)
        if known is not None and name in limits.sources:
            file, key = limits.sources[name]
            yield Evidence(file=file, key=key, value=f"{known:g}")
        elif assumed is not None:
            yield Evidence(
                file=limits.framework or "",
                key=name,
                value=f"not recorded; the framework's default is {assumed:g}",
            )


def _parts(length: SampleLength) -> str:
    parts = [f"{length.text:,} of text"]
    for kind in ("image", "video"):
        tokens = [
            count
            for medium, count in zip(length.sample.media, length.media, strict=True)
            if medium.kind == kind
        ]
        if tokens:
            some = f"{len(tokens)} {kind}" + ("s" if len(tokens) > 1 else "")
            parts.append(f"{sum(tokens):,} of {some}")
    return f"{length.total:,} tokens: {', '.join(parts)}"


def fitting(totals: Sequence[int], percent: int) -> int:
    """The smallest length that so many percent of the samples fit in.

    Args:
        totals: Tokens of each sample, ascending, at least one.
        percent: 1 to 100.
    """
    return totals[math.ceil(percent / 100 * len(totals)) - 1]


def histogram(totals: Sequence[int]) -> str:
    """A small histogram over powers of two, in one line.

    Args:
        totals: Tokens of each sample, at least one.

    Example:
        >>> histogram([100, 200, 250, 900])
        '▅█▁▅ up to 128: 1, 256: 2, 512: 0, 1,024: 1'
    """
    bins = Counter(max(total - 1, 0).bit_length() for total in totals)
    first = max(min(bins), max(bins) - _MOST_BINS + 1)
    edges = range(first, max(bins) + 1)
    counts = [sum(n for edge, n in bins.items() if max(edge, first) == this) for this in edges]
    top = max(counts)
    bars = "".join(_BARS[math.ceil(n / top * (len(_BARS) - 1))] if n else _BARS[0] for n in counts)
    shown = ", ".join(f"{2**edge:,}: {count:,}" for edge, count in zip(edges, counts, strict=True))
    return f"{bars} up to {shown}"


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{100 * share:.1f} %"


def _option(training: TrainingInfo | None) -> str:
    if training is not None and training.framework == "llama-factory":
        return "cutoff_len:"
    if training is not None and training.framework == "ms-swift":
        return "--max_length"
    return "a longest sample of"


def _smaller_images(lengths: SampleLengths) -> str:
    n_media = sum(sum(length.media) for length in lengths.counted)
    n_text = sum(length.text for length in lengths.counted)
    return ", or with smaller images" if n_media > n_text else ""


CHECKS = (
    Check(
        id=_ID,
        run=check_budget,
        cause="Every framework has a longest sample (`max_length`, `cutoff_len`, "
        "`model_max_length`), often 2,048 tokens, and a single large image takes more. What does "
        "not fit is cut or left out, mostly without a word.",
        evidence="With `--data`: for each sample the tokens of its text, by the checkpoint's own "
        "tokenizer and the training's template, and of its images and videos, by the family's "
        "formula from the sizes in their headers under the training's limits; against "
        "`--max-length`, `args.json`, LLaMA-Factory's settings or `config.json`. It is a finding "
        "from 1 % of the samples on; below, the distribution is told for information. Samples "
        "that cannot be counted are named.",
        example="37.0 % of the samples (740 of 2,000) are longer than 2,048 tokens and were left "
        "out\n    args.json max_length: 2048\n    train.jsonl fit: 50 % in 1,310, 95 % in 4,105, "
        "100 % in 9,402\n    train.jsonl:118 longest: 9,402 tokens: 42 of text, 9,360 of 4 images",
        remedy="Train again with a length that fits (the finding names it), or with smaller images "
        "(`MAX_PIXELS`, `image_max_pixels`).",
    ),
)
"""The checks of this theme, in the order in which they run."""
