"""LLaVA as transformers 5 and PEFT save it: the tower's names without a level that vLLM has."""

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.engine import media
from tests.mutation import tiny_models
from vlmserve.chat import ImagePart, Message, TextPart
from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.config.base import load_config
from vlmserve.config.serve import ServeConfig
from vlmserve.engine.base import ScoringRequest, TargetLogprobs
from vlmserve.engine.offline import open_offline_engine
from vlmserve.platform import cure_torch_extensions

QUESTION, TARGET = "What is this?", "a red square"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """``base`` and ``tuned``, an adapter of tower and decoder; and the model in memory."""
    cure_torch_extensions()
    import torch
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("llava")
    # vLLM's attention on CPUs takes heads of 32 and wider.
    model = tiny_models.create_model("llava", num_attention_heads=2, num_key_value_heads=1)
    tiny_models.save("llava", model, root / "base")
    model.config.name_or_path = str(root / "base")
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        tuned = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj", "fc1"]))
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        tuned.save_pretrained(root / "tuned")
    return root, tuned.eval()


def reference(root: Path, model: Any, image: bytes, token_ids: tuple[int, ...]) -> Any:
    """What transformers with PEFT gives the tokens, from the same prompt; shape ``(n,)``."""
    import torch
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(root / "base")
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(
        text=[prompt],
        images=[Image.open(io.BytesIO(image))],
        return_tensors="pt",
        add_special_tokens=False,
    )
    answer = torch.tensor([token_ids])
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=inputs["pixel_values"],
        ).logits
    logprobs = logits[0, -len(token_ids) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, answer.T)[:, 0]


def test_base_and_adapter_are_served_as_trained(model: tuple[Path, Any], root: Path) -> None:
    import torch

    folder, tuned = model
    images = [media.png((56, 56), (80 * n, 255 - 80 * n, 40)) for n in range(4)]
    config = load_config(root / "configs" / "cpu-demo.yaml", ServeConfig)
    checkpoint = load_checkpoint(folder / "tuned", base_model=folder / "base")
    requests = [
        ScoringRequest(
            request_id=f"{name} {index}",
            model=name,
            messages=(
                Message(
                    role="user",
                    parts=(
                        ImagePart(data=image, content_type="image/png"),
                        TextPart(text=QUESTION),
                    ),
                ),
            ),
            target=TARGET,
        )
        for name in ("base", "tuned")
        for index, image in enumerate(images)
    ]

    with open_offline_engine(checkpoint, config) as engine:
        served = {result.request_id: result.outcome for result in engine.score(requests)}

    expected = {}
    for index, image in enumerate(images):
        found = served[f"tuned {index}"]
        assert isinstance(found, TargetLogprobs), found
        expected[f"tuned {index}"] = reference(folder, tuned, image, found.token_ids)
        with tuned.disable_adapter():
            expected[f"base {index}"] = reference(folder, tuned, image, found.token_ids)
        tuned.base_model.enable_adapter_layers()
    for name, outcome in served.items():
        assert isinstance(outcome, TargetLogprobs), outcome
        assert torch.allclose(torch.tensor(outcome.logprobs), expected[name], atol=1e-4), name
    # What is seen matters, and so does the adapter: otherwise nothing was tested.
    assert not torch.allclose(expected["tuned 0"], expected["tuned 1"], atol=1e-3)
    assert not torch.allclose(expected["tuned 0"], expected["base 0"], atol=1e-1)
