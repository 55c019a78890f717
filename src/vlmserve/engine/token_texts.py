"""The text that each of some tokens stands for."""

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Spell tokens, control tokens among them.

    Args:
        tokenizer: transformers' or one that decodes like it.
        ids: Shape ``(n,)``.

    Returns:
        What each token adds to the text of those before it, shape ``(n,)``; a token that ends in
        the middle of a character adds nothing, the one that completes it adds the character.
    """
    texts, spelled = [], ""
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=False))
        if text.endswith(_INCOMPLETE) and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(spelled) :])
        spelled = text
    return texts
