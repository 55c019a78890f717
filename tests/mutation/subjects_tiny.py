"""Tiny random checkpoints of every family that transformers has, and fine-tunes of them.

Each is a base and the same model with every weight moved a little, in the layout of the version of
transformers that its name tells, with the ``trainer_state.json`` of a plain ``Trainer``.
"""

from collections.abc import Callable
from pathlib import Path

from tests.mutation.layouts import as_llava_4, as_qwen_4
from tests.mutation.side_files import write_trainer_state
from tests.mutation.subject import Subject
from tests.mutation.subjects_demo import draw_samples, write_heldout, write_llava, write_swift

_ROUNDS = 3
_SHARDS = 3

Layout = Callable[[Path], None]


def build_pair(
    root: Path,
    family: str,
    layout: Layout | None = None,
    *,
    dtype: str = "float32",
    shards: int = 1,
) -> None:
    """Write ``base/`` and ``checkpoint/``, a fine-tune of all of it."""
    import torch

    from tests.mutation import tiny_models

    model = tiny_models.create_model(family).to(getattr(torch, dtype))
    for name in ("base", "checkpoint"):
        if name == "checkpoint":
            # bfloat16 has three digits: smaller changes are lost.
            tiny_models.perturb(model, share=0.01 if dtype == "float32" else 0.05)
        tiny_models.save(family, model, root / name, shards=shards)
        if layout is not None:
            layout(root / name)
    write_trainer_state(root / "checkpoint")


def _hf(family: str, layout: Layout | None = None, **options: object) -> Callable[[Path], None]:
    """Return what builds a pair with an ms-swift data set, or LLaVA's own for LLaVA."""

    def build(root: Path) -> None:
        build_pair(root, family, layout, **options)  # type: ignore[arg-type]
        if family == "llava":
            write_llava(root / "data" / "train.json", draw_samples(_ROUNDS))
        else:
            write_swift(root / "data" / "train.jsonl", draw_samples(_ROUNDS))
        write_heldout(root)

    return build


SUBJECTS = (
    Subject("qwen2-vl", "Qwen2-VL, transformers 5", _hf("qwen2_vl")),
    Subject(
        "qwen2-vl-4x",
        "Qwen2-VL, transformers 4.49",
        _hf("qwen2_vl", lambda path: as_qwen_4(path, "4.49.0")),
    ),
    Subject(
        "qwen2.5-vl",
        "Qwen2.5-VL in bfloat16, transformers 5",
        _hf("qwen2_5_vl", dtype="bfloat16"),
    ),
    Subject(
        "qwen2.5-vl-4x",
        "Qwen2.5-VL, transformers 4.51",
        _hf("qwen2_5_vl", lambda path: as_qwen_4(path, "4.51.3")),
    ),
    Subject(
        "qwen3-vl", "Qwen3-VL in three shards, transformers 5", _hf("qwen3_vl", shards=_SHARDS)
    ),
    Subject(
        "llava-1.5",
        "LLaVA-1.5, transformers 5",
        _hf("llava"),
        data="data/train.json",
    ),
    Subject(
        "llava-1.5-4x",
        "LLaVA-1.5, transformers 4.49",
        _hf("llava", lambda path: as_llava_4(path, "4.49.0")),
        data="data/train.json",
    ),
    Subject(
        "llava-next",
        "LLaVA-NeXT, transformers 5",
        _hf("llava_next"),
    ),
    Subject(
        "llava-onevision",
        "LLaVA-OneVision, transformers 5",
        _hf("llava_onevision"),
    ),
    Subject("internvl", "InternVL, transformers 5", _hf("internvl")),
)
