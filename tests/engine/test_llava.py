"""LLaVA as transformers 5 and PEFT save it: the tower's names without a level that vLLM has."""

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engine import media
from tests.mutation import tiny_models
from vlmserve.chat import Completion, ImagePart, Message, SamplingParams, TextPart
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.engine.base import GenerationRequest
from vlmserve.engine.offline import open_offline_engine
from vlmserve.platform import cure_torch_extensions

N_TOKENS = 8
QUESTION = "What is this?"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """``base`` and an adapter of all its linear layers, and the model in memory."""
    cure_torch_extensions()
    import torch
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("llava")
    # vLLM's attention on CPUs takes heads of 32 and wider.
    model = tiny_models.create_model("llava", num_attention_heads=2, num_key_value_heads=1)
    tiny_models.save("llava", model, root / "base")
    template = root / "base" / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    model.config.name_or_path = str(root / "base")
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tuned = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "fc1"]))
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        tuned.save_pretrained(root / "tuned")
    return root, tuned.eval()


def reference(root: Path, model: Any, images: list[bytes]) -> list[list[str]]:
    """Greedy answers of transformers with PEFT; without and with the adapter."""
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(root / "base")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )

    def answer(data: bytes) -> str:
        inputs = processor(
            text=[prompt], images=[Image.open(io.BytesIO(data))], return_tensors="pt"
        )
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=N_TOKENS, do_sample=False)
        text: str = processor.decode(
            output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return text

    with model.disable_adapter():
        before = [answer(data) for data in images]
    return [before, [answer(data) for data in images]]


def test_base_and_adapter_are_served_as_trained(model: tuple[Path, Any], root: Path) -> None:
    folder, tuned = model
    images = [media.png((56, 56), (8 * n, 255 - 8 * n, 16 * (n % 9))) for n in range(24)]
    config = load_config(root / "configs" / "cpu-demo.yaml", ServeConfig)
    checkpoint = load_checkpoint(folder / "tuned", base_model=folder / "base")
    requests = [
        GenerationRequest(
            request_id=f"{name}/{index}",
            model=name,
            messages=(
                Message(
                    role="user",
                    parts=(
                        ImagePart(data=data, content_type="image/png"),
                        TextPart(text=QUESTION),
                    ),
                ),
            ),
            params=SamplingParams(max_tokens=N_TOKENS),
        )
        for name in ("base", "tuned")
        for index, data in enumerate(images)
    ]

    served = {}
    with open_offline_engine(checkpoint, config) as engine:
        for result in engine.generate(requests):
            assert isinstance(result.outcome, Completion), result.outcome
            served[result.request_id] = result.outcome.text

    before, after = reference(folder, tuned, images)
    assert [served[f"base/{index}"] for index in range(len(images))] == before
    assert [served[f"tuned/{index}"] for index in range(len(images))] == after
    # What is seen matters, or a tower without its adapter would go unnoticed.
    assert len(set(after)) > 1
    assert before != after
