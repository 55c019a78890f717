"""The templates that ms-swift trains vision-language models with.

Read from swift/template/templates/{qwen,llava,internvl,internlm,mplug,llama,microsoft,utils}.py and
the base class in swift/template/base.py at 3602360 (22 August 2026). Names are those of
``args.json: template``.
"""

from dataclasses import replace

from vlmserve.frameworks.template import MEDIUM, FrameworkTemplate

_SOURCE = "ms-swift swift/template/templates/{} (22 August 2026)"

CHATML = FrameworkTemplate(
    framework="ms-swift",
    name="chatml",
    system="<|im_start|>system\n{system}<|im_end|>\n",
    user="<|im_start|>user\n{query}<|im_end|>\n<|im_start|>assistant\n",
    separator="<|im_end|>\n",
    suffix="<|im_end|>\n",
    adds_bos=True,
    video="<video>",
    source=_SOURCE.format("utils.py"),
)

_QWEN = replace(
    CHATML,
    name="qwen",
    default_system="You are a helpful assistant.",
    adds_bos=False,
    stop=("<|endoftext|>",),
    source=_SOURCE.format("qwen.py"),
)

_QWEN2_VL = replace(
    _QWEN,
    name="qwen2_vl",
    image=f"<|vision_start|>{MEDIUM}<|vision_end|>",
    image_token="<|image_pad|>",  # noqa: S106
    video=f"<|vision_start|>{MEDIUM}<|vision_end|>",
    video_token="<|video_pad|>",  # noqa: S106
)

_VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)

_LLAVA1_5 = FrameworkTemplate(
    framework="ms-swift",
    name="llava1_5_hf",
    prefix="<s>",
    system="<s>{system}\n",
    user="USER: {query}\nASSISTANT:",
    separator="</s>",
    suffix="</s>",
    image=f"{MEDIUM}\n",
    source=_SOURCE.format("llava.py"),
)

# The registered form says {{system}} where {{SYSTEM}} is replaced: a system prompt is lost, and
# the braces are trained with.
_LLAVA_MISTRAL = replace(
    _LLAVA1_5,
    name="llava1_6_mistral_hf",
    prefix="<s>[INST] ",
    system="<<SYS>>\n{{system}}\n<</SYS>>\n\n",
    user="{query} [/INST]",
    separator="</s>[INST] ",
)

_LLAMA3 = FrameworkTemplate(
    framework="ms-swift",
    name="llama3_llava_next_hf",
    prefix="<|begin_of_text|>",
    system="<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{query}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    separator="<|eot_id|>",
    suffix="<|eot_id|>",
    image=f"{MEDIUM}\n",
    source=_SOURCE.format("llava.py, llama.py"),
)

_LLAVA_LLAMA3_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

_INTERNVL = replace(
    CHATML,
    name="internvl",
    default_system="You are an AI assistant whose name is InternLM (书生·浦语).",
    image=f"<img>{MEDIUM}</img>\n",
    image_token="<IMG_CONTEXT>",  # noqa: S106
    video=None,
    source=_SOURCE.format("internvl.py"),
)

# A video is written frame by frame: Frame1: <img>...</img>, Frame2: ...
_INTERNVL2 = replace(
    _INTERNVL,
    name="internvl2",
    default_system="你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "  # noqa: RUF001
    "是一个有用无害的人工智能助手。",
    video=f"Frame1: <img>{MEDIUM}</img>\n",
    video_token="<IMG_CONTEXT>",  # noqa: S106
)

_PHI3 = replace(
    _INTERNVL2,
    name="internvl2_phi3",
    system="<|system|>\n{system}<|end|>\n",
    user="<|user|>\n{query}<|end|>\n<|assistant|>\n",
    separator="<|end|>\n",
    suffix="<|end|>",
)

_XCOMPOSER_SYSTEM = (
    "You are an AI assistant whose name is InternLM-XComposer (浦语·灵笔).\n"
    "- InternLM-XComposer (浦语·灵笔) is a {} that is developed by "
    "Shanghai AI Laboratory (上海人工智能实验室). "
    "It is designed to be helpful, honest, and harmless.\n"
    "- InternLM-XComposer (浦语·灵笔) can understand and communicate fluently in the language "
    "chosen by the user such as English and 中文."
)

_XCOMPOSER_IMAGES = (
    "\n- InternLM-XComposer (浦语·灵笔) is capable of comprehending and articulating responses "
    "effectively based on the provided image."
)

# </s> marks the place of an image and is taken out again; before 2.5 BOS follows each image.
_XCOMPOSER2 = FrameworkTemplate(
    framework="ms-swift",
    name="ixcomposer2",
    prefix="<s>",
    system="<s>[UNUSED_TOKEN_146]system\n{system}[UNUSED_TOKEN_145]\n",
    default_system=_XCOMPOSER_SYSTEM.format("conversational language model"),
    user="[UNUSED_TOKEN_146]user\n{query}[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n",
    separator="[UNUSED_TOKEN_145]\n",
    suffix="[UNUSED_TOKEN_145]",
    image=f"{MEDIUM}<s>",
    image_token="</s>",  # noqa: S106
    stop=("<|im_end|>",),
    source=_SOURCE.format("internlm.py"),
)

_XCOMPOSER2_5 = replace(
    _XCOMPOSER2,
    name="xcomposer2_5",
    default_system=_XCOMPOSER_SYSTEM.format("multi-modality conversational language model")
    + _XCOMPOSER_IMAGES,
    image=MEDIUM,
    video=MEDIUM,
    video_token="</s>",  # noqa: S106
)

_MPLUG_OWL2 = FrameworkTemplate(
    framework="ms-swift",
    name="mplug_owl2",
    system="{system}",
    user="USER: {query}ASSISTANT:",
    separator="</s>",
    suffix="{eos}",
    stop=("<|endoftext|>", "</s>"),
    image_token="<|image|>",  # noqa: S106
    source=_SOURCE.format("mplug.py"),
)

_MPLUG_OWL3 = replace(
    _QWEN,
    name="mplug_owl3",
    prefix="<|im_start|>system\n<|im_end|>\n",
    default_system=None,
    image=f"{MEDIUM}\n",
    image_token="<|image|>",  # noqa: S106
    video=f"{MEDIUM}\n",
    video_token="<|image|>",  # noqa: S106
    source=_SOURCE.format("mplug.py"),
)

_ALL = (
    CHATML,
    _QWEN,
    replace(
        _QWEN,
        name="qwen2_5",
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
    _QWEN2_VL,
    replace(_QWEN2_VL, name="qwen2_5_vl"),
    replace(_QWEN2_VL, name="qwen3_vl", default_system=None, video=MEDIUM),
    _LLAVA1_5,
    _LLAVA_MISTRAL,
    replace(_LLAVA_MISTRAL, name="llava1_6_mistral"),
    replace(
        _LLAVA1_5,
        name="llava1_6_vicuna_hf",
        system="<s>{system} ",
        default_system=_VICUNA_SYSTEM,
        user="USER: {query} ASSISTANT:",
    ),
    replace(
        _LLAVA1_5,
        name="llava_next_video_hf",
        prefix=" ",
        system="{system} ",
        user="USER: {query} ASSISTANT:",
        separator=" ",
        suffix="{eos}",
        adds_bos=True,
        video=f"{MEDIUM}\n",
    ),
    replace(CHATML, name="llava1_6_yi_hf", image=f"{MEDIUM}\n", video=None),
    _LLAMA3,
    replace(_LLAMA3, name="llava_llama3_1_hf", default_system=_LLAVA_LLAMA3_SYSTEM),
    replace(_LLAMA3, name="llava_llama3_hf"),
    replace(_QWEN, name="llava_next_qwen_hf", image=f"{MEDIUM}\n", video=None),
    replace(_QWEN, name="llava_onevision_hf", default_system=None, image=f"{MEDIUM}\n", video=None),
    _INTERNVL,
    _INTERNVL2,
    replace(
        _INTERNVL2,
        name="internvl2_5",
        default_system="你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"  # noqa: RUF001
        "清华大学及多家合作单位联合开发的多模态大语言模型。",
    ),
    replace(_INTERNVL2, name="internvl3_5", default_system=None),
    replace(_INTERNVL2, name="internvl_hf", default_system=None, video=MEDIUM),
    _PHI3,
    replace(
        _PHI3,
        name="internvl_phi3",
        default_system="You are an AI assistant whose name is Phi-3.",
        video=None,
    ),
    _XCOMPOSER2,
    _XCOMPOSER2_5,
    replace(_XCOMPOSER2_5, name="xcomposer2_4khd", image=f"{MEDIUM}<s>", video=None),
    _MPLUG_OWL2,
    _MPLUG_OWL3,
    replace(_MPLUG_OWL3, name="mplug_owl3_241101"),
)

TEMPLATES: dict[str, FrameworkTemplate] = {template.name: template for template in _ALL}
"""By the framework's name."""
