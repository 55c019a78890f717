"""Names and limits that were copied from vLLM, against the installed vLLM."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from vlmserve.checkpoint.adapter import MAX_LORA_RANK
from vlmserve.checkpoint.families import FAMILIES, unsupported_reason
from vlmserve.checkpoint.families.unsupported import _REASONS
from vlmserve.doctor.adapters import _PLAIN_INITS, _REFUSED

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]

SERVED = [family for family in FAMILIES if family.served]
NAMES = [
    "visual.blocks.0.attn.qkv.weight",
    "model.visual.merger.mlp.0.weight",
    "model.layers.0.mlp.up_proj.weight",
    "model.language_model.layers.0.mlp.up_proj.weight",
    "language_model.model.layers.0.mlp.up_proj.weight",
    "language_model.lm_head.weight",
    "lm_head.weight",
    "model.embed_tokens.weight",
    "vision_tower.vision_model.embeddings.class_embedding",
    "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
    "vision_tower.embeddings.class_embedding",
    "vision_tower.transformer.layers.0.feed_forward.up_proj.weight",
    "model.multi_modal_projector.linear_1.weight",
    "multi_modal_projector.linear_1.bias",
    "model.image_newline",
    "image_newline",
]

# In a process of its own: vLLM's import takes long and changes much.
PROGRAM = """
import json, sys
from importlib import import_module
from typing import get_args
from vllm.config.lora import MaxLoRARanks
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.models.interfaces import supports_lora
from vllm.model_executor.models.registry import ModelRegistry
from vllm.plugins import load_general_plugins

load_general_plugins()
architectures, names, refused, inits = json.load(sys.stdin)
found = {"names": {}, "tower": {}, "embedding": {}, "lora": {}}
for architecture in architectures:
    cls = ModelRegistry.models[architecture].load_model_cls()
    mapper = cls.hf_to_vllm_mapper
    found["names"][architecture] = [mapper.map_name(name) for name in names]
    found["lora"][architecture] = supports_lora(cls)
    found["tower"][architecture] = cls.supports_tower_connector_lora
for module, cls in (("qwen2", "Qwen2ForCausalLM"), ("llama", "LlamaForCausalLM"),
                    ("mistral", "MistralForCausalLM"), ("qwen3", "Qwen3ForCausalLM"),
                    ("qwen3_vl", "Qwen3LLMForCausalLM")):
    cls = getattr(import_module(f"vllm.model_executor.models.{module}"), cls)
    found["embedding"][module] = bool(getattr(cls, "embedding_modules", None))
found["max_rank"] = max(get_args(MaxLoRARanks))
def complaints(**settings):
    helper = PEFTHelper(r=2, lora_alpha=2, target_modules=["q"], **settings)
    return len(helper._validate_features())
found["refused"] = {name: complaints(**{name: [1]}) for name in refused}
found["inits"] = {name: complaints(init_lora_weights=name) for name in inits}
found["saved"] = [complaints(modules_to_save=[name]) for name in ("lm_head", "score")]
found["supported"] = sorted(ModelRegistry.get_supported_archs())
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def vllm() -> Any:
    architectures = [min(family.architectures) for family in SERVED]
    question = [architectures, NAMES, list(_REFUSED), [*_PLAIN_INITS, "pissa", "olora", "loftq"]]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.rpartition("RESULT")[2])


@pytest.mark.parametrize("family", SERVED, ids=lambda family: family.name)
def test_names_are_mapped_as_vllm_maps_them(vllm: Any, family: Any) -> None:
    ours = [family.canonical(name) for name in NAMES]
    architecture = min(family.architectures)
    assert ours == vllm["names"][architecture]
    assert family.supports_tower_lora == vllm["tower"][architecture]
    assert family.supports_lora == vllm["lora"][architecture]


def test_lora_on_embeddings(vllm: Any) -> None:
    from vlmserve.checkpoint.families.decoder import DECODERS

    ours = {
        "qwen2": DECODERS["qwen2"].embedding_lora,
        "llama": DECODERS["llama"].embedding_lora,
        "mistral": DECODERS["mistral"].embedding_lora,
        "qwen3": DECODERS["qwen3"].embedding_lora,
        "qwen3_vl": DECODERS["qwen3_vl_text"].embedding_lora,
    }
    assert ours == vllm["embedding"]


def test_refusals(vllm: Any) -> None:
    assert vllm["max_rank"] == MAX_LORA_RANK
    assert set(vllm["refused"].values()) == {1}
    accepted = {name for name, complaints in vllm["inits"].items() if not complaints}
    assert accepted == set(_PLAIN_INITS)
    assert vllm["saved"] == [1, 0]


def test_architectures(vllm: Any) -> None:
    supported = set(vllm["supported"])
    assert not supported & set(_REASONS)
    assert not any("XComposer" in name or "owl" in name.lower() for name in supported)
    for family in FAMILIES:
        assert bool(family.architectures & supported) == family.served, family.name
        assert family.architectures <= supported or not family.served
        assert family.served == (unsupported_reason(min(family.architectures)) is None)
