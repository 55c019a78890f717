"""Lines of vLLM's log lose what they quote from requests, and nothing else."""

import logging
from pathlib import Path

import pytest

from vlmserve.server import log_privacy
from vlmserve.server.log_privacy import WithoutQuotes


def logged(message: str, *args: object) -> str:
    record = logging.LogRecord("vllm", logging.ERROR, "", 0, message, args, None)
    assert WithoutQuotes().filter(record)
    return record.getMessage()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Error with model %s", "Error with model"),
        ("Chat template rejected the request: %s", "Chat template rejected the request"),
        ("Loading model %s", "Loading model secret"),
    ],
)
def test_quotes_are_taken_out(message: str, shown: str) -> None:
    assert logged(message, "secret") == shown


@pytest.mark.engine
def test_vllm_has_the_lines_that_are_filtered() -> None:
    """A line that was worded anew would quote again."""
    import vllm

    folder = Path(vllm.__file__).parent
    sources = [*folder.glob("entrypoints/**/*.py"), *folder.glob("renderers/*.py")]
    text = "\n".join(path.read_text() for path in sources)

    for beginning in log_privacy._QUOTING:
        assert f'"{beginning}' in text, beginning
