import asyncio
from dataclasses import dataclass

import pytest

from vlmserve.server.watchdog import Trouble, wait_for_trouble


@dataclass
class Client:
    errored: bool = False


@pytest.mark.parametrize("trouble", ["engine", "decoders"])
def test_trouble_is_noticed(trouble: Trouble) -> None:
    client, lost = Client(), asyncio.Event()

    async def run() -> str:
        waiting = asyncio.create_task(wait_for_trouble(client, lost.is_set, period_s=0.001))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        if trouble == "engine":
            client.errored = True
        else:
            lost.set()
        return await waiting

    assert asyncio.run(run()) == trouble
