"""Keeps callers' words out of vLLM 0.32's log, where its lines would quote them.

Such a line keeps what it says and loses what it quotes; ``-- --enable-log-requests`` asks for all.
"""

import logging

from typing_extensions import override

# Beginnings of format strings: entrypoints/*/serving.py, renderers/chat_utils.py, renderers/hf.py,
# entrypoints/anthropic/api_router.py.
_QUOTING = (
    "Error with model",
    "Chat template rejected the request",
    "Tool call",
    "Error in create_messages",
    "Error in count_tokens",
)


class WithoutQuotes(logging.Filter):
    """Takes out of a record what vLLM quotes from a request."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and record.msg.startswith(_QUOTING):
            record.msg = record.msg.partition("%")[0].rstrip(": ")
            record.args = ()
            record.exc_info = record.exc_text = None
        return True


def install() -> None:
    """Filter what vLLM's handlers write; call it when vLLM has set up its logging."""
    for name in (None, "vllm"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(WithoutQuotes())
