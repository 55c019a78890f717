"""A checkpoint's identity by content: what decides its answers, and nothing else."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from vlmserve.checkpoint.adapter import CONFIG_NAME
from vlmserve.checkpoint.digest_cache import DigestCache
from vlmserve.checkpoint.overlay import borrowed_files
from vlmserve.checkpoint.source import Checkpoint

# Weights in any format, and the small files that vLLM and transformers read. A trainer's leftovers
# and READMEs are not among them.
_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "adapter_model.bin",
    CONFIG_NAME,
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "*.py",
)
_NOT_A_MODEL = ("optimizer", "zero_to_fp32")


def fingerprint(checkpoint: Checkpoint, digests: DigestCache | None = None) -> str:
    """Digest what decides a checkpoint's answers.

    That is the content of weights, configuration, tokenizer, chat template and processor, with the
    files' names in their directory; of an adapter its base's as well; and of a full model that
    lacks a processor the files that would be borrowed. Where the directory lies does not matter.

    Every byte is read: about a second for each gigabyte or two.

    Args:
        checkpoint: What is digested.
        digests: Recalls digests of files that have not changed; by default all are read.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.

    Raises:
        CheckpointError: A file cannot be read.
    """
    digest = hashlib.sha256()
    cache = DigestCache(None) if digests is None else digests
    for name, content in _content(checkpoint):
        # Fixed-length digests and a newline, which no name here has, keep entries apart.
        digest.update(f"{name} {_sha256(content, cache)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _sha256(content: Path | str, digests: DigestCache) -> str:
    if isinstance(content, str):
        return hashlib.sha256(content.encode()).hexdigest()
    return digests.sha256(content)


def _content(checkpoint: Checkpoint) -> Iterator[tuple[str, Path | str]]:
    if checkpoint.adapter is not None:
        for path in _files(checkpoint.path):
            yield f"adapter/{path.name}", path
    for path in _files(checkpoint.model.path):
        yield f"model/{path.name}", path
    # For an adapter they lie in its own directory, which is in already.
    if checkpoint.adapter is None:
        for name, content in sorted(borrowed_files(checkpoint).items()):
            yield f"borrowed/{name}", content


def _files(directory: Path) -> list[Path]:
    paths = {path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()}
    return sorted(path for path in paths if not path.name.startswith(_NOT_A_MODEL))
