"""Adapters that vLLM would not apply, or not on what they were trained on; parts left out."""

from tests.mutation.mutation import ADAPTER_WEIGHTS, Mutation, rename_tensors, set_key
from tests.mutation.subject import Case


def _old_names(case: Case) -> None:
    """The names of the language model before transformers 4.52."""
    rename_tensors(
        case.checkpoint / ADAPTER_WEIGHTS, r"\.model\.language_model\.layers", ".model.layers_"
    )


def _dora(case: Case) -> None:
    set_key(case.checkpoint / "adapter_config.json", "use_dora", True)


MUTATIONS = (
    Mutation("keys under another prefix", "lora.match", "demo-lora", _old_names, fast=True),
    Mutation("use_dora", "lora.coverage", "demo-lora", _dora, fast=True),
)
