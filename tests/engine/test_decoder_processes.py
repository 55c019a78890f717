"""The shared server's decoder processes: where they are, and what their end costs."""

import concurrent.futures
import io
import os
import re
import signal
import time
import urllib.request

import openai
import psutil
import pytest
from PIL import Image

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.test_serving import answer

QUESTION = text("Name the color.")
RED = media.png((84, 84), media.RED)


def decoders(server: Server) -> list[psutil.Process]:
    """The decoder processes that there are; ``Popen`` has the server's own id."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in below if process.name() == "vlmserve-decode"]


def restarts(server: Server) -> float:
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        found = re.search(
            r"^vlmserve_decoder_restarts_total (\S+)$", response.read().decode(), re.M
        )
    assert found is not None
    return float(found[1])


def test_media_are_decoded_in_processes_of_their_own(server: Server, client: openai.OpenAI) -> None:
    assert answer(client, image(RED), QUESTION) == "red"

    found = decoders(server)
    assert 1 <= len(found) <= 4
    listening = {c.laddr.port for c in psutil.Process(server.process.pid).net_connections()}
    assert all(not process.net_connections() for process in found)
    assert listening


def test_decoder_that_is_killed_at_a_request(server: Server, client: openai.OpenAI) -> None:
    assert answer(client, image(RED), QUESTION) == "red"
    before = restarts(server)
    # Stopped ones hold the request up until they are killed. How long it takes to reach one is not
    # known, and one that ends before is replaced without a word.
    error: BaseException | None = None
    for number, patience_s in enumerate((0.5, 2, 8)):
        # One that was decoded before needs no decoder.
        new = image(media.png((84, 112 + 28 * number), media.RED))
        stopped = decoders(server)
        for process in stopped:
            process.suspend()
        with concurrent.futures.ThreadPoolExecutor() as threads:
            asked = threads.submit(answer, client, new, QUESTION)
            time.sleep(patience_s)
            for process in stopped:
                os.kill(process.pid, signal.SIGKILL)
            error = asked.exception()
        if error is not None:
            break

    assert isinstance(error, openai.BadRequestError)
    assert "its decoder was ended by the system" in error.message
    assert error.code == "invalid_image"
    assert error.param == "messages[0].content[0].image_url"
    assert answer(client, image(RED), QUESTION) == "red"
    assert restarts(server) > before


def test_many_media_at_once(client: openai.OpenAI) -> None:
    parts = [image(RED), image(media.png((56, 56), media.BLUE)), video(media.mp4(4))]

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(answer, client, *parts, QUESTION) for _ in range(48)]
        answers = {each.result() for each in asked}

    assert len(answers) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode(client: openai.OpenAI, mode: str) -> None:
    picture = Image.new("RGB", (84, 84), media.RED)
    buffer = io.BytesIO()
    if mode == "I;16":
        Image.new(mode, (84, 84)).save(buffer, "PNG")
    else:
        picture.convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")

    said = answer(client, image(buffer.getvalue()), QUESTION)

    if mode in {"P", "RGBA", "CMYK"}:
        assert said == "red"
    assert said
