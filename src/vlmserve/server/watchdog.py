"""Notices that a server cannot do its work any more."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

Trouble = Literal["engine", "decoders"]


async def wait_for_trouble(
    client: Any, decoders_are_lost: Callable[[], bool], *, period_s: float
) -> Trouble:
    """Wait until the engine has died, or decoder processes cannot be started any more.

    Args:
        client: vLLM's asynchronous engine.
        decoders_are_lost: Tells the latter.
        period_s: Seconds between two looks: vLLM offers a flag, no event.

    Returns:
        Which of both it was.
    """
    while not client.errored:
        if decoders_are_lost():
            return "decoders"
        await asyncio.sleep(period_s)
    return "engine"
