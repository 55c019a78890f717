import asyncio

import pytest

from vlmserve.engine.decoding_turns import DecodingTurns
from vlmserve.errors import EngineUnavailableError


def test_no_more_than_the_turns_at_once() -> None:
    turns, running, most = DecodingTurns(2, timeout_s=10), 0, 0

    async def decode() -> None:
        nonlocal running, most
        async with turns.taken():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    async def main() -> None:
        await asyncio.gather(*(decode() for _ in range(10)))

    asyncio.run(main())
    asyncio.run(main())  # another loop, as each command has one

    assert most == 2


def test_whoever_waits_too_long_is_told() -> None:
    turns = DecodingTurns(1, timeout_s=0.01)

    async def main() -> None:
        async with turns.taken():
            with pytest.raises(EngineUnavailableError, match="wait to be decoded"):
                async with turns.taken():
                    pass
        async with turns.taken():
            pass

    asyncio.run(main())


def test_a_turn_is_given_back_by_a_thread_that_waits_for_something_else() -> None:
    turns = DecodingTurns(1, timeout_s=10)

    async def main() -> None:
        async with turns.taken() as give_back:
            await asyncio.to_thread(give_back)
            async with turns.taken():
                pass
        # Once, not twice.
        async with turns.taken():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), turns.taken():
                    pass

    asyncio.run(main())
