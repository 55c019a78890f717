"""What a prompt takes of the context, beforehand and afterwards, on the shared server."""

import json
import random
import re
import urllib.request
from typing import Any

import openai
import pytest

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.media_host import MediaHost
from tests.engine.test_serving import BASE, TUNED, ask

LIMIT = 2048
WORDS = [
    "What",
    "color",
    "shape",
    "digit",
    "is",
    "the",
    "first",
    "second",
    "brighter",
    "how",
    "many",
]


def budget(client: openai.OpenAI, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    body = {"model": TUNED, "messages": [{"role": "user", "content": list(parts)}], **more}
    return client.post("/chat/completions/budget", body=body, cast_to=dict[str, Any])


def gradient(size: tuple[int, int], seed: int) -> bytes:
    """An image that no cache knows."""
    return media.png(size, (seed % 256, seed // 7 % 256, seed // 11 % 256))


def random_parts(dice: random.Random) -> list[dict[str, Any]]:
    parts = []
    for _ in range(dice.randint(0, 4)):
        size = dice.randint(30, 300), dice.randint(30, 300)
        parts.append(image(gradient(size, dice.randint(0, 10_000))))
    for _ in range(dice.randint(0, 2)):
        side, n_frames = dice.choice([32, 56, 84, 100]), dice.randint(2, 14)
        parts.append(video(media.mp4(n_frames, side=side, fps=dice.choice([1.0, 2.0, 5.0, 8.0]))))
    lengths = [dice.randint(1, 30) for _ in range(dice.randint(1, 4))]
    parts += [text(" ".join(dice.choices(WORDS, k=length))) for length in lengths]
    dice.shuffle(parts)
    return parts


@pytest.mark.parametrize("seed", range(12))
def test_it_is_the_prompt_of_the_real_call(client: openai.OpenAI, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - mixes, no secrets
    parts = random_parts(dice)
    model = (BASE, TUNED)[seed % 2]

    found = budget(client, *parts, model=model)
    real = ask(client, *parts, model=model)
    again = budget(client, *parts, model=model)

    assert real.usage is not None
    assert found["fits"] is True
    assert found["prompt_tokens"] == real.usage.prompt_tokens
    assert found["limit"] == LIMIT
    assert sum(part["tokens"] for part in found["parts"]) == found["prompt_tokens"]
    assert again == found
    details = real.usage.prompt_tokens_details
    assert details is not None
    shown = details.model_dump()
    for kind in ("text", "image", "video"):
        own = [part["tokens"] for part in found["parts"] if part["type"] == kind]
        assert shown[f"{kind}_tokens"] == sum(own)
    assert details.cached_tokens is not None


def test_counting_alone_is_not_refused(client: openai.OpenAI, server: Server) -> None:
    words = words_of(client, LIMIT)
    messages = [{"role": "user", "content": [words]}]
    request = urllib.request.Request(
        f"{server.url}/tokenize",
        data=json.dumps({"model": TUNED, "messages": messages}).encode(),
        headers={"content-type": "application/json"},
    )

    with urllib.request.urlopen(request) as response:
        counted = json.load(response)["count"]

    assert counted == budget(client, words)["prompt_tokens"] > LIMIT


def test_token_ids_of_the_callers_own(client: openai.OpenAI) -> None:
    found = budget(client, text("x"), kv_transfer_params={"prompt_token_ids": [5, 6, 7]})

    assert found["prompt_tokens"] == 3


TOOL = {
    "type": "function",
    "function": {"name": "paint", "parameters": {"type": "object", "properties": {}}},
}


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL]}, {"max_completion_tokens": 2}])
def test_a_conversation_with_media_in_earlier_turns(
    client: openai.OpenAI, more: dict[str, Any]
) -> None:
    messages: Any = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": random_parts(random.Random(77))},  # noqa: S311
        {"role": "assistant", "content": "red"},
        {"role": "user", "content": [video(media.mp4(5)), text("And this?")]},
    ]
    body = {"model": TUNED, "messages": messages, **more}

    found = client.post("/chat/completions/budget", body=body, cast_to=dict[str, Any])
    real = client.chat.completions.create(**{"max_tokens": 2, **body})

    assert real.usage is not None
    assert found["prompt_tokens"] == real.usage.prompt_tokens
    assert found["parts"][-1]["field"] == "messages[3].content[0].video_url"


def test_parts_have_sizes_fields_and_frames(client: openai.OpenAI) -> None:
    found = budget(
        client,
        text("What is this?"),
        image(media.png((100, 73), media.RED)),
        video(media.mp4(10, side=56, fps=5.0)),
        image(media.png((61, 90), media.RED)),
    )

    words, first, second, clip = found["parts"]
    assert words["type"] == "text"
    assert first["field"] == "messages[0].content[1].image_url"
    assert (first["width_px"], first["height_px"]) == (100, 73)
    assert (first["resized_width_px"], first["resized_height_px"]) == (112, 84)
    assert first["tokens"] == 4 * 3
    assert second["field"] == "messages[0].content[3].image_url"
    assert second["tokens"] == 2 * 3
    assert clip["field"] == "messages[0].content[2].video_url"
    assert (clip["n_frames"], clip["frames_per_second"]) == (10, 5.0)
    # Two frames a second of two seconds.
    assert clip["sampled_frames"] == [
        {"index": 0, "time_s": 0.0},
        {"index": 2, "time_s": 0.4},
        {"index": 5, "time_s": 1.0},
        {"index": 7, "time_s": 1.4},
    ]
    assert clip["tokens"] == 2 * 2 * 2


def test_room_for_the_answer_is_what_the_call_would_get(client: openai.OpenAI) -> None:
    found = budget(client, text("Name the color."), max_tokens=7)
    unlimited = budget(client, text("Name the color."))

    assert found["max_completion_tokens"] == 7
    assert unlimited["max_completion_tokens"] == LIMIT - unlimited["prompt_tokens"]


SIZES = [(224, 196 + 4 * n) for n in range(8)]
"""Images of 56 or 64 tokens each, as large as this model's processor leaves any."""


def words_of(client: openai.OpenAI, n_tokens: int) -> dict[str, Any]:
    """A text of about so many tokens, at least."""
    sentence = "What is 3 plus 4? "
    one, two = (budget(client, text(sentence * n))["prompt_tokens"] for n in (10, 20))
    return text(sentence * (n_tokens * 10 // (two - one) + 1))


def test_prompt_that_does_not_fit_is_laid_out(client: openai.OpenAI) -> None:
    parts = [image(media.png(size, media.RED)) for size in SIZES]
    words = words_of(client, 1700)

    found = budget(client, *parts, words)

    assert found["fits"] is False
    assert found["prompt_tokens"] == sum(part["tokens"] for part in found["parts"])
    assert [part["tokens"] for part in found["parts"][1:]] == [56] * 4 + [64] * 4
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, *parts, words)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    message = found["message"]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == message
    assert f"the prompt has {found['prompt_tokens']} tokens" in message
    assert "holds 2048 tokens" in message
    assert f"- text: {found['parts'][0]['tokens']} tokens" in message
    assert "- messages[0].content[7].image_url (224 x 224): 64 tokens" in message
    excess = found["prompt_tokens"] - (LIMIT - 1)
    assert f"drop {-(-excess // 64)} of 8 images" in message
    assert f"shorten the text by {excess} tokens" in message


def test_the_advice_is_enough(client: openai.OpenAI) -> None:
    words = words_of(client, 1750)
    message = budget(client, *[image(media.png(size, media.RED)) for size in SIZES], words)[
        "message"
    ]
    found = re.search(r"lower max_pixels to (\d+)", message)
    assert found is not None

    def scaled(limit: int) -> list[dict[str, Any]]:
        ratios = [min(1.0, (limit / (width * height)) ** 0.5) for width, height in SIZES]
        return [
            image(media.png((int(width * ratio), int(height * ratio)), media.RED))
            for (width, height), ratio in zip(SIZES, ratios, strict=True)
        ]

    assert budget(client, *scaled(int(found[1])), words)["fits"] is True


def test_a_long_video_is_refused_by_its_header(client: openai.OpenAI, server: Server) -> None:
    clip = media.mp4(300, side=512, fps=2.0)
    before = peak_bytes(server)

    found = budget(client, video(clip), text("What moves?"))
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, video(clip), text("What moves?"))

    assert found["fits"] is False
    assert found["parts"][1]["tokens"] == 150 * 8 * 8
    assert len(found["parts"][1]["sampled_frames"]) == 300
    assert "send 62 of the video's 300 sampled frames" in caught.value.message
    # Decoded and resized it would take over a GB.
    assert peak_bytes(server) - before < 200_000_000


def peak_bytes(server: Server) -> int:
    """The most memory that the server's process has held so far."""
    from pathlib import Path

    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def test_the_same_image_is_answered_after_a_refusal(client: openai.OpenAI) -> None:
    """A refused request's media were never sent to the engine, so they must not count as known."""
    new = image(gradient((83, 131), 4242))
    with pytest.raises(openai.BadRequestError, match="context"):
        ask(client, new, words_of(client, LIMIT))
    assert budget(client, new, text("Name the color."))["fits"]

    assert ask(client, new, text("Name the color.")).choices[0].message.content


def test_bad_requests_are_refused_as_the_real_call_refuses_them(
    client: openai.OpenAI, server: Server
) -> None:
    cases: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
        ([text("x")], {"model": "gpt-4"}),
        ([text("x"), image("http://example.org/a.png")], {}),
        ([text("x"), image(b"hello")], {}),
        ([text("x")], {"messages": []}),
        ([text("x")], {"max_tokens": 5000}),
        ([text("x")], {"temperature": -1}),
        ([text("x"), *[image(media.png((28, 28), media.RED))] * 9], {}),
        ([text("What is 3 plus 4? " * 50_000)], {}),
        ([text("x")], {"media_io_kwargs": {"video": {"num_frames": 8}}}),
    ]
    for parts, change in cases:
        body = {"model": TUNED, "messages": [{"role": "user", "content": parts}], **change}
        answers = [post(server, path, body) for path in ("/budget", "")]
        assert answers[0] == answers[1]
        assert 400 <= answers[0][0] < 500


def post(server: Server, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions{path}",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_an_option_that_would_change_nothing_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, text("x"), extra_body={"media_io_kwargs": {"video": {"num_frames": 8}}})
    assert caught.value.param == "media_io_kwargs.video.num_frames"
    assert "use fps, min_frames and max_frames" in caught.value.message

    part = image(media.png((56, 56), media.RED))
    part["image_url"]["detail"] = "low"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, text("x"), part)
    assert caught.value.param == "messages[0].content[1].image_url.detail"


def test_media_by_url(client: openai.OpenAI, media_host: MediaHost) -> None:
    found = budget(client, image(f"{media_host.url}/red.png"), text("Name the color."))

    assert found["parts"][1]["tokens"] == 9


def test_streams_say_it_in_their_last_chunk(client: openai.OpenAI) -> None:
    parts: list[Any] = [image(media.png((84, 84), media.RED)), text("Name the color.")]

    *_, last = client.chat.completions.create(
        model=TUNED,
        messages=[{"role": "user", "content": parts}],
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    )

    assert last.usage is not None
    assert last.usage.prompt_tokens_details is not None
    details = last.usage.prompt_tokens_details.model_dump()
    assert (details["image_tokens"], details["video_tokens"]) == (9, 0)
    assert details["text_tokens"] == last.usage.prompt_tokens - 9


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_other_endpoints_name_the_parts_as_well(
    client: openai.OpenAI, server: Server, path: str
) -> None:
    url = media.data_url(media.png((224, 196), media.RED))
    source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
    words = words_of(client, 2000)["text"]
    parts: list[Any]
    if path == "/v1/responses":
        parts = [{"type": "input_image", "image_url": url}, {"type": "input_text", "text": words}]
        body: dict[str, Any] = {"input": [{"role": "user", "content": parts}]}
    else:
        parts = [{"type": "image", "source": source}, {"type": "text", "text": words}]
        body = {"max_tokens": 8, "messages": [{"role": "user", "content": parts}]}
    request = urllib.request.Request(
        f"{server.url}{path}",
        data=json.dumps({"model": TUNED, **body}).encode(),
        headers={"content-type": "application/json"},
    )

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)

    with caught.value as refused:
        error = json.load(refused)["error"]
    assert error["code"] == "context_length_exceeded"
    assert "(224 x 196): 56 tokens" in error["message"]


def test_the_formula_has_been_right_for_all_of_them(server: Server) -> None:
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        lines = response.read().decode().splitlines()

    found = [line for line in lines if line.startswith("vlmserve_placeholder_mismatches_total")]
    assert sorted(found) == [
        'vlmserve_placeholder_mismatches_total{kind="image"} 0.0',
        'vlmserve_placeholder_mismatches_total{kind="video"} 0.0',
    ]
    assert "formula gives" not in server.output
