"""Lets requests in: as many at once as the engine computes, the next ones in a bounded queue.

A request that cannot be taken is told so at once, with the time after which to try again. Nothing
waits without an end.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Iterator

from vlmserve import metrics
from vlmserve.errors import DeadlineError, EngineUnavailableError, OverloadedError

_SMOOTHING = 0.2
"""Weight of the latest request in the running mean of service times."""

_MAX_RETRY_AFTER_S = 60


class Admission:
    """Whether requests are taken, how many are being answered, and how many wait.

    Args:
        max_running: Requests that are answered at once.
        max_queued: Requests that may wait for their turn.
    """

    def __init__(self, max_running: int = 1024, max_queued: int = 0) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._closed: str | None = None
        self._n_running = 0
        self._n_present = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean_s = 0.0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def is_open(self) -> bool:
        """Whether new requests are taken."""
        return self._closed is None

    @property
    def n_running(self) -> int:
        """Requests that are being answered, streams included."""
        return self._n_running

    @property
    def n_queued(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    @property
    def n_present(self) -> int:
        """Requests that were let in and are not answered: running, waiting, or still arriving."""
        return self._n_present

    def close(self, reason: str = "the server is shutting down; try another one") -> None:
        """Refuse new requests from now on; those that are in go on."""
        self._closed = reason

    def abandon(self, reason: str) -> None:
        """Close, and turn away those that wait: there is nothing left to wait for."""
        self.close(reason)
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(EngineUnavailableError(reason))
        metrics.QUEUED.set(0)

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no request is in, for at most ``timeout_s`` seconds; say whether that came."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        return self._idle.is_set()

    @contextlib.contextmanager
    def presence(self) -> Iterator[None]:
        """Count a request as being in while the block runs.

        Raises:
            EngineUnavailableError: No new requests are taken.
        """
        if self._closed is not None:
            raise EngineUnavailableError(self._closed)
        self._n_present += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._n_present -= 1
            if self._n_present == 0:
                self._idle.set()

    def require_room(self) -> None:
        """Refuse early, before a body is read for nothing.

        Raises:
            OverloadedError: The queue is full.
        """
        if len(self._waiting) >= max(self._max_queued, 1) or (
            self._max_queued == 0 and self._n_running >= self._max_running
        ):
            raise OverloadedError(
                f"{self._n_running} requests are running and {len(self._waiting)} wait, which is "
                "all that this server takes; nothing was computed",
                retry_after_s=self._retry_after_s(),
            )

    def try_take_turn(self) -> bool:
        """Take a turn if there is one now; ``leave`` must follow then."""
        if self._n_running >= self._max_running or self._waiting:
            return False
        self._start()
        return True

    async def take_turn(self, timeout_s: float) -> None:
        """Wait for a turn; ``leave`` must follow.

        Args:
            timeout_s: Seconds that are left of the request's time.

        Raises:
            OverloadedError: The queue is full.
            DeadlineError: The turn would come, or did not come, within the request's time.
            EngineUnavailableError: The engine died meanwhile.
        """
        if self.try_take_turn():
            return
        self.require_room()
        expected_s = self.expected_wait_s()
        if expected_s >= timeout_s:
            raise self._too_late(f"about {math.ceil(expected_s)} s of waiting lie ahead")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        metrics.QUEUED.set(len(self._waiting))
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except TimeoutError:
            self._forget(turn)
            raise self._too_late("its turn did not come in that time") from None
        except asyncio.CancelledError:
            self._forget(turn)
            raise
        finally:
            metrics.QUEUED.set(len(self._waiting))

    def leave(self, took_s: float | None = None) -> None:
        """Give a turn back.

        Args:
            took_s: Seconds that the turn lasted; ``None`` where it says nothing of the next ones.
        """
        if took_s is not None:
            self._mean_s += _SMOOTHING * (took_s - self._mean_s) if self._mean_s else took_s
        self._pass_on()

    def expected_wait_s(self) -> float:
        """Seconds until the turn of a request that comes now, judged by the latest ones."""
        ahead = len(self._waiting) + 1
        return self._mean_s * ahead / self._max_running

    def _forget(self, turn: "asyncio.Future[None]") -> None:
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self._pass_on()  # the turn came just as its request left
        with contextlib.suppress(ValueError):
            self._waiting.remove(turn)

    def _start(self) -> None:
        self._n_running += 1
        metrics.RUNNING.set(self._n_running)

    def _pass_on(self) -> None:
        self._n_running -= 1
        while self._waiting and self._n_running < self._max_running:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._start()
        metrics.RUNNING.set(self._n_running)

    def _too_late(self, reason: str) -> DeadlineError:
        return DeadlineError(
            f"the request cannot be answered within its time: {reason}",
            retry_after_s=self._retry_after_s(),
        )

    def _retry_after_s(self) -> int:
        return min(max(math.ceil(self.expected_wait_s()), 1), _MAX_RETRY_AFTER_S)
