"""A tokenizer's table of tokens, from its JSON files alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from vlmserve.checkpoint.files import read_json, read_json_if_present
from vlmserve.checkpoint.processor import TOKENIZER_FILES
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


def load_token_table(directory: Path) -> TokenTable | None:
    """Read the table of tokens of a directory; files that stay as they are are read once.

    Returns:
        The table, or ``None`` for a directory without a tokenizer, such as an adapter's.

    Raises:
        CheckpointError: A file is broken; the message names it.
    """
    files = (directory / name for name in TOKENIZER_FILES)
    return _read_table(directory, tuple(_stamp(path) for path in files if path.is_file()))


def read_tokenizer_json(path: Path) -> Mapping[str, Any]:
    """A ``tokenizer.json`` without its merges, which only the tokenizer itself needs.

    Several checks ask for it, and to parse 150 000 tokens takes 0.1 s: it is read once.

    Raises:
        CheckpointError: The file cannot be read or is not JSON.
    """
    return _parse(path, _stamp(path) if path.is_file() else None)


def _stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file does."""
    status = path.stat()
    return path.name, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _parse(path: Path, stamp: object) -> Mapping[str, Any]:
    del stamp
    content = read_json(path)
    if isinstance(content.get("model"), dict):
        content["model"].pop("merges", None)
    return content


@lru_cache(maxsize=4)
def _read_table(directory: Path, stamps: object) -> TokenTable | None:
    del stamps
    settings = read_json_if_present(directory / "tokenizer_config.json")
    special = read_json_if_present(directory / "special_tokens_map.json")
    listed: list[AddedToken] = []
    adds_bos = None
    if (directory / "tokenizer.json").is_file():
        file = "tokenizer.json"
        content = read_tokenizer_json(directory / file)
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


def read_special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that a chat template may name, such as ``bos_token``.

    Small files alone are read.

    Raises:
        CheckpointError: A file is broken.
    """
    named = read_json_if_present(directory / "special_tokens_map.json")
    named |= read_json_if_present(directory / "tokenizer_config.json")
    return {
        key: text
        for key, value in named.items()
        if key.endswith("_token") and (text := _token_text(value)) is not None
    }


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
