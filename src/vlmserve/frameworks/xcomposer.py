"""The conversation that InternLM-XComposer's own scripts train with.

Read from finetune/data_mix.py ``conv2text`` and modeling_internlm_xcomposer2.py
``mask_human_targets`` at 0f70c3e (26 May 2025). Every turn that is not a user's is written as the
assistant's, a system turn too; what is learned is decided by counting end tokens.
"""

from vlmserve.frameworks.template import FrameworkTemplate

END_ID = 92542
"""Id of ``[UNUSED_TOKEN_145]``, written as a number into the model's code."""

EOS_ID = 2
"""Id of ``</s>``, likewise."""

HEADER_TOKENS = 6
"""Tokens from the end token to the answer: the end, ``\\n``, ``[UNUSED_TOKEN_146]``, ``ass``,
``istant`` and ``\\n`` in the stock tokenizer; likewise a number in the code."""

CONV2TEXT = FrameworkTemplate(
    framework="xcomposer",
    name="conv2text",
    user="[UNUSED_TOKEN_146]user\n{query}[UNUSED_TOKEN_145]\n",
    answer="[UNUSED_TOKEN_146]assistant\n{answer}",
    separator="[UNUSED_TOKEN_145]\n",
    suffix="[UNUSED_TOKEN_145]\n</s>",
    image_token="<ImageHere>",  # noqa: S106
    adds_bos=True,
    strips=True,
    others_answer=True,
    labelling="xcomposer-ids",
    source="InternLM-XComposer finetune/data_mix.py, modeling_internlm_xcomposer2.py (26 May 2025)",
)

TEMPLATES: dict[str, FrameworkTemplate] = {CONV2TEXT.name: CONV2TEXT}
"""There is one."""
