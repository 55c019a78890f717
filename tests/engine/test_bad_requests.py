"""Bad input to the shared server: a clear error in OpenAI's shape, and the server goes on."""

import base64
from typing import Any

import openai
import pytest

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.test_serving import TUNED, answer, ask

QUESTION = text("Name the color.")
IMAGE_FIELD = "messages[0].content[1].image_url"
VIDEO_FIELD = "messages[0].content[1].video_url"


@pytest.fixture(autouse=True)
def _survives(server: Server, client: openai.OpenAI) -> Any:
    """After each bad request the server still answers a good one."""
    yield
    assert answer(client, image(media.png((84, 84), media.RED)), QUESTION) == "red"


def refused(client: openai.OpenAI, *parts: dict[str, Any]) -> Any:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, *parts)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    return error


JPEG_FRAME = base64.b64encode(media.png((56, 56), media.RED, format="JPEG")).decode()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (media.data_url(media.png((300, 300), media.RED)[:200]), "truncated"),
        (media.data_url(b"hello"), "not an image file"),
        (media.data_url(b""), "not an image file"),
        (media.data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image file"),
        ("data:image/png;base64,@@@", "base64"),
        ("data:image/png,plain", "base64"),
        ("data:image/png", "data URL"),
        ("ftp://example.org/a.png", "URL"),
        ("http://example.org/a.png", "media.allowed_hosts: [example.org]"),
        ("http://127.0.0.1:9/a.png", "no connection"),
        ("file:///etc/hostname", "no such file under the directory"),
        ("file:///nowhere/a.png", "no such file under the directory"),
        ("", ""),
    ],
)
def test_image_that_cannot_be_used(
    server: Server, client: openai.OpenAI, url: str, reason: str
) -> None:
    error = refused(client, QUESTION, image(url))

    assert reason in error.message
    assert str(server.log.parent) not in error.message
    if url:
        assert error.code == "invalid_image"
        assert error.param == IMAGE_FIELD


def test_huge_image_is_refused_before_it_is_decoded(client: openai.OpenAI) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("1", (20000, 20000)).save(buffer, "PNG")

    error = refused(client, QUESTION, image(buffer.getvalue()))

    assert "exceeds limit" in error.message
    assert error.param == IMAGE_FIELD


def test_image_that_the_processor_refuses(client: openai.OpenAI) -> None:
    error = refused(client, QUESTION, image(media.png((5000, 10), media.RED)))

    assert "aspect ratio must be smaller than 200" in error.message
    assert error.code == "invalid_media"


@pytest.mark.parametrize(
    ("data", "content_type", "reason"),
    [
        (b"", "video/mp4", "Could not open video"),
        (b"hello", "video/mp4", "Could not open video"),
        (media.mp4(4)[:300], "video/mp4", "Could not open video"),
        (media.mp4(1), "video/mp4", "too few frames"),
        (media.png((56, 56), media.RED, format="GIF"), "image/gif", "too few frames"),
        (media.png((56, 56), media.RED), "image/png", "too few frames"),
    ],
)
def test_video_that_cannot_be_used(
    client: openai.OpenAI, data: bytes, content_type: str, reason: str
) -> None:
    error = refused(client, QUESTION, video(data, content_type))

    assert reason in error.message
    assert error.code == "invalid_video"
    assert error.param == VIDEO_FIELD


def test_frames_are_never_dropped(client: openai.OpenAI) -> None:
    error = refused(
        client, QUESTION, video("data:video/jpeg;base64," + ",".join([JPEG_FRAME] * 40))
    )

    assert "40 frames are given and 32 would be used" in error.message
    assert error.param == VIDEO_FIELD


def test_frames_of_mixed_sizes(client: openai.OpenAI) -> None:
    other = base64.b64encode(media.png((84, 56), media.RED, format="JPEG")).decode()

    error = refused(client, QUESTION, video(f"data:video/jpeg;base64,{JPEG_FRAME},{other}"))

    assert error.param == VIDEO_FIELD


def test_too_many_images(client: openai.OpenAI) -> None:
    error = refused(client, *[image(media.png((56, 56), media.RED))] * 9, QUESTION)

    assert error.code == "too_many_images"
    assert "9 images are given, and one request may hold 8" in error.message
    assert error.param == "messages[0].content[8].image_url"


def test_too_many_videos(client: openai.OpenAI) -> None:
    error = refused(client, *[video(media.mp4(4))] * 3, QUESTION)

    assert error.code == "too_many_videos"


def test_over_long_text_names_total_and_limit(client: openai.OpenAI) -> None:
    error = refused(client, text("What is 3 plus 4? " * 900))

    assert error.code == "context_length_exceeded"
    assert error.param == "messages"
    assert "holds 2048 tokens" in error.message
    # The whole prompt was counted, not only up to the limit.
    assert "at least 2049" not in error.message


def test_text_with_more_characters_than_any_prompt_could_have(client: openai.OpenAI) -> None:
    error = refused(client, text("What is 3 plus 4? " * 50_000))

    assert error.code == "context_length_exceeded"
    assert "characters" in error.message


def test_over_long_images_name_total_and_limit(client: openai.OpenAI) -> None:
    sentence = "What is 3 plus 4? " * 180

    error = refused(client, *[image(media.png((224, 224), media.RED))] * 8, text(sentence))

    assert error.code == "context_length_exceeded"
    assert "holds 2048 tokens" in error.message


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, QUESTION, model="gpt-4")

    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_unknown_route(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.post("/nowhere", body={}, cast_to=object)

    assert isinstance(caught.value.body, dict)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": "hello"}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "foo"}]}]},
            "messages[0].content[0].type",
        ),
        ({"top_p": 7}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": "warm"}, "temperature"),
    ],
)
def test_malformed_fields_are_named(
    client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    body = {"model": TUNED, "messages": [{"role": "user", "content": "hello"}], **change}

    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)

    assert caught.value.param == param
    assert "Param" not in caught.value.message


def test_body_that_is_not_json(server: Server) -> None:
    import json
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions",
        data=b"{not json",
        headers={"content-type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)

    assert caught.value.code == 400
    assert json.load(caught.value)["error"]["type"] == "invalid_request_error"


def test_empty_conversation(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=TUNED, messages=[])
