"""OpenAI's JavaScript client, run by Node, against the shared server."""

import json
import os
import subprocess
from pathlib import Path

import openai
import pytest

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text
from tests.engine.test_serving import BASE, TUNED, ask


@pytest.mark.node
def test_javascript_client(server: Server, client: openai.OpenAI, root: Path) -> None:
    red, blue = media.png((84, 84), media.RED), media.png((84, 84), media.BLUE)
    urls = {
        "RED": media.data_url(red),
        "BLUE": media.data_url(blue),
        "VIDEO": media.data_url(media.mp4(4), "video/mp4"),
    }

    done = subprocess.run(
        ["node", root / "tests" / "node" / "client.mjs", f"{server.url}/v1", TUNED],
        env={**os.environ, **urls},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    one = ask(client, image(red), text("Name the color."))
    assert got["chat"] == got["gathered"] == "red"
    assert got["finish"] == "stop"
    assert got["streamed"] == "blue"
    assert got["streamedTokens"] > 0
    assert got["response"] == "red"
    assert one.usage is not None
    assert got["promptTokens"] == one.usage.prompt_tokens
    assert got["bothTokens"] > got["promptTokens"]
    assert got["videoTokens"] > 0
    assert got["broken"] == {
        "isBadRequest": True,
        "status": 400,
        "code": "invalid_image",
        "param": "messages[0].content[0].image_url",
        "type": "invalid_request_error",
    }
    assert got["unknown"] == {"isNotFound": True, "code": "model_not_found"}
    assert got["models"] == [BASE, TUNED]
