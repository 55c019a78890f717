"""Did training change anything?"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vlmserve.checkpoint.adapter import WEIGHTS_NAME
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import TensorInfo, is_equal, is_zero
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, enumerate_names

# Share of logged steps without signal from which the run as a whole is in doubt. Below it, single
# batches had no labels, which a few overlong samples explain.
_DOUBTFUL_SHARE = 0.5

_HEAD_BYTES = 1 << 14


def check_no_signal(exam: Examination) -> Iterator[Outcome]:
    """``train.no-signal``: the fine-tune equals its base, or its loss was nothing to learn from."""
    checkpoint = exam.checkpoint
    evidence = []
    if checkpoint.adapter is not None:
        evidence += _zero_adapter(checkpoint)
    elif checkpoint.base is None:
        yield Unknown(id="train.no-signal", reason="no base model to compare with: --base-model")
    else:
        evidence += _equals_base(checkpoint, checkpoint.base)
    equals_base = bool(evidence)
    dead, logged = _dead_steps(checkpoint)
    if dead:
        evidence.append(_log_evidence(dead, logged))
    if not evidence:
        return
    evidence += _length_evidence(checkpoint)
    doubtful = equals_base or len(dead) >= _DOUBTFUL_SHARE * logged
    yield Finding(
        id="train.no-signal",
        title="this checkpoint answers exactly as its base model does"
        if equals_base
        else f"{len(dead)} of {logged} logged steps had nothing to learn from",
        evidence=evidence,
        consequence="Training changed nothing: it will serve as the base model does."
        if equals_base
        else "What those steps saw was not learned.",
        remedy="look at the labels: overlong samples lose their answer when max_length cuts them, "
        "and a template that does not fit the tokenizer masks them; raise max_length, check the "
        "template, and train again",
        source="InternLM-XComposer#227, LLaVA#1166; transformers logging_nan_inf_filter logs a NaN "
        "loss as 0",
        severity="warn" if doubtful else "info",
    )


def _zero_adapter(checkpoint: Checkpoint) -> list[Evidence]:
    """Every second factor is zero, as it was before the first step: the product adds nothing."""
    if checkpoint.adapter is None:
        return []
    factors = [pair.b for pair in checkpoint.adapter.pairs if pair.b is not None]
    if not factors or not all(is_zero(factor) for factor in factors):
        return []
    value = f"all {len(factors)} lora_B matrices are zero"
    return [Evidence(file=WEIGHTS_NAME, key=factors[0].name, value=value)]


def _equals_base(checkpoint: Checkpoint, base: Checkpoint) -> list[Evidence]:
    """Every tensor has the base's bytes."""
    if not (checkpoint.weights.shards and base.weights.shards):
        return []  # ckpt.tensors says that pickled weights are not opened
    ours, theirs = _by_canonical_name(checkpoint), _by_canonical_name(base)
    pairs = [(tensor, theirs[name]) for name, tensor in ours.items() if name in theirs]
    if not pairs or len(pairs) < len(ours):
        return []
    # A trained tensor nearly always differs in its first values, so most comparisons end there.
    for limit in (_HEAD_BYTES, None):
        if not all(is_equal(left, right, limit_bytes=limit) for left, right in pairs):
            return []
    value = f"all {len(pairs)} tensors are byte for byte those of {base.path}"
    return [Evidence(file=pairs[0][0].path.name, key="", value=value)]


def _by_canonical_name(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    family = checkpoint.family
    return {
        name if family is None else family.canonical(name): tensor
        for name, tensor in checkpoint.tensors.items()
    }


def _length_evidence(checkpoint: Checkpoint) -> list[Evidence]:
    """The usual suspect: what samples were cut to."""
    training = checkpoint.training
    if training is None or training.max_length is None:
        return []
    value = f"{training.max_length} tokens, images included"
    return [Evidence(file=training.files[-1], key="max_length", value=value)]


def _dead_steps(checkpoint: Checkpoint) -> tuple[list[Mapping[str, Any]], int]:
    """Log entries without a gradient, and how many entries log a loss at all."""
    history = () if checkpoint.training is None else checkpoint.training.log_history
    logged = [entry for entry in history if "loss" in entry]
    return [entry for entry in logged if _is_dead(entry)], len(logged)


def _is_dead(entry: Mapping[str, Any]) -> bool:
    loss, norm = _number(entry.get("loss")), _number(entry.get("grad_norm", 0.0))
    # A loss that was learned down to 0.0000 still has a gradient.
    return math.isnan(loss) or math.isnan(norm) or (loss == 0.0 and norm == 0.0)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _log_evidence(dead: list[Mapping[str, Any]], logged: int) -> Evidence:
    steps = enumerate_names([str(entry.get("step", "?")) for entry in dead], 5)
    return Evidence(
        file="trainer_state.json",
        key="log_history",
        value=f"{len(dead)} of {logged} entries with loss 0 or NaN and no gradient: steps {steps}",
    )


CHECKS = (
    Check(
        id="train.no-signal",
        run=check_no_signal,
        cause="All labels of a sample are masked: truncation cut the answer, or template and "
        "tokenizer do not fit. The loss is NaN, its gradient is 0, and the transformers "
        "Trainer logs 0.0.",
        evidence="All `lora_B` zero; all tensors equal to the base's; steps with loss 0 or NaN "
        "and no gradient in `trainer_state.json`.",
        example="this checkpoint answers exactly as its base model does",
        remedy="Raise the training's length limit, check the template, and train again; `--data` "
        "shows which samples lose their labels.",
    ),
)
"""The checks of this theme, in the order in which they run."""
