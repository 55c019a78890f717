"""Bad input to the shared server: a clear error in OpenAI's shape, and the server goes on."""

import base64
import io
import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.media_host import MediaHost
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
        (media.data_url(b""), "empty, not an image file"),
        (
            media.data_url(media.png((300, 300), media.RED, format="JPEG")[:900]),
            "truncated",
        ),
        (media.data_url(media.png((30, 30), media.RED, format="PPM")), "of a known format (PNG"),
        (media.data_url(bytes(2_000_001)), "media.max_image_bytes"),
        (media.data_url(media.mp4(4)), "it is video/mp4, not an image file"),
        (media.data_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "not an image file"),
        ("data:image/png;base64,@@@", "base64"),
        ("data:image/png,plain", "base64"),
        ("data:image/png", "data URL"),
        ("ftp://example.org/a.png", "URL"),
        ("http://example.org/a.png", "media.allowed_hosts: [example.org]"),
        ("http://127.0.0.1:9/a.png", "media.allowed_hosts: ['127.0.0.1:9']"),
        ("http://169.254.169.254/latest", "media.allowed_hosts: [169.254.169.254]"),
        ("file:///etc/hostname", "no such file under a directory"),
        ("file:///etc/../etc/hostname", "no such file under a directory"),
        ("file:///dev/zero", "no such file under a directory"),
        ("file:///nowhere/a.png", "no such file under a directory"),
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


@pytest.mark.parametrize(
    ("side", "reason"),
    [
        (20_000, "more pixels than any limit allows"),
        (13_300, "13300 x 13300 pixels, and 64000000 in all are allowed"),
    ],
)
def test_huge_image_is_refused_before_it_is_decoded(
    client: openai.OpenAI, side: int, reason: str
) -> None:
    error = refused(client, QUESTION, image(black(side)))

    assert reason in error.message
    assert error.param == IMAGE_FIELD


def test_images_of_one_request_that_are_too_large_together(client: openai.OpenAI) -> None:
    error = refused(client, QUESTION, *[image(black(5000))] * 5)

    assert "media.max_request_pixels" in error.message


def black(side: int) -> bytes:
    """A black picture of few bytes."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("status/404", "HTTP 404"),
        ("status/500", "HTTP 500"),
        ("html", "'text/html'"),
        ("endless", "media.max_image_bytes"),
        ("silent", "in time"),
        ("dripping", "in time"),
        ("redirect/http://127.0.0.1:9/", "media.allowed_hosts"),
        ("redirect/http://127.0.0.2:PORT/", "media.allowed_networks"),
        ("redirect/http://[::ffff:127.0.0.2]:PORT/", "media.allowed_networks"),
        ("redirect/file:///etc/hostname", "redirects elsewhere"),
    ],
)
def test_host_that_behaves_badly(
    client: openai.OpenAI, media_host: MediaHost, path: str, reason: str
) -> None:
    url = f"{media_host.url}/{path.replace('PORT', str(media_host.port))}"

    error = refused(client, QUESTION, image(url))

    assert reason in error.message
    assert error.code == "invalid_image"
    assert error.param == IMAGE_FIELD


def test_redirects_without_an_end(client: openai.OpenAI, media_host: MediaHost) -> None:
    url = f"{media_host.url}/" + "redirect//" * 5

    assert "more than 3 redirects" in refused(client, QUESTION, image(url)).message


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.2", "127.2", "0x7f000002", "2130706434", "0177.0.0.2", "[::1]", "[::]",
        "[::ffff:127.0.0.2]", "[64:ff9b::7f00:2]", "user@127.0.0.1", "user:pw@127.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(
    client: openai.OpenAI, media_host: MediaHost, host: str
) -> None:
    before = len(media_host.paths)

    refused(client, QUESTION, image(f"http://{host}:{media_host.port}/red.png"))

    assert len(media_host.paths) == before


@pytest.mark.parametrize(
    ("route", "body"),
    [
        (
            "/responses",
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "URL"}]}]},
        ),
        (
            "/messages",
            {
                "max_tokens": 4,
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"type": "url", "url": "URL"}}],
                    }
                ],
            },
        ),
    ],
)
def test_every_endpoint_has_the_guard(
    client: openai.OpenAI, media_host: MediaHost, route: str, body: dict[str, Any]
) -> None:
    before = len(media_host.paths)
    url = f"http://127.0.0.2:{media_host.port}/red.png"
    filled = json.loads(json.dumps({"model": TUNED, **body}).replace("URL", url))

    with pytest.raises(openai.BadRequestError) as caught:
        client.post(route, body=filled, cast_to=object)

    assert "not a public address" in caught.value.message
    assert len(media_host.paths) == before


def test_links_out_of_the_allowed_root(client: openai.OpenAI, server: Server) -> None:
    link = server.log.parent / "media" / "link.png"
    link.symlink_to("/etc/hostname")

    assert "no such file" in refused(client, QUESTION, image(link.as_uri())).message


def test_image_that_the_processor_refuses(client: openai.OpenAI) -> None:
    error = refused(client, QUESTION, image(media.png((5000, 10), media.RED)))

    assert "longer side is more than 200 times the shorter" in error.message
    assert error.code == "invalid_image"
    assert error.param == IMAGE_FIELD


@pytest.mark.parametrize(
    ("data", "content_type", "reason"),
    [
        (b"", "video/mp4", "empty, not a video file"),
        (b"hello", "video/mp4", "not a video file of a known format"),
        (b"#EXTM3U\nfile:///etc/hostname\n", "video/mp4", "not a video file of a known format"),
        (media.mp4(4)[:300], "video/mp4", "truncated or corrupt"),
        (media.mp4(400, side=512), "video/mp4", "media.max_request_pixels"),
        (media.mp4(1), "video/mp4", "too few frames"),
        (media.png((56, 56), media.RED, format="GIF"), "image/gif", "too few frames"),
        (media.png((56, 56), media.RED), "image/png", "it is image/png, not a video file"),
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


CONVERSATION = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": CONVERSATION, "n": 17}, "n"),
        ("/v1/chat/completions", {"messages": CONVERSATION, "n": 17, "stream": True}, "n"),
        ("/v1/chat/completions", {"messages": CONVERSATION, "best_of": 17}, "best_of"),
        (
            "/v1/chat/completions",
            {"messages": CONVERSATION, "n": 17, "use_beam_search": True},
            "n",
        ),
        ("/v1/chat/completions/budget", {"messages": CONVERSATION, "n": 17}, "n"),
        ("/v1/chat/completions/batch", {"messages": [CONVERSATION] * 17}, "messages"),
        ("/v1/completions", {"prompt": "hello", "n": 16_384}, "n"),
        ("/v1/completions", {"prompt": "hello", "best_of": 17}, "best_of"),
        ("/v1/completions", {"prompt": ["hello"] * 9, "n": 2}, "prompt"),
    ],
)
def test_more_answers_than_one_request_may_ask_for(
    server: Server, route: str, body: dict[str, Any], param: str
) -> None:
    response = httpx.post(f"{server.url}{route}", json={"model": TUNED, **body}, timeout=60)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(f"{param}: ")
    assert "server.max_choices" in error["message"]
    assert error["type"] == "invalid_request_error"


def test_as_many_answers_as_one_request_may_ask_for(client: openai.OpenAI) -> None:
    question: Any = CONVERSATION
    chat = client.chat.completions.create(model=TUNED, messages=question, n=16, max_tokens=2)
    assert len(chat.choices) == 16
    texts = client.completions.create(model=TUNED, prompt=["hello"] * 8, n=2, max_tokens=2)
    assert len(texts.choices) == 16


def test_body_that_is_not_json(server: Server) -> None:
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


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain"])
def test_content_type_that_is_not_json(server: Server, content_type: str) -> None:
    for route in ("/v1/chat/completions", "/v1/chat/completions/budget"):
        answer = httpx.post(
            f"{server.url}{route}", content=b"{}", headers={"content-type": content_type}
        )

        assert answer.status_code == 400
        assert "application/json" in answer.json()["error"]["message"]


def test_tool_arguments_that_nest_too_deep(client: openai.OpenAI) -> None:
    function: Any = {"name": "f", "arguments": "[" * 100_000}
    calls: Any = [{"id": "c", "type": "function", "function": function}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=TUNED,
            messages=[
                {"role": "user", "content": "hello"},
                {"role": "assistant", "tool_calls": calls},
            ],
        )

    assert caught.value.code == "json_too_deep"


def test_empty_conversation(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=TUNED, messages=[])
