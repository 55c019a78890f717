"""Lets no more media be decoded at once than there are decoders.

Threads that wait for a decoder cost every other thread of a Python process its turns: with one
waiting thread an image, requests of four small images are answered a third slower.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from weakref import WeakKeyDictionary

from vlmserve.errors import EngineUnavailableError


class DecodingTurns:
    """Turns that tasks of an event loop wait for, first come, first served.

    Args:
        n_turns: Media decoded at once.
        timeout_s: Seconds to wait.
    """

    def __init__(self, n_turns: int, timeout_s: float) -> None:
        self._n_turns = n_turns
        self._timeout_s = timeout_s
        # A semaphore belongs to the event loop that first waits for it.
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[Callable[[], None]]:
        """Hold a turn.

        Yields:
            Gives the turn back before the block ends, from any thread: for whoever has to wait
            for something else than a decoder.

        Raises:
            EngineUnavailableError: None came in time.
        """
        loop = asyncio.get_running_loop()
        semaphore = self._semaphores.get(loop)
        if semaphore is None:
            semaphore = self._semaphores[loop] = asyncio.Semaphore(self._n_turns)
        try:
            async with asyncio.timeout(self._timeout_s):
                await semaphore.acquire()
        except TimeoutError:
            raise EngineUnavailableError(
                "too many images and videos wait to be decoded; try again later"
            ) from None
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                semaphore.release()

        def give_back_from_a_thread() -> None:
            loop.call_soon_threadsafe(give_back)

        try:
            yield give_back_from_a_thread
        finally:
            give_back()
