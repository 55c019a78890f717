"""Is there what turns text and pixels into the model's input?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmserve.checkpoint.files import read_json_if_present
from vlmserve.checkpoint.overlay import Gap, find_gaps
from vlmserve.checkpoint.processor import Part, find_processor
from vlmserve.checkpoint.processor_defaults import RETIRED_CLASSES
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
    yield from _retired_class(checkpoint)
    gaps = find_gaps(checkpoint, has_template=exam.serve.server.chat_template is not None)
    yield from _unknown_needs(checkpoint, gaps)
    if not gaps:
        return
    missing = [gap.part for gap in gaps]
    names = " and ".join(", ".join(missing).rsplit(", ", 1))
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
        files = ", ".join(_names_in(donor, gap) for gap in gaps)
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


def _names_in(donor: Path, gap: Gap) -> str:
    """The files to copy; a template may be inside another file than the one it is lifted into."""
    if gap.part == "chat template":
        return ", ".join(find_processor(donor).files[gap.part])
    return ", ".join(gap.files)


def _retired_class(checkpoint: Checkpoint) -> Iterator[Outcome]:
    """An image processor of a class that transformers had once."""
    places = (
        ("processor_config.json", "image_processor", "image_processor_type"),
        ("preprocessor_config.json", "image_processor_type"),
    )
    for file, *keys in places:
        path = checkpoint.model.path / file
        named: Any = read_json_if_present(path)
        for key in keys:
            named = named.get(key) if isinstance(named, dict) else None
        if not isinstance(named, str):
            continue
        successor = RETIRED_CLASSES.get(named.removesuffix("Fast"))
        if successor is not None:
            shown = shown_path(path, checkpoint)
            yield Finding(
                id="proc.present",
                title=f"transformers has no {named} any more",
                evidence=[Evidence(file=shown, key=".".join(keys), value=named)],
                consequence="vLLM does not start: it fails to load the processor.",
                remedy=f'set "image_processor_type": "{successor}" in {shown}; its settings stay '
                "as they are",
                source="transformers 5.19 models/auto/image_processing_auto.py; "
                "transformers#36193, unsloth#1747",
            )
        return  # the first file that names a class decides


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
        "where it was handed to the trainer as such. Or they save it with the name of a class that "
        "was renamed since.",
        evidence="Image processor, tokenizer and chat template in any of the layouts of "
        "transformers 4 and 5, in the checkpoint and in its base; the class of the image "
        "processor against those that transformers had once.",
        example="image processor missing, but at hand in the base model",
        remedy="Copy the files from the base model or the training run; `vlmserve serve` borrows "
        "them without touching the checkpoint.",
    ),
)
"""The checks of this theme, in the order in which they run."""
