"""Are the weights numbers, and do they stay so when they are loaded?"""

import math
from collections.abc import Iterator

from vlmserve.checkpoint.tensors import TensorInfo, count_nonfinite
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, shown_path

_FLOAT16_MAX = 65504.0
_SHOWN = 5


def check_finite(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.finite``: values that are infinite or not a number, or become so in float16.

    Reads every weight; the fast pass reads an adapter's alone.
    """
    checkpoint = exam.checkpoint
    bad: list[tuple[TensorInfo, int]] = []
    if checkpoint.adapter is not None:
        adapter = checkpoint.adapter.tensors.values()
        bad += [(tensor, count) for tensor in adapter if (count := count_nonfinite(tensor))]
    if exam.fast:
        reason = "the model's weights are not read in the fast pass; run vlmserve check"
        yield Unknown(id="ckpt.finite", reason=reason)
    elif not checkpoint.weights.files:
        reason = "there are no weight files"
        yield Unknown(id="ckpt.finite", reason=reason)
    else:
        tensors = exam.scan.tensors
        bad += [(entry.tensor, entry.nonfinite) for entry in tensors if entry.nonfinite]
        yield from _overflows(exam)
    if bad:
        yield Finding(
            id="ckpt.finite",
            title=f"{_tensors(len(bad), 'holds', 'hold')} values that are infinite or not a number",
            evidence=[
                Evidence(
                    file=shown_path(tensor.path, checkpoint),
                    key=tensor.name,
                    value=f"{count} of {math.prod(tensor.shape)} values",
                )
                for tensor, count in bad[:_SHOWN]
            ],
            consequence="vLLM loads them without a word and answers with empty text.",
            remedy="go back to a checkpoint from before training diverged; if it was converted to "
            "float16, convert to bfloat16 instead",
            source="vllm 0.32, observed: NaN weights give status 200 and empty text",
        )


def _overflows(exam: Examination) -> Iterator[Finding]:
    """Values that are finite in the file and infinite in float16."""
    from vlmserve.doctor.model_scan import served_in_float16

    if not served_in_float16(exam):
        return
    large = [entry for entry in exam.scan.tensors if entry.largest > _FLOAT16_MAX]
    if not large:
        return
    asked = exam.serve.engine.dtype == "float16"
    yield Finding(
        id="ckpt.finite",
        title=f"{_tensors(len(large), 'holds', 'hold')} values too large for float16",
        evidence=[
            Evidence(
                file=shown_path(entry.tensor.path, exam.checkpoint),
                key=entry.tensor.name,
                value=f"{entry.largest:g}; float16 ends at {_FLOAT16_MAX:g}",
            )
            for entry in large[:_SHOWN]
        ],
        consequence="They become infinite when they are loaded, and the answers are empty.",
        remedy="serve in bfloat16: engine.dtype: bfloat16"
        + ("" if asked else ", and set torch_dtype in config.json to bfloat16"),
        source="IEEE 754 binary16; vllm 0.32 config/model.py _get_and_verify_dtype",
    )


def _tensors(count: int, one: str, many: str) -> str:
    return f"1 tensor {one}" if count == 1 else f"{count} tensors {many}"


CHECKS = (
    Check(
        id="ckpt.finite",
        run=check_finite,
        cause="Training diverged, or bfloat16 weights were converted to float16, which ends at "
        "65504.",
        evidence="Every value of every weight that can be infinite or not a number. Where the "
        "model would be served in float16, also values above 65504.",
        example="1 tensor holds values that are infinite or not a number",
        remedy="Go back to a checkpoint from before training diverged; convert to bfloat16 "
        "instead of float16.",
    ),
)
"""The checks of this theme, in the order in which they run."""
