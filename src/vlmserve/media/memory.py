"""How much decoded media the requests in flight may hold together."""

import itertools
import threading
import time
import weakref
from collections import Counter
from typing import Any

from vlmserve.errors import EngineUnavailableError, MediaError

_numbers = itertools.count()


class DecodedMemory:
    """A ceiling over the decoded images and frames of all requests; safe in many threads.

    Requests wait for each other only as far as none can wait for ever: the one that asked first may
    go over the ceiling, by no more than its own media, which must fit under it alone.

    Args:
        capacity_bytes: The ceiling.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._changed = threading.Condition()
        self._held: Counter[int] = Counter()
        """Bytes by request; a request that waits for its first is in it with 0."""

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        with self._changed:
            return self._held.total()

    def open_account(self) -> "MemoryAccount":
        """Begin to count what one request holds."""
        return MemoryAccount(self, next(_numbers))

    def reserve(self, number: int, n_bytes: int, timeout_s: float) -> bool:
        """Take memory for a request.

        Args:
            number: The request's number; earlier ones are smaller.
            n_bytes: How much more it needs.
            timeout_s: Seconds to wait for others to give theirs back; 0 does not wait.

        Returns:
            Whether it was taken.

        Raises:
            MediaError: The request alone needs more than the ceiling.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            needed = self._held[number] + n_bytes
            if needed > self._capacity:
                raise MediaError(
                    f"with it the decoded media of this request take {needed} bytes, and "
                    f"{self._capacity} are allowed for all requests; send fewer or smaller ones, "
                    "or let the operator raise media.max_decoded_bytes"
                )
            self._held[number] += 0  # it waits in its place, should it have to
            while not self._has_room(number, n_bytes):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    if timeout_s > 0:
                        self._forget_if_empty(number)
                    return False
                self._changed.wait(left_s)
            self._held[number] += n_bytes
            return True

    def release(self, number: int, n_bytes: int) -> None:
        """Give memory back."""
        with self._changed:
            self._held[number] -= n_bytes
            self._forget_if_empty(number)

    def _has_room(self, number: int, n_bytes: int) -> bool:
        return self._held.total() + n_bytes <= self._capacity or number == min(self._held)

    def _forget_if_empty(self, number: int) -> None:
        if self._held[number] <= 0:
            del self._held[number]
        self._changed.notify_all()


class MemoryAccount:
    """What one request holds of the memory for decoded media."""

    def __init__(self, memory: DecodedMemory, number: int) -> None:
        self._memory = memory
        self._number = number

    def try_reserve(self, n_bytes: int) -> bool:
        """Take memory if there is some; see ``DecodedMemory.reserve``."""
        return self._memory.reserve(self._number, n_bytes, 0.0)

    def reserve(self, n_bytes: int, timeout_s: float) -> None:
        """Take memory, and wait for it.

        Raises:
            MediaError: The request alone needs more than there may be.
            EngineUnavailableError: Others did not give theirs back in time.
        """
        if not self._memory.reserve(self._number, n_bytes, timeout_s):
            raise EngineUnavailableError(
                "the media of other requests take all memory that there is for decoded media; "
                "try again later"
            )

    def release(self, n_bytes: int) -> None:
        """Give memory back at once."""
        if n_bytes:
            self._memory.release(self._number, n_bytes)

    def release_with(self, owner: Any, n_bytes: int) -> None:
        """Give memory back when an object is freed, which holds what was decoded."""
        if n_bytes:
            weakref.finalize(owner, self._memory.release, self._number, n_bytes).atexit = False
