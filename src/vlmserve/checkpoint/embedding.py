"""The input embedding of a language model: which tensor it is, and single rows of it."""

from collections.abc import Iterable, Iterator

from vlmserve.checkpoint.tensors import TensorInfo
from vlmserve.errors import CheckpointError

_NAMES = ("embed_tokens.weight", "tok_embeddings.weight", "wte.weight")


def find_embedding(tensors: Iterable[TensorInfo]) -> TensorInfo | None:
    """The embedding, of shape ``(rows, width)``, or ``None`` where it cannot be told."""
    found = [tensor for tensor in tensors if tensor.name.endswith(_NAMES)]
    match found:
        case [TensorInfo(shape=(rows, _))] if rows > 0:
            return found[0]
    return None


def read_rows(embedding: TensorInfo, rows: Iterable[int]) -> Iterator[bytes]:
    """The bytes of single rows, in the order asked for.

    Raises:
        CheckpointError: The file cannot be read.
    """
    size = embedding.nbytes // embedding.shape[0]
    try:
        with embedding.path.open("rb") as file:
            for row in rows:
                file.seek(embedding.start + row * size)
                yield file.read(size)
    except OSError as error:
        raise CheckpointError(f"{embedding.path}: {error.strerror or error}") from error
