"""A checkpoint's tokenizer, by the ``tokenizers`` library.

``sentencepiece`` takes its place where a directory has only ``tokenizer.model``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vlmserve.checkpoint.token_table import TokenTable, load_token_table
from vlmserve.errors import CheckpointError

__all__ = ["TokenTable", "Tokenizer", "load_token_table", "load_tokenizer", "split_at"]


class Tokenizer(Protocol):
    """Cuts text into tokens."""

    @property
    def table(self) -> TokenTable:
        """Its tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text; tokens written out in it are recognised, none are added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens written out."""
        ...

    def piece(self, token_id: int) -> str:
        """One token as the vocabulary spells it, or ``<id>`` where it has none."""
        ...


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load the tokenizer of a directory.

    Raises:
        CheckpointError: There is none, it is broken, or the library that reads it is missing.
    """
    table = load_token_table(directory)
    if table is None:
        raise CheckpointError(f"{directory}: no tokenizer.json and no tokenizer.model")
    match table.file:
        case "tokenizer.json":
            return _FastTokenizer(table)
        case "tokenizer.model":
            return _SentencePieceTokenizer(table)
        case _:
            raise CheckpointError(
                f"{directory}: the tokenizer is in vocab.json and merges.txt alone",
                hint="save it again with transformers, which writes tokenizer.json",
            )


class _FastTokenizer:
    """``tokenizer.json``, with the added tokens that only other files name."""

    def __init__(self, table: TokenTable) -> None:
        # Imported here: a check of headers must not wait for it.
        from tokenizers import AddedToken as Added
        from tokenizers import Tokenizer as Library

        path = table.directory / table.file
        try:
            self._tokenizer = Library.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        for token in sorted(table.added.values(), key=lambda token: token.id):
            if self._tokenizer.token_to_id(token.content) is None:
                new = Added(token.content, special=token.special, normalized=False)
                if token.special:
                    self._tokenizer.add_special_tokens([new])
                else:
                    self._tokenizer.add_tokens([new])
        self.table = table

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def piece(self, token_id: int) -> str:
        piece: str | None = self._tokenizer.id_to_token(token_id)
        return f"<{token_id}>" if piece is None else piece


class _SentencePieceTokenizer:
    """``tokenizer.model``; each stretch between added tokens is cut on its own.

    That is what the slow LlamaTokenizer of transformers 4 does in its legacy mode, with which
    LLaVA was trained.
    """

    def __init__(self, table: TokenTable) -> None:
        path = table.directory / table.file
        try:
            import sentencepiece
        except ImportError as error:
            raise CheckpointError(
                f"{path}: reading it needs the package sentencepiece",
                hint="pip install sentencepiece, or save the tokenizer as tokenizer.json",
            ) from error
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except Exception as error:  # RuntimeError, OSError or ValueError, by version
            raise CheckpointError(f"{path}: not a sentencepiece model: {error}") from error
        pieces = range(self._model.get_piece_size())
        vocab = {self._model.id_to_piece(number): number for number in pieces}
        self.table = replace(table, vocab=vocab)
        # Control tokens such as </s> are never cut out by sentencepiece itself.
        self._added = {content: token.id for content, token in table.added.items()}
        for number in pieces:
            if self._model.is_control(number) or self._model.is_unknown(number):
                self._added.setdefault(self._model.id_to_piece(number), number)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for stretch in split_at(text, self._added):
            number = self._added.get(stretch)
            ids += self._model.encode(stretch) if number is None else [number]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        by_id = {number: content for content, number in self._added.items()}
        text, stretch = "", list[int]()
        for number in ids:
            if number in by_id:
                text += self._model.decode(stretch) + by_id[number]
                stretch = []
            else:
                stretch.append(number)
        return text + str(self._model.decode(stretch))

    def piece(self, token_id: int) -> str:
        if 0 <= token_id < self._model.get_piece_size():
            return str(self._model.id_to_piece(token_id))
        return self.table.by_id.get(token_id, f"<{token_id}>")


def split_at(text: str, tokens: Mapping[str, object]) -> Iterator[str]:
    """Cut a text so that each of the tokens in it stands alone; the longest token wins."""
    if not tokens:
        yield text
        return
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = f"({'|'.join(re.escape(token) for token in longest_first)})"
    yield from (stretch for stretch in re.split(pattern, text) if stretch)
