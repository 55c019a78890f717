"""The pass over every weight that the checks of values share. Importing it imports numpy."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmserve.checkpoint.scan import ScannedTensor, scan_tensors
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.errors import CheckpointError

if TYPE_CHECKING:
    from vlmserve.doctor.examination import Examination


@dataclass(frozen=True)
class ModelScan:
    """What the values of a model are like, alone and beside its base's."""

    tensors: tuple[ScannedTensor, ...]
    """By canonical name where the family is known, else by the name in the file."""

    base: Checkpoint | None
    """What they were compared with; ``None`` where there was nothing to compare with."""

    problem: str | None
    """Why they were not compared with the base, where one is known."""


def scan_model(exam: "Examination") -> ModelScan:
    """Read every weight of the model that is loaded, and of its base's beside it.

    The model under an adapter is its base, which is read alone.

    Raises:
        CheckpointError: A weight file of the model is broken. One of the base's is only noted.
    """
    checkpoint = exam.checkpoint
    ours = canonical_tensors(checkpoint)
    base = None if checkpoint.adapter is not None else checkpoint.base
    theirs: dict[str, TensorInfo] = {}
    problem = None
    if base is not None:
        try:
            theirs = canonical_tensors(base)
        except CheckpointError as error:
            problem = f"the base cannot be read: {error.message}"
        else:
            if not theirs.keys() & ours.keys():
                problem = f"no tensor of the base {base.path} has the name of one here"
    tensors = scan_tensors(
        ours,
        theirs,
        progress=lambda done, total: exam.progress("weights", done, total),
    )
    return ModelScan(tensors, None if problem else base, problem)


def canonical_tensors(checkpoint: Checkpoint) -> dict[str, TensorInfo]:
    """The tensors of the model that is loaded by vLLM's names, which no layout changes.

    Raises:
        CheckpointError: A weight file is missing or broken, or is a pickle that cannot be
            followed without running it.
    """
    family = checkpoint.family
    return {
        name if family is None else family.canonical(name): tensor
        for name, tensor in checkpoint.tensors.items()
    }


def served_in_float16(exam: "Examination") -> bool:
    """Whether weights would be turned into float16 when they are loaded.

    Either the serve configuration says so, or it leaves it to ``config.json``, which does
    (vllm 0.32 config/model.py ``_get_and_verify_dtype``).
    """
    config = exam.checkpoint.config
    text = config.get("text_config")
    sections = (config, text if isinstance(text, dict) else {})
    recorded = next(
        (
            str(value)
            for section in sections
            for key in ("dtype", "torch_dtype")
            if (value := section.get(key)) is not None
        ),
        "",
    )
    asked = exam.serve.engine.dtype
    return (recorded if asked == "auto" else asked).removeprefix("torch.") in ("float16", "half")
