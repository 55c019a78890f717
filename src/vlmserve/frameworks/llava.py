"""The conversations that LLaVA's own scripts train with, by ``--version``.

Read from llava/conversation.py and llava/train/train.py at c121f04 (12 May 2024). A version that
is not in the table becomes ``vicuna_v1`` without a word (train.py:905-908). The old versions with
``###`` are left out.
"""

from dataclasses import replace

from vlmserve.frameworks.template import FrameworkTemplate

_USER_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_HUMAN_SYSTEM = _USER_SYSTEM.replace("curious user", "curious human").replace("user's", "human's")
_LLAVA_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

VICUNA_V1 = FrameworkTemplate(
    framework="llava",
    name="v1",
    prefix=f"{_USER_SYSTEM} ",
    user="USER: {query} ASSISTANT:",
    answer=" {answer}",
    separator="</s>",
    suffix="</s>",
    adds_bos=True,
    media_first=True,
    labelling="llava-rounds",
    source="haotian-liu/LLaVA llava/conversation.py, llava/train/train.py (12 May 2024)",
)

_MISTRAL = replace(
    VICUNA_V1,
    name="mistral_instruct",
    prefix="[INST] ",
    user="{query} [/INST]",
    answer=" {answer} ",
    separator="</s>[INST] ",
)

_MPT = replace(
    VICUNA_V1,
    name="mpt",
    prefix="<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers.<|im_end|>",
    user="<|im_start|>user\n{query}<|im_end|><|im_start|>assistant\n",
    answer="{answer}",
    separator="<|im_end|>",
    suffix="<|im_end|>",
    labelling="not known",
)

_ALL = (
    VICUNA_V1,
    replace(VICUNA_V1, name="vicuna_v1"),
    replace(VICUNA_V1, name="llava_v1", prefix=f"{_HUMAN_SYSTEM} "),
    _MISTRAL,
    replace(
        _MISTRAL,
        name="llava_llama_2",
        prefix=f"[INST] <<SYS>>\n{_LLAVA_SYSTEM}\n<</SYS>>\n\n",
        separator="</s><s>[INST] ",
    ),
    _MPT,
    replace(
        _MPT,
        name="chatml_direct",
        prefix="<|im_start|>system\nAnswer the questions.<|im_end|>",
    ),
    replace(
        VICUNA_V1,
        name="plain",
        prefix="",
        user="{query}",
        answer="{answer}",
        separator="\n",
        suffix="\n",
        drops_question=True,
        labelling="llava-plain",
    ),
)

TEMPLATES: dict[str, FrameworkTemplate] = {template.name: template for template in _ALL}
"""By ``--version``."""
