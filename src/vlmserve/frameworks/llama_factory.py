"""The templates that LLaMA-Factory trains vision-language models with.

Read from src/llamafactory/data/{template,mm_plugin,formatter}.py at ff6d4d1 (18 August 2026).
Names are those of ``template:`` in its YAML files. A sample's or the run's system prompt takes the
default's place; opening, turns and answers are cut into tokens apart from each other.
"""

from dataclasses import replace

from vlmserve.frameworks.template import MEDIUM, FrameworkTemplate

_CHATML = FrameworkTemplate(
    framework="llama-factory",
    name="chatml",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n",
    answer="{answer}<|im_end|>\n",
    stop=("<|im_end|>",),
    splits_slots=True,
    source="LLaMA-Factory src/llamafactory/data/template.py (18 August 2026)",
)

_QWEN2_VL = replace(
    _CHATML,
    name="qwen2_vl",
    default_system="You are a helpful assistant.",
    image=f"<|vision_start|>{MEDIUM}<|vision_end|>",
    image_token="<|image_pad|>",  # noqa: S106
    video=f"<|vision_start|>{MEDIUM}<|vision_end|>",
    video_token="<|video_pad|>",  # noqa: S106
)

_QWEN3_VL = replace(_QWEN2_VL, name="qwen3_vl_nothink", default_system=None)

# No opening: the system prompt runs into "USER:" without a blank, and there is no BOS.
_LLAVA = replace(
    _CHATML,
    name="llava",
    system="{system}",
    default_system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    user="USER: {query} ASSISTANT:",
    answer="{answer}{eos}",
    stop=(),
)

_LLAVA_MISTRAL = replace(
    _LLAVA,
    name="llava_next_mistral",
    prefix="{bos}",
    system="{system}\n\n",
    default_system=None,
    user="[INST] {query}[/INST]",
    answer=" {answer}{eos}",
    system_in_query=True,
)

_ALL = (
    _CHATML,
    _QWEN2_VL,
    _QWEN3_VL,
    replace(_QWEN3_VL, name="qwen3_vl", empty_thought="<think>\n\n</think>\n\n"),
    _LLAVA,
    replace(_LLAVA, name="llava_next"),
    replace(_LLAVA, name="llava_next_video", video=MEDIUM),
    replace(_LLAVA, name="vicuna"),
    _LLAVA_MISTRAL,
    replace(_LLAVA_MISTRAL, name="llava_next_video_mistral", video=MEDIUM),
    replace(
        _CHATML,
        name="llava_next_llama3",
        prefix="{bos}",
        system="{bos}<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        user="<|start_header_id|>user<|end_header_id|>\n\n{query}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        answer="{answer}<|eot_id|>",
        stop=("<|eot_id|>", "<|eom_id|>"),
    ),
    replace(_CHATML, name="llava_next_qwen", default_system="You are a helpful assistant."),
    replace(_CHATML, name="llava_next_yi"),
    replace(_CHATML, name="llava_next_video_yi", video=MEDIUM),
    replace(
        _CHATML,
        name="intern_vl",
        prefix="{bos}",
        system="{bos}<|im_start|>system\n{system}<|im_end|>\n",
        default_system="你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"  # noqa: RUF001
        "清华大学及多家合作单位联合开发的多模态大语言模型。",
        image=f"<img>{MEDIUM}</img>",
        image_token="<IMG_CONTEXT>",  # noqa: S106
        video=f"Frame1: <img>{MEDIUM}</img>",
        video_token="<IMG_CONTEXT>",  # noqa: S106
    ),
)

TEMPLATES: dict[str, FrameworkTemplate] = {template.name: template for template in _ALL}
"""By the framework's name."""
