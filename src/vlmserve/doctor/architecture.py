"""Is the model one that vLLM has?"""

from collections.abc import Iterator

from vlmserve.checkpoint.adapter import CONFIG_NAME
from vlmserve.checkpoint.families import unsupported_reason
from vlmserve.checkpoint.source import Checkpoint
from vlmserve.doctor.check import Check
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import Evidence, Finding, Outcome, shown_path

# What the language models inside vision-language ones declare on their own.
_TEXT_MODELS = frozenset(
    {
        "GemmaForCausalLM",
        "InternLM2ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    }
)


def check_architecture(exam: Examination) -> Iterator[Outcome]:
    """``ckpt.architecture``: vLLM is known to lack the model class, or adapters for it."""
    checkpoint = exam.checkpoint
    family, name = checkpoint.family, checkpoint.architecture
    reason = unsupported_reason(name)
    if reason is not None:
        traps = () if family is None else family.traps
        beware = f" Known of this family: {'; '.join(traps)}." if traps else ""
        yield Finding(
            id="ckpt.architecture",
            title=f"vLLM 0.32 has no {name}",
            evidence=[_architecture_evidence(checkpoint)],
            consequence=f"vLLM refuses to start.{beware}",
            remedy=reason,
            source="vllm 0.32 model_executor/models/registry.py",
        )
    elif name in _TEXT_MODELS:
        yield Finding(
            id="ckpt.architecture",
            title=f"{name} is a text model: it takes no images",
            evidence=[_architecture_evidence(checkpoint)],
            consequence="vLLM serves the text model alone. A step of an original LLaVA's LoRA run "
            "looks like this: its projector is in DeepSpeed's shards only, and what makes it a "
            "vision-language model in the run's last directory.",
            remedy="take the last directory of the run, which has config.json and "
            "non_lora_trainables.bin"
            if checkpoint.adapter is not None
            else "copy config.json from the vision-language model that it was trained from",
            source="vllm 0.32 model_executor/models/registry.py; LLaVA#1245, LLaVA#1566",
            severity="warn",
        )
    elif checkpoint.adapter is not None and family is not None and not family.supports_lora:
        yield Finding(
            id="ckpt.architecture",
            title=f"vLLM 0.32 takes no adapter for {name}",
            evidence=[
                Evidence(file=CONFIG_NAME, key="peft_type", value="LORA"),
                _architecture_evidence(checkpoint),
            ],
            consequence="vLLM refuses to start.",
            remedy="merge the adapter into its base with PEFT's merge_and_unload, and serve that",
            source="vllm 0.32 v1/worker/lora_model_runner_mixin.py load_lora_model",
        )


def _architecture_evidence(checkpoint: Checkpoint) -> Evidence:
    # Beside an adapter there may be a configuration of its own, which then wins.
    is_base = checkpoint.config is checkpoint.model.config
    path = (checkpoint.model.path if is_base else checkpoint.path) / "config.json"
    named = checkpoint.config.get("architectures")
    key = "architectures" if isinstance(named, list) and named else "model_type"
    # InternLM-XComposer 4KHD declares the text model's class and means another.
    is_told = key == "model_type" or checkpoint.architecture in (named or ())
    return Evidence(
        file=shown_path(path, checkpoint),
        key=key if is_told else "auto_map",
        value=checkpoint.architecture,
    )


CHECKS = (
    Check(
        id="ckpt.architecture",
        run=check_architecture,
        cause="The model's own code trained it, and vLLM has no implementation of that class; or "
        "it has one that takes no adapters.",
        evidence="`architectures` and `auto_map` of `config.json` against what vLLM 0.32 is known"
        " to lack.",
        example="vLLM 0.32 has no LlavaLlamaForCausalLM",
        remedy="Convert it to the transformers format where there is one; the finding says how.",
        leftovers=True,
    ),
)
"""The checks of this theme, in the order in which they run."""
