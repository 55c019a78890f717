"""One file a model family: its tensors, formats and known traps."""

from collections.abc import Mapping
from typing import Any

from vlmserve.checkpoint.families.base import Component, Family, TensorSpec
from vlmserve.checkpoint.families.internvl import InternVL, InternVLChat
from vlmserve.checkpoint.families.llava import Llava
from vlmserve.checkpoint.families.llava_next import LlavaNext
from vlmserve.checkpoint.families.llava_onevision import LlavaOnevision
from vlmserve.checkpoint.families.llava_original import LlavaOriginal, is_llava_original
from vlmserve.checkpoint.families.mplug_owl2 import MplugOwl2
from vlmserve.checkpoint.families.mplug_owl3 import MplugOwl3
from vlmserve.checkpoint.families.qwen2_5_vl import Qwen25VL
from vlmserve.checkpoint.families.qwen2_vl import Qwen2VL
from vlmserve.checkpoint.families.qwen3_vl import Qwen3VL
from vlmserve.checkpoint.families.unsupported import unsupported_reason
from vlmserve.checkpoint.families.xcomposer2 import XComposer2

__all__ = [
    "FAMILIES",
    "Component",
    "Family",
    "TensorSpec",
    "find_architecture",
    "find_family",
    "is_llava_original",
    "unsupported_reason",
]

FAMILIES: tuple[Family, ...] = (
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    Llava(),
    LlavaNext(),
    LlavaOnevision(),
    InternVL(),
    InternVLChat(),
    LlavaOriginal(),
    XComposer2(),
    MplugOwl2(),
    MplugOwl3(),
)
"""The families whose tensors are known here; ``served`` says which of them vLLM has. vLLM serves
more; those are not checkable."""


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a model's configuration, or ``None`` when it is not known here."""
    architecture = find_architecture(config)
    return next((family for family in FAMILIES if architecture in family.architectures), None)


def find_architecture(config: Mapping[str, Any]) -> str | None:
    """The model class that a configuration asks for.

    ``auto_map`` goes before ``architectures`` where it names InternLM-XComposer: its 4KHD variant
    declares the text model's class, which would load and then fail.
    """
    auto_map = config.get("auto_map")
    if isinstance(auto_map, dict):
        for target in auto_map.values():
            name = str(target).rpartition(".")[2]
            if name.startswith("InternLMXComposer"):
                return name.replace("Config", "ForCausalLM")
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return str(architectures[0])
    # Some trainers drop the key; the model type names the class just as well.
    model_type = str(config.get("model_type"))
    named = (family.architecture_for(model_type) for family in FAMILIES)
    return next((name for name in named if name is not None), None)
