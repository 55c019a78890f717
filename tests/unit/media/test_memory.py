import gc
import threading

import pytest

from vlmserve.errors import EngineUnavailableError, MediaError
from vlmserve.media.memory import DecodedMemory


class Owner:
    """Something that memory is held for."""


def test_memory_is_taken_and_given_back() -> None:
    memory = DecodedMemory(100)
    first, second = memory.open_account(), memory.open_account()

    assert first.try_reserve(60)
    assert not second.try_reserve(50)
    assert second.try_reserve(40)
    first.release(60)
    assert second.try_reserve(50)
    second.release(90)

    assert memory.held_bytes == 0


def test_memory_is_given_back_with_what_it_was_taken_for() -> None:
    memory = DecodedMemory(100)
    account, owner = memory.open_account(), Owner()
    assert account.try_reserve(60)
    account.release_with(owner, 60)

    assert memory.held_bytes == 60
    del owner
    gc.collect()
    assert memory.held_bytes == 0


def test_request_that_never_fits_is_refused() -> None:
    account = DecodedMemory(100).open_account()
    assert account.try_reserve(60)

    with pytest.raises(MediaError, match=r"take 101 bytes, and 100 are.*media\.max_decoded_bytes"):
        account.try_reserve(41)


def test_wait_has_an_end() -> None:
    memory = DecodedMemory(100)
    first, second, third = (memory.open_account() for _ in range(3))
    assert first.try_reserve(100)

    with pytest.raises(EngineUnavailableError, match="try again later"):
        second.reserve(10, 0.01)
    first.release(100)

    # Who gave up is not in the way of those behind.
    assert third.try_reserve(100)


def test_waiting_request_goes_on_when_there_is_room() -> None:
    memory = DecodedMemory(100)
    first, second = memory.open_account(), memory.open_account()
    assert first.try_reserve(80)
    waiting = threading.Thread(target=second.reserve, args=(50, 30.0))
    waiting.start()

    first.release(80)
    waiting.join(30)

    assert not waiting.is_alive()
    assert memory.held_bytes == 50


def test_requests_never_wait_for_each_other() -> None:
    memory = DecodedMemory(100)
    first, second = memory.open_account(), memory.open_account()
    assert first.try_reserve(50)
    assert second.try_reserve(50)

    # Each wants more and none gives any back: the first may go over the ceiling by its own.
    assert not second.try_reserve(10)
    assert first.try_reserve(50)
    assert memory.held_bytes == 150
