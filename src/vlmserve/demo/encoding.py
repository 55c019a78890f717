"""Turns samples into token ids, labels and M-RoPE positions, as chat template and model do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vlmserve.demo import tokenizer as names
from vlmserve.demo.drawing import CELL_PX
from vlmserve.demo.model import TEMPORAL_PATCH
from vlmserve.demo.samples import Medium, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of a token that carries no loss; torch's and transformers' convention."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Template:
    """What stands between the parts of a conversation; the defaults are the chat template's."""

    after_role: str = "\n"
    after_end: str = "\n"

    def jinja(self) -> str:
        """Return the chat template that writes these separators."""
        text = names.CHAT_TEMPLATE
        text = text.replace(
            "{{ message['role'] }}\n", f"{{{{ message['role'] }}}}{self.after_role}"
        )
        text = text.replace(f"{names.IM_END}\n", f"{names.IM_END}{self.after_end}")
        return text.replace("assistant\n", f"assistant{self.after_role}")


QWEN = Template()
"""The separators of Qwen2-VL, which the base model knows."""

TIGHT = Template(after_role="", after_end="")
"""No line breaks: what the fine-tune "wrong-template" was trained with."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One conversation of ``n`` tokens."""

    ids: Ids
    """Shape ``(n,)``; media are already expanded to one pad token a cell."""

    labels: Ids
    """Shape ``(n,)``: the id where the model must answer, else ``IGNORED``."""

    positions: Ids
    """Shape ``(3, n)``: time, height and width, as ``Qwen2VLModel.get_rope_index`` gives them."""


class SampleEncoder:
    """Encodes samples for training and for scoring.

    Args:
        tokenizer: The demo's tokenizer.
        template: The separators to write.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", template: Template = QWEN) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._ids: dict[str, list[int]] = {}

    def encode(self, sample: Sample) -> Encoded:
        """Return the conversation with all its answers; only answers and their end have labels."""
        separators = self._template
        builder = _Builder()
        for index, turn in enumerate(sample.turns):
            # What lies between two special tokens is tokenized as one text, as a processor does.
            text = f"{names.IM_START}user{separators.after_role}"
            for medium in sample.media if index == 0 else ():
                builder.text(self._tokens(f"{text}{names.VISION_START}"))
                pad = names.VIDEO_PAD if medium.is_video else names.IMAGE_PAD
                builder.medium(self._tokens(pad)[0], grid_of(medium))
                text = names.VISION_END
            text += f"{turn.question}{names.IM_END}{separators.after_end}"
            builder.text(self._tokens(f"{text}{names.IM_START}assistant{separators.after_role}"))
            # The answer alone: that is how it is generated, whatever stands before it.
            builder.text(self._tokens(f"{turn.target}{names.IM_END}"), supervised=True)
            if separators.after_end:
                builder.text(self._tokens(separators.after_end))
        return builder.build()

    def _tokens(self, text: str) -> list[int]:
        """Tokenize, remembering: the same few texts come millions of times."""
        ids = self._ids.get(text)
        if ids is None:
            ids = self._ids[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def grid_of(medium: Medium) -> tuple[int, int, int]:
    """Return how many tokens a medium is along time, height and width.

    Raises:
        ValueError: A side is not a multiple of 28 pixels, so the processor would resize it.
    """
    height, width = medium.pixels.shape[-3:-1]
    if height % CELL_PX or width % CELL_PX:
        raise ValueError(f"a picture of {height}x{width} pixels is not made of {CELL_PX}-px cells")
    frames = medium.pixels.shape[0] if medium.is_video else 1
    return -(-frames // TEMPORAL_PATCH), height // CELL_PX, width // CELL_PX


class _Builder:
    """Collects tokens, labels and positions, left to right."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._labels: list[int] = []
        self._positions: list[Ids] = []
        self._next = 0

    def text(self, ids: list[int], *, supervised: bool = False) -> None:
        self._ids += ids
        self._labels += ids if supervised else [IGNORED] * len(ids)
        steps = np.arange(self._next, self._next + len(ids))
        self._positions.append(np.broadcast_to(steps, (3, len(ids))))
        self._next += len(ids)

    def medium(self, pad_id: int, grid: tuple[int, int, int]) -> None:
        count = grid[0] * grid[1] * grid[2]
        self._ids += [pad_id] * count
        self._labels += [IGNORED] * count
        self._positions.append(np.indices(grid).reshape(3, -1) + self._next)
        # transformers counts max(h, w) here and vLLM max(t, h, w); the demo keeps t <= max(h, w).
        self._next += max(grid)

    def build(self) -> Encoded:
        return Encoded(
            np.array(self._ids, np.int64),
            np.array(self._labels, np.int64),
            np.concatenate(self._positions, axis=1),
        )
