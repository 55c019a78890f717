"""The cure for mixed batches, on vLLM's own operators."""

import pytest

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("operator", ["shrink", "expand", "expand_slice"])
def test_tokens_without_adapter_get_nothing(operator: str) -> None:
    import torch

    from vlmserve.engine import cpu_lora

    cpu_lora.install()
    cpu_lora.install()
    from vllm.lora.ops.torch_ops import lora_ops

    torch.manual_seed(0)
    indices = torch.tensor([0, -1, 1, -1])
    inputs = torch.randn(4, 3)
    # Two slots of adapters that map 3 values to 5; the last one is what -1 would address.
    weights = torch.randn(2, 1, 5, 3)
    output = torch.zeros(4, 5)

    if operator == "shrink":
        lora_ops.bgmv_shrink(inputs, weights, output, indices, 2.0)
        scale = 2.0
    elif operator == "expand":
        lora_ops.bgmv_expand(inputs, weights, output, indices, add_inputs=True)
        scale = 1.0
    else:
        lora_ops.bgmv_expand_slice(inputs, weights, output, indices, 0, 5, add_inputs=True)
        scale = 1.0

    for row, index in enumerate(indices.tolist()):
        expected = torch.zeros(5) if index < 0 else scale * (weights[index, 0] @ inputs[row])
        torch.testing.assert_close(output[row], expected)


def test_batches_without_such_tokens_are_passed_on_as_they_are() -> None:
    import torch

    from vlmserve.engine.cpu_lora import _without_adapterless_tokens

    seen = []
    cured = _without_adapterless_tokens(lambda *args: seen.append(args))
    inputs, indices = torch.ones(2, 3), torch.tensor([0, 1])
    cured(inputs, None, None, indices, "more")

    assert seen[0][0] is inputs
    assert seen[0][3] is indices
    assert seen[0][4] == "more"


def test_logits_of_a_prompt_are_left_alone() -> None:
    import torch

    from vlmserve.engine import cpu_lora

    cpu_lora.install()
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    wrapper = PunicaWrapperCPU(max_num_batched_tokens=8, max_batches=4, device="cpu")
    wrapper._sampler_indices = torch.tensor([0, 0])
    wrapper.indices_len = [2, 2, 2, 2]
    assert wrapper.sampler_indices.shape == (2,)
    hidden, lora_a = torch.randn(5, 3), torch.randn(1, 1, 2, 3)
    logits = torch.randn(5, 7)
    before = logits.clone()

    wrapper.add_lora_logits(logits, hidden, lora_a, torch.zeros(1, 1, 7, 2), 1.0)
    assert torch.equal(logits, before)
    with pytest.raises(RuntimeError, match="adapter on lm_head"):
        wrapper.add_lora_logits(logits, hidden, lora_a, torch.ones(1, 1, 7, 2), 1.0)
    # One row for each request is vLLM's own case.
    wrapper.add_lora_logits(logits[:2], hidden[:2], lora_a, torch.ones(1, 1, 7, 2), 1.0)
    assert not torch.equal(logits[:2], before[:2])
