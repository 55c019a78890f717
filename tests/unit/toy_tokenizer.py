"""Tokenizers that cut text into single bytes, with a few tokens of their own."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors


def write_tokenizer(
    directory: Path,
    tokens: Sequence[str | tuple[str, int]],
    *,
    bos: str | None = None,
    eos: str | None = None,
    adds_bos: bool = False,
    **settings: object,
) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; a tuple asks for an id."""
    directory.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    wanted = {token[1]: token[0] for token in tokens if isinstance(token, tuple)}
    plain = [token for token in tokens if isinstance(token, str)]
    vocab: dict[str, int] = {token: number for number, token in wanted.items()}
    number = 0
    for text in [*plain, *alphabet]:
        while number in wanted:
            number += 1
        vocab[text] = number
        number += 1
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = [*plain, *wanted.values()]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    if adds_bos:
        assert bos is not None
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocab[bos])]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    config |= {f"{role}_token": text for role, text in (("bos", bos), ("eos", eos)) if text}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory
