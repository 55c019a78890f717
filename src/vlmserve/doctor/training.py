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

# transformers rounds losses to four decimals: one that falls below half of the last is logged as 0.
_NEARLY_LEARNED_NATS = 0.01


_SAME = "this checkpoint answers exactly as its base model does"
_SHRUNK = "training only shrank the weights, as weight decay does without a gradient"


def check_no_signal(exam: Examination) -> Iterator[Outcome]:
    """``train.no-signal``: the fine-tune equals its base, or its loss was nothing to learn from."""
    checkpoint = exam.checkpoint
    is_adapter = checkpoint.adapter is not None
    compared = _zero_adapter(checkpoint) if is_adapter else _compare_with_base(exam)
    # Of a directory without a model, the log alone can tell.
    if isinstance(compared, Unknown) and checkpoint.leftover is None:
        yield compared
    proof = None if isinstance(compared, Unknown) else compared
    dead, logged = _dead_steps(checkpoint)
    evidence = [] if proof is None else [proof[1]]
    evidence += [_log_evidence(dead, logged)] if dead else []
    if not evidence:
        return
    doubtful = proof is not None or len(dead) >= _DOUBTFUL_SHARE * logged
    yield Finding(
        id="train.no-signal",
        title=f"{len(dead)} of {logged} logged steps had nothing to learn from"
        if proof is None
        else proof[0],
        evidence=[*evidence, *_length_evidence(checkpoint)],
        consequence="What those steps saw was not learned."
        if proof is None
        else "Training taught nothing: it will serve as the base model does.",
        remedy="look at the labels: overlong samples lose their answer when max_length cuts them, "
        "and a template that does not fit the tokenizer masks them; raise max_length, check the "
        "template, and train again",
        source="InternLM-XComposer#227, LLaVA#1166; transformers logging_nan_inf_filter logs a NaN "
        "loss as 0",
        severity="warn" if doubtful else "info",
    )


def _zero_adapter(checkpoint: Checkpoint) -> tuple[str, Evidence] | None:
    """Every second factor is zero, as it was before the first step: the product adds nothing."""
    pairs = () if checkpoint.adapter is None else checkpoint.adapter.pairs
    factors = [pair.b for pair in pairs if pair.b is not None]
    if not factors or not all(is_zero(factor) for factor in factors):
        return None
    value = f"all {len(factors)} lora_B matrices are zero"
    return _SAME, Evidence(file=WEIGHTS_NAME, key=factors[0].name, value=value)


def _compare_with_base(exam: Examination) -> tuple[str, Evidence] | Unknown | None:
    """What a full fine-tune is beside its base, as a title with its proof."""
    checkpoint, base = exam.checkpoint, exam.checkpoint.base
    reason = None
    if base is None:
        reason = "no base model to compare with: --base-model"
    elif not (checkpoint.weights.files and base.weights.files):
        reason = "there are no weight files on one side"
    elif not exam.fast:
        reason = exam.scan.problem
        if reason is None:
            return _equals_base(exam, base)
    elif _begins_as_base(checkpoint, base):
        reason = "every tensor begins as the base's does; the rest is not read in the fast pass"
    return None if reason is None else Unknown(id="train.no-signal", reason=reason)


def _begins_as_base(checkpoint: Checkpoint, base: Checkpoint) -> bool:
    """Every tensor starts with the base's bytes; a trained one nearly always differs there."""
    ours, theirs = _by_canonical_name(checkpoint), _by_canonical_name(base)
    return bool(ours) and all(
        name in theirs and is_equal(tensor, theirs[name], limit_bytes=_HEAD_BYTES)
        for name, tensor in ours.items()
    )


def _by_canonical_name(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    family = checkpoint.family
    return {
        name if family is None else family.canonical(name): tensor
        for name, tensor in checkpoint.tensors.items()
    }


def _equals_base(exam: Examination, base: Checkpoint) -> tuple[str, Evidence] | None:
    """Every tensor has the base's values, or these shrunk by weight decay and nothing else."""
    from vlmserve.doctor.weight_decay import find_pure_decay

    tensors = exam.scan.tensors
    if not tensors or any(entry.base is None for entry in tensors):
        return None
    file = tensors[0].tensor.path.name
    if not any(entry.changed for entry in tensors):
        value = f"all {len(tensors)} tensors are byte for byte those of {base.path}"
        return _SAME, Evidence(file=file, key="", value=value)
    decay = find_pure_decay(tensors, exam.checkpoint.family)
    if decay is None:
        return None
    value = (
        f"{len(decay.shrunk)} tensors are those of {base.path} times {1 - decay.factor:.6g}, the "
        f"other {len(decay.unchanged)} are unchanged"
    )
    return _SHRUNK, Evidence(file=file, key=decay.shrunk[0].tensor.name, value=value)


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
    dead = []
    before = math.inf  # the last loss that was not 0
    for entry in logged:
        loss = _number(entry.get("loss"))
        if _is_dead(loss, entry, before):
            dead.append(entry)
        if loss != 0.0:
            before = loss
    return dead, len(logged)


def _is_dead(loss: float, entry: Mapping[str, Any], before: float) -> bool:
    """Tell whether a logged step had nothing to learn from.

    A loss that was learned down to 0.0000 still has a gradient. Where the gradient is not logged,
    it was learned if it had come near 0 by then; a loss of masked labels leaps to it.
    """
    if "grad_norm" not in entry:
        return math.isnan(loss) or (loss == 0.0 and not before < _NEARLY_LEARNED_NATS)
    norm = _number(entry["grad_norm"])
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
        evidence="All `lora_B` zero; all tensors equal to the base's, or the base's times one "
        "factor below 1 with biases and norms unchanged, which is weight decay alone; steps with "
        "loss 0 or NaN and no gradient in `trainer_state.json`.",
        example="this checkpoint answers exactly as its base model does",
        remedy="Raise the training's length limit, check the template, and train again; `--data` "
        "shows which samples lose their labels.",
        leftovers=True,
    ),
)
"""The checks of this theme, in the order in which they run."""
