"""The fast forward pass and the hand-made encoding are the model's and the processor's own."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vlmserve.demo.encoding import QWEN, TIGHT, SampleEncoder, Template, grid_of
from vlmserve.demo.forward import score_batch
from vlmserve.demo.model import load_shipped_model
from vlmserve.demo.samples import TASKS, Medium, Sample, SampleGenerator, Task
from vlmserve.demo.tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, create_tokenizer


def messages_of(sample: Sample) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for index, turn in enumerate(sample.turns):
        media = sample.media if index == 0 else ()
        content = [{"type": "video" if medium.is_video else "image"} for medium in media]
        text = {"type": "text", "text": turn.question}
        messages.append({"role": "user", "content": [*content, text]})
        messages.append({"role": "assistant", "content": turn.target})
    return messages


def process(processor: Any, messages: list[dict[str, Any]], sample: Sample, **options: Any) -> Any:
    text = processor.apply_chat_template(messages, **options)
    images = [Image.fromarray(m.pixels) for m in sample.media if not m.is_video]
    videos = [m.pixels for m in sample.media if m.is_video]
    return processor(text=[text], images=images or None, videos=videos or None, return_tensors="pt")


@pytest.mark.parametrize("task", TASKS)
def test_encoding_equals_template_processor_and_rope_index(
    task: Task, base: Any, tokenizer: Any, processor: Any
) -> None:
    generator = SampleGenerator(1, "validation", multi_turn=True)
    for _ in range(3):
        sample = generator.sample(task)
        encoded = SampleEncoder(tokenizer).encode(sample)

        inputs = process(processor, messages_of(sample), sample)
        grids = {key: inputs[key] for key in ("image_grid_thw", "video_grid_thw") if key in inputs}
        positions, _ = base.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], **grids
        )

        assert encoded.ids.tolist() == inputs["input_ids"][0].tolist()
        assert np.array_equal(encoded.positions, positions[:, 0].numpy())


@pytest.mark.parametrize("template", [QWEN, TIGHT], ids=["qwen", "tight"])
@pytest.mark.parametrize("task", TASKS)
def test_prompts_equal_the_generation_prompt(
    task: Task, template: Template, tokenizer: Any, processor: Any
) -> None:
    sample = SampleGenerator(8, "validation").sample(task)
    encoded = SampleEncoder(tokenizer, template).encode(sample)
    options = {"chat_template": template.jinja(), "add_generation_prompt": True}

    inputs = process(processor, messages_of(sample)[:-1], sample, **options)

    prompt = encoded.ids[: int((encoded.labels >= 0).argmax())]
    assert prompt.tolist() == inputs["input_ids"][0].tolist()


def test_labels_are_the_answers_and_their_end(tokenizer: Any) -> None:
    sample = SampleGenerator(2, "validation", multi_turn=True).sample("same")

    encoded = SampleEncoder(tokenizer).encode(sample)

    answers = "".join(f"{turn.target}<|im_end|>" for turn in sample.turns)
    assert tokenizer.decode(encoded.labels[encoded.labels >= 0]) == answers


def test_default_template_is_the_chat_template() -> None:
    assert QWEN.jinja() == CHAT_TEMPLATE
    assert TIGHT.jinja() != CHAT_TEMPLATE


def test_a_batch_equals_the_original_one_by_one(base: Any, tokenizer: Any, processor: Any) -> None:
    """Images of mixed sizes, several images, videos and text, in one padded, chunked batch."""
    generator = SampleGenerator(3, "validation", multi_turn=True)
    samples = [generator.sample(task) for task in TASKS for _ in range(2)]
    encoder = SampleEncoder(tokenizer)
    encoded = [encoder.encode(sample) for sample in samples]

    with torch.no_grad():
        score = score_batch(base, samples, encoded, chunks=3)

        for index, sample in enumerate(samples):
            labels = torch.from_numpy(encoded[index].labels)[None]
            output = base(**process(processor, messages_of(sample), sample), labels=labels)
            target = labels[0, 1:]
            greedy = output.logits[0, :-1].argmax(-1)
            exact = bool((greedy == target)[target >= 0].all())
            nll = output.loss.item() * score.tokens[index]
            assert score.nll[index] == pytest.approx(nll, abs=1e-4 * score.tokens[index])
            assert score.exact[index] == exact


def test_exact_is_what_greedy_decoding_answers(base: Any, tokenizer: Any, processor: Any) -> None:
    generator = SampleGenerator(4, "validation")
    samples = [generator.sample(task) for task in ("shape", "order", "video", "newcolor")]
    encoder = SampleEncoder(tokenizer)
    score = score_batch(base, samples, [encoder.encode(sample) for sample in samples])

    for sample, exact in zip(samples, score.exact, strict=True):
        prompt = messages_of(sample)[:-1]
        inputs = process(processor, prompt, sample, add_generation_prompt=True)
        output = base.generate(**inputs, max_new_tokens=8)
        answer = tokenizer.decode(
            output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        assert (answer == sample.turns[0].target) == exact


def test_gradients_equal_the_original(tokenizer: Any, processor: Any) -> None:
    model = load_shipped_model("base")
    sample = SampleGenerator(5, "validation").sample("larger")
    encoded = SampleEncoder(tokenizer).encode(sample)
    parameters = dict(model.named_parameters())

    fast = torch.autograd.grad(
        score_batch(model, [sample], [encoded]).loss, list(parameters.values())
    )
    labels = torch.from_numpy(encoded.labels)[None]
    loss = model(**process(processor, messages_of(sample), sample), labels=labels).loss
    slow = torch.autograd.grad(loss, list(parameters.values()))

    for name, one, other in zip(parameters, fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=name)


def test_a_picture_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="60x56"):
        grid_of(Medium(np.zeros((60, 56, 3), np.uint8)))


def test_vllm_and_transformers_sample_every_frame_of_a_video(processor: Any) -> None:
    """2 frames a second out of a file with 2 frames a second is all of them."""
    from transformers.video_utils import VideoMetadata

    for frames in (4, 6, 8):
        metadata = VideoMetadata(total_num_frames=frames, fps=2)
        indices = processor.video_processor.sample_frames(metadata, fps=2)
        assert indices.tolist() == list(range(frames))


def test_the_shipped_tokenizer_is_the_one_that_training_makes(tokenizer: Any) -> None:
    made = create_tokenizer()

    assert made.get_vocab() == tokenizer.get_vocab()
    for index, name in enumerate(SPECIAL_TOKENS):
        assert tokenizer.convert_tokens_to_ids(name) == index


@pytest.mark.parametrize(
    ("text", "count"), [("orange", 1), (" 47", 3), (" triangle", 1), ("t a c", 3), ("é", 2)]
)
def test_words_are_single_tokens_digits_and_letters_too(
    text: str, count: int, tokenizer: Any
) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    assert len(ids) == count
    assert tokenizer.decode(ids) == text
