"""Small real tokenizers of the two kinds that the families have, and the families' templates.

They are trained in a fraction of a second on a few sentences; byte level or byte fallback lets them
take any text. Special tokens have the names of the public checkpoints.
"""

import json
from collections.abc import Iterator
from typing import Any

from vlmserve.platform import cure_torch_extensions

_WORDS_OF_QUESTIONS = (
    "What color is the shape? Name the color. What shape is this? Are the two shapes the same? "
    "Which image has a red circle? What is the sum? Describe the picture in one sentence, please. "
)
_WORDS_OF_ANSWERS = (
    "red green blue yellow teal olive coral circle square triangle star first second third fourth "
    "yes no one two three. There is a small cat on the left side of the table, next to a lamp."
)
_WORDS_OF_TEMPLATES = (
    "system\nuser\nassistant\nYou are a helpful assistant.\n A chat between a curious user and an "
    "artificial intelligence assistant. USER: ASSISTANT: "
)
_REPEATS = 3  # a pair must be seen twice to be merged

_END_OF_TEXT, _IM_END, _UNKNOWN, _PAD = "<|endoftext|>", "<|im_end|>", "<unk>", "<pad>"

QWEN2_SPECIAL = (
    _END_OF_TEXT,
    "<|im_start|>",
    _IM_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

INTERNVL_MEDIA = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""InternVL's tokens, by the names under which its tokenizer keeps them."""

_QWEN_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content"
    " or 'image_url' in content %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n"
)
_QWEN_TURNS = (
    "<|im_start|>{{ message['role'] }}\n" + _QWEN_CONTENT + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + _QWEN_TURNS
)
"""Says what those of Qwen2-VL and Qwen2.5-VL say, with their default system message."""

QWEN3_TEMPLATE = "{% for message in messages %}" + _QWEN_TURNS
"""Says what Qwen3-VL's says, which has no default system message."""

ONEVISION_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% if message['content'] is string %}{{ '\n' + message['content'] }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + content['text'] }}{% endfor %}{% endif %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Says what LLaVA-OneVision's says."""

INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Says what InternVL3's says."""

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Says what LLaVA-1.5's says."""

MISTRAL_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ '<<SYS>>\n' + "
    "(message['content'] if message['content'] is string else message['content'][0]['text']) "
    "+ '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{% endif %}{{ ' [/INST]' }}{% else %}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] + '</s> ' }}{% else %}"
    "{{ ' ' + message['content'][0]['text'] + '</s> ' }}{% endif %}{% endif %}{% endfor %}"
)
"""Says what that of LLaVA-1.6-Mistral says."""


def create_qwen_tokenizer(template: str, *tokens: str, **named: str) -> Any:
    """A byte-level BPE of transformers' ``Qwen2Tokenizer``; special tokens follow the words.

    Args:
        template: The chat template.
        *tokens: Further special tokens.
        **named: The same, for those that the tokenizer keeps under a name.
    """
    cure_torch_extensions()
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        eos_token=_IM_END,
        pad_token=_END_OF_TEXT,
        unk_token=None,
        model_max_length=32768,
        **({"extra_special_tokens": named} if named else {}),
    )
    special = [*QWEN2_SPECIAL, *tokens, *named.values()]
    tokenizer.add_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.chat_template = template
    return tokenizer


def create_llama_tokenizer(template: str) -> Any:
    """A BPE with byte fallback of transformers' ``LlamaTokenizer``, as in LLaVA."""
    cure_torch_extensions()
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token=_UNKNOWN))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [_UNKNOWN, "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(vocab_size=440, special_tokens=special, show_progress=False),
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = LlamaTokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],
        pad_token=_PAD,
        add_bos_token=True,
        model_max_length=4096,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.chat_template = template
    return tokenizer


def _corpus() -> Iterator[str]:
    for _ in range(_REPEATS):
        yield from (_WORDS_OF_QUESTIONS, _WORDS_OF_ANSWERS, _WORDS_OF_TEMPLATES)
