"""A checkpoint's tokenizer: its table of tokens, and the tokenizer itself.

The table is read from JSON alone. Text is cut into tokens by the ``tokenizers`` library, or by
``sentencepiece`` where a directory has only ``tokenizer.model``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from vlmserve.checkpoint.files import read_json, read_json_if_present
from vlmserve.errors import CheckpointError

SpecialRole = Literal["bos", "eos", "pad", "unk"]
"""What a tokenizer may need a token for."""

_ROLES: tuple[SpecialRole, ...] = ("bos", "eos", "pad", "unk")

# Classes that add BOS themselves, whatever tokenizer.json says: transformers 4.57
# models/llama/tokenization_llama_fast.py rebuilds the post-processor from add_bos_token.
_BOS_BY_CLASS = ("LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer", "InternLM2Tokenizer")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is cut out of the text before the model of the tokenizer sees it."""

    content: str
    id: int
    special: bool
    """Left out when text is decoded without special tokens."""


@dataclass(frozen=True)
class TokenTable:
    """Which tokens a tokenizer has, and what they are for."""

    directory: Path
    file: str
    """The file that the vocabulary is from: ``tokenizer.json``, ``vocab.json`` or
    ``tokenizer.model``."""

    vocab: Mapping[str, int]
    """Id by token, without the added ones; empty for a ``tokenizer.model``, which is not opened."""

    added: Mapping[str, AddedToken]
    """Added tokens by their text, from all files that may name them."""

    conflicts: tuple[tuple[str, int, int], ...]
    """Added tokens to which two files give different ids: token, id used, other id."""

    roles: Mapping[SpecialRole, str]
    """The tokens that ``tokenizer_config.json`` and ``special_tokens_map.json`` give a role."""

    adds_bos: bool | None
    """Whether BOS is put before a text that is tokenized with special tokens; ``None`` where no
    file says."""

    def id_of(self, token: str) -> int | None:
        """A token's id, or ``None`` where the text is not one token of the table."""
        added = self.added.get(token)
        return self.vocab.get(token) if added is None else added.id

    @cached_property
    def by_id(self) -> dict[int, str]:
        """Token by id."""
        tokens = {number: token for token, number in self.vocab.items()}
        return tokens | {added.id: added.content for added in self.added.values()}

    @property
    def size(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        ids = [*self.vocab.values(), *(added.id for added in self.added.values())]
        return max(ids, default=-1) + 1


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


def load_token_table(directory: Path) -> TokenTable | None:
    """Read the table of tokens of a directory.

    Returns:
        The table, or ``None`` for a directory without a tokenizer, such as an adapter's.

    Raises:
        CheckpointError: A file is broken; the message names it.
    """
    settings = read_json_if_present(directory / "tokenizer_config.json")
    special = read_json_if_present(directory / "special_tokens_map.json")
    listed: list[AddedToken] = []
    adds_bos = None
    if (directory / "tokenizer.json").is_file():
        file = "tokenizer.json"
        content = read_json(directory / file)
        vocab = _read_vocab(content.get("model"), directory / file)
        listed += _read_added(content.get("added_tokens", []), directory / file)
        adds_bos = _starts_with_special(content.get("post_processor"))
    elif (directory / "vocab.json").is_file():
        file = "vocab.json"
        vocab = _read_vocab({"vocab": read_json(directory / file)}, directory / file)
    elif (directory / "tokenizer.model").is_file():
        file, vocab = "tokenizer.model", {}
    else:
        return None
    listed += _read_decoder(settings.get("added_tokens_decoder"), directory)
    plain = read_json_if_present(directory / "added_tokens.json")
    for text, number in plain.items():
        if not isinstance(number, int):
            raise CheckpointError(
                f"{directory / 'added_tokens.json'}: {text}: a whole number is expected"
            )
        listed.append(AddedToken(text, number, special=False))
    added: dict[str, AddedToken] = {}
    conflicts = []
    for token in listed:
        first = added.setdefault(token.content, token)
        if first.id != token.id:
            conflicts.append((token.content, first.id, token.id))
    roles = {
        role: name
        for role in _ROLES
        for value in [settings.get(f"{role}_token", special.get(f"{role}_token"))]
        if (name := _token_text(value)) is not None
    }
    return TokenTable(
        directory=directory,
        file=file,
        vocab=vocab,
        added=added,
        conflicts=tuple(dict.fromkeys(conflicts)),
        roles=roles,
        adds_bos=_bos_policy(settings, by_file=adds_bos),
    )


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
        self.table = table
        # Control tokens such as </s> are never cut out by sentencepiece itself.
        self._added = {content: token.id for content, token in table.added.items()}
        for number in range(self._model.get_piece_size()):
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
    import re

    if not tokens:
        yield text
        return
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = f"({'|'.join(re.escape(token) for token in longest_first)})"
    yield from (stretch for stretch in re.split(pattern, text) if stretch)


def _read_vocab(model: object, path: Path) -> Mapping[str, int]:
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    if isinstance(vocab, dict) and all(isinstance(number, int) for number in vocab.values()):
        return vocab
    if isinstance(vocab, list) and all(isinstance(entry, list) and entry for entry in vocab):
        return {str(entry[0]): number for number, entry in enumerate(vocab)}  # Unigram
    raise CheckpointError(f"{path}: model.vocab: ids by token, or a list of pieces, is expected")


def _read_added(entries: object, path: Path) -> list[AddedToken]:
    if not isinstance(entries, list):
        raise CheckpointError(f"{path}: added_tokens: a list is expected")
    return [_read_token(entry, path, "added_tokens") for entry in entries]


def _read_decoder(entries: object, directory: Path) -> list[AddedToken]:
    if entries is None:
        return []
    path = directory / "tokenizer_config.json"
    if not isinstance(entries, dict) or not all(str(key).isdigit() for key in entries):
        raise CheckpointError(f"{path}: added_tokens_decoder: tokens by id are expected")
    return [
        _read_token({**value, "id": int(key)} if isinstance(value, dict) else value, path, key)
        for key, value in entries.items()
    ]


def _read_token(entry: Any, path: Path, where: str) -> AddedToken:
    match entry:
        case {"id": int(number), "content": str(content)}:
            return AddedToken(content, number, bool(entry.get("special", False)))
    raise CheckpointError(f"{path}: {where}: a token with id and content is expected")


def _token_text(value: object) -> str | None:
    """A special token is a text, or an object with one."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _starts_with_special(processor: object) -> bool | None:
    """Whether a post-processor of ``tokenizer.json`` puts a token before a single text."""
    match processor:
        case {"type": "TemplateProcessing", "single": [first, *_]}:
            return isinstance(first, dict) and "SpecialToken" in first
        case {"type": "Sequence", "processors": list(processors)}:
            return any(_starts_with_special(part) for part in processors)
    return False


def _bos_policy(settings: Mapping[str, Any], *, by_file: bool | None) -> bool | None:
    said = settings.get("add_bos_token")
    name = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    if isinstance(said, bool) and (by_file is None or name in _BOS_BY_CLASS):
        return said
    if by_file is None and name in _BOS_BY_CLASS:
        return True
    return by_file
