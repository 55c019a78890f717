"""The demo model's tokenizer: a byte-level BPE over the words that the demo uses.

Digits stay single tokens, so that sums of unseen operands can be worked out digit by digit.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.demo.drawing import COLORS, DIRECTIONS, NEW_COLORS, SHAPES
from vlmserve.demo.samples import LETTERS, ORDINALS, QUESTIONS
from vlmserve.platform import cure_torch_extensions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
VISION_START = "<|vision_start|>"
VISION_END = "<|vision_end|>"
IMAGE_PAD = "<|image_pad|>"
VIDEO_PAD = "<|video_pad|>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    IM_START,
    IM_END,
    VISION_START,
    VISION_END,
    "<|vision_pad|>",
    IMAGE_PAD,
    VIDEO_PAD,
)
"""Qwen2-VL's names; the place in this tuple is the token's id."""

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
"""Qwen2-VL's template without its default system message."""

_VOCAB_SIZE = 576  # an upper bound: merging ends when every word is one token
_REPEATS = 3  # a pair must be seen twice to be merged


def create_tokenizer() -> "PreTrainedTokenizerFast":
    """Train the tokenizer from the demo's own words; takes well under a second."""
    cure_torch_extensions()  # before anything of transformers is imported
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=IM_END, pad_token=END_OF_TEXT
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _corpus() -> Iterator[str]:
    """Every word that a question, an answer or the template may hold."""
    colors = (*COLORS, *NEW_COLORS)
    lines = ["system\nuser\nassistant\nYou are a helpful assistant.\n", " ".join(LETTERS), "yes no"]
    for questions in QUESTIONS.values():
        for question in questions:
            fields = product(colors[:1], SHAPES[:1], ORDINALS)
            lines += [
                question.format(color=c, shape=s, ordinal=o, a="1", b="2", word="a")
                for c, s, o in fields
            ]
    for word in (*colors, *SHAPES, *ORDINALS, *DIRECTIONS, *LETTERS):
        lines += [word, f" {word}"]
    for _ in range(_REPEATS):
        yield from lines
