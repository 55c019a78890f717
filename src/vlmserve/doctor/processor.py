"""Is there what turns text and pixels into the model's input?"""

from collections.abc import Iterator, Sequence

from vlmserve.checkpoint.overlay import Gap, find_gaps
from vlmserve.checkpoint.processor import Part, find_processor
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, Unknown, shown_path

_USUAL_FILES: dict[Part, str] = {
    "image processor": "preprocessor_config.json",
    "tokenizer": "tokenizer.json",
    "chat template": "chat_template.jinja",
}


def check_present(exam: Examination) -> Iterator[Outcome]:
    """``proc.present``: image processor, tokenizer and chat template are there or at hand."""
    checkpoint = exam.checkpoint
    if checkpoint.family is not None and not checkpoint.family.served:
        return  # its own code turns text and pixels into input; ckpt.architecture says the rest
    gaps = find_gaps(checkpoint, has_template=exam.serve.server.chat_template is not None)
    yield from _unknown_needs(checkpoint, gaps)
    if not gaps:
        return
    missing = [gap.part for gap in gaps]
    names = " and ".join(missing)
    can_borrow = all(gap.files for gap in gaps)
    donor = checkpoint.path if checkpoint.adapter is not None else None
    if donor is None and checkpoint.base is not None:
        donor = checkpoint.base.path
    evidence = [
        Evidence(
            file=shown_path(checkpoint.model.path / _USUAL_FILES[gap.part], checkpoint),
            key="",
            value=f"neither this nor another file with the {gap.part}",
        )
        for gap in gaps
    ]
    if can_borrow and donor is not None:
        files = ", ".join(name for gap in gaps for name in gap.files)
        evidence.append(Evidence(file=str(donor), key="", value=f"has {files} to borrow"))
        remedy = (
            f"copy {files} from {donor}, or from the training run; vlmserve serve borrows them in "
            "a directory of links and leaves the checkpoint alone"
        )
    else:
        remedy = (
            "give the model it was trained from with --base-model DIR, or copy its processor, "
            "tokenizer and chat template into the checkpoint"
        )
    yield Finding(
        id="proc.present",
        title=f"{names} missing" + (", but at hand in the base model" if can_borrow else ""),
        evidence=evidence,
        consequence="What is borrowed may differ from what was trained with, in image sizes above "
        "all."
        if can_borrow
        else _consequence(missing),
        remedy=remedy,
        source="Qwen-VL-Series-Finetune#34, EasyR1#48; vllm 0.32, observed",
        severity="warn" if can_borrow else "block",
    )


def _unknown_needs(checkpoint: Checkpoint, gaps: Sequence[Gap]) -> Iterator[Outcome]:
    """Parts that are not there, of a model that may do without them."""
    if checkpoint.family is not None:
        return
    found = {gap.part for gap in gaps}
    absent = [part for part in find_processor(checkpoint.model.path).missing if part not in found]
    if absent:
        reason = (
            f"no {' and no '.join(absent)} in {checkpoint.model.path.name}; whether "
            f"{checkpoint.architecture} needs it is not known to vlmserve"
        )
        yield Unknown(id="proc.present", reason=reason)


def _consequence(missing: Sequence[str]) -> str:
    if list(missing) == ["chat template"]:
        return "vLLM starts and fails at the first chat request."
    return "vLLM does not start."


CHECKS = (
    Check(
        id="proc.present",
        run=check_present,
        cause="Trainers save the model, and the tokenizer at best: the processor is saved only "
        "where it was handed to the trainer as such.",
        evidence="Image processor, tokenizer and chat template in any of the layouts of "
        "transformers 4 and 5, in the checkpoint and in its base.",
        example="image processor missing, but at hand in the base model",
        remedy="Copy the files from the base model or the training run; `vlmserve serve` borrows "
        "them without touching the checkpoint.",
    ),
)
"""The checks of this theme, in the order in which they run."""
