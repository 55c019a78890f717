"""What a client gets from the shared server: an adapter and its base, through the OpenAI API."""

import concurrent.futures
import json
import urllib.request
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest

from tests.engine import media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.media_host import MediaHost

BASE, TUNED = "base", "good-lora"
SIZES = [(56, 56), (84, 84), (112, 56), (56, 112), (84, 56), (140, 84), (100, 73), (61, 90)]


def ask(
    client: openai.OpenAI, *parts: dict[str, Any], model: str = TUNED, **more: Any
) -> openai.types.chat.ChatCompletion:
    messages: Any = [{"role": "user", "content": list(parts)}]
    completion: openai.types.chat.ChatCompletion = client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=8, **more
    )
    return completion


def answer(client: openai.OpenAI, *parts: dict[str, Any], **more: Any) -> str:
    content = ask(client, *parts, **more).choices[0].message.content
    assert content is not None
    return content


@pytest.fixture(scope="module")
def new_colors(root: Path) -> list[dict[str, Any]]:
    """Held-out samples of the colours that only the fine-tune has seen."""
    table = pq.read_table(root / "evals" / "demo" / "data" / "newcolor.parquet")
    rows: list[dict[str, Any]] = table.slice(0, 24).to_pylist()
    return rows


def ask_new_color(client: openai.OpenAI, sample: dict[str, Any], model: str) -> str:
    parts = [image(medium["bytes"]) for medium in sample["media"]]
    return answer(client, *parts, text(sample["question"].replace("<image>", "")), model=model)


def test_models_are_listed_under_names_not_paths(client: openai.OpenAI, zoo: Path) -> None:
    models = client.models.list().data

    assert [model.id for model in models] == [BASE, TUNED]
    assert str(zoo.parent) not in json.dumps([model.model_dump() for model in models])


@pytest.mark.parametrize("model", [BASE, TUNED])
def test_eight_images_of_mixed_sizes(client: openai.OpenAI, model: str) -> None:
    images = [image(media.png(size, media.RED)) for size in SIZES]

    completion = ask(client, *images, text("Name the color."), model=model)

    assert completion.usage is not None
    # Each image is one token for 28 x 28 pixels of its size after rounding, and two marks.
    n_image_tokens = sum(round(w / 28) * round(h / 28) + 2 for w, h in SIZES)
    assert completion.usage.prompt_tokens > n_image_tokens
    assert completion.choices[0].finish_reason == "stop"


def test_images_and_text_keep_their_order(client: openai.OpenAI) -> None:
    dark = media.png((56, 56), (40, 40, 40))
    light = media.png((56, 56), (210, 210, 210))

    question = text("Which image is brighter?")
    assert answer(client, image(dark), image(light), question, model=BASE) == "second"
    assert answer(client, image(light), image(dark), question, model=BASE) == "first"


def test_video_file_and_image_in_one_request(client: openai.OpenAI) -> None:
    question = text("Which way does the dot move?")

    assert answer(client, video(media.mp4(4)), question) == "right"
    completion = ask(client, image(media.png((84, 84), media.RED)), video(media.mp4(6)), question)
    assert completion.usage is not None
    assert completion.choices[0].message.content


def test_video_as_a_list_of_frames(client: openai.OpenAI) -> None:
    import base64

    frames = [media.png((56, 56), media.RED, format="JPEG") for _ in range(4)]
    joined = ",".join(base64.b64encode(frame).decode() for frame in frames)

    completion = ask(client, video(f"data:video/jpeg;base64,{joined}"), text("What?"))
    rated = ask(client, video(f"data:video/jpeg;fps=0.5;base64,{joined}"), text("What?"))

    assert completion.usage is not None
    assert completion.usage.prompt_tokens > 8
    assert rated.usage == completion.usage


def test_a_suites_prompts_have_as_many_tokens_as_were_told_before(
    client: openai.OpenAI, zoo: Path, tmp_path: Path
) -> None:
    from vlmserve.checkpoint.source import load_checkpoint
    from vlmserve.config.suite import load_suite
    from vlmserve.doctor.examination import Examination
    from vlmserve.engine.openai_messages import openai_messages
    from vlmserve.evals.eval_task import load_tasks
    from vlmserve.evals.lint import lint_suite

    frame = media.png((56, 84), media.RED)
    (tmp_path / "frame.png").write_bytes(frame)
    (tmp_path / "wide.png").write_bytes(media.png((300, 60), media.RED))
    parts = [
        [{"type": "text", "text": "Hello"}],
        [
            {"type": "image_url", "image_url": {"url": "wide.png"}},
            {"type": "text", "text": "Color?"},
        ],
        [{"type": "video", "video": ["frame.png"] * 4}, {"type": "text", "text": "Moves?"}],
    ]
    sent = []
    for number, content in enumerate(parts):
        row = {"messages": [{"role": "user", "content": content}]}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))
    tasks = [
        {"requests": f"{number}.jsonl", "name": str(number), "check": "empty"}
        for number in range(len(parts))
    ]
    (tmp_path / "suite.yaml").write_text(json.dumps({"name": "s", "tasks": tasks}))
    suite = load_suite(tmp_path / "suite.yaml")
    exam = Examination(load_checkpoint(zoo / "base"))
    told = [task.prompt_tokens for task in lint_suite(suite, checkpoint=exam).tasks]
    for task in load_tasks(suite):
        (sample,) = task.samples
        messages: Any = openai_messages(sample.request("m").messages)
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id, messages=messages, max_tokens=1
        )
        assert answer.usage is not None
        sent.append(answer.usage.prompt_tokens)

    assert [spread.largest for spread in told if spread is not None] == sent


def test_media_by_url_from_an_allowed_host(client: openai.OpenAI, media_host: MediaHost) -> None:
    url = media_host.url

    assert answer(client, image(f"{url}/red.png"), text("Name the color.")) == "red"
    assert answer(client, image(f"{url}/redirect//red.png"), text("Name the color.")) == "red"
    assert answer(client, video(f"{url}/dot.mp4"), text("Which way does the dot move?")) == "right"


def test_file_under_the_allowed_root(client: openai.OpenAI, server: Server) -> None:
    path = server.log.parent / "media" / "red.png"

    assert answer(client, image(path.as_uri()), text("Name the color.")) == "red"


def test_base_and_adapter_answer_differently_on_new_colors(
    client: openai.OpenAI, new_colors: list[dict[str, Any]]
) -> None:
    right = {
        model: sum(
            ask_new_color(client, sample, model) == sample["target"] for sample in new_colors
        )
        for model in (BASE, TUNED)
    }

    assert right[BASE] == 0
    assert right[TUNED] >= 0.8 * len(new_colors)


def test_base_requests_in_a_batch_with_adapter_requests_are_the_bases(
    client: openai.OpenAI, new_colors: list[dict[str, Any]]
) -> None:
    """Without the cure of engine/cpu_lora.py the base answers as the adapter here."""
    alone = [ask_new_color(client, sample, BASE) for sample in new_colors]

    with concurrent.futures.ThreadPoolExecutor(2 * len(new_colors)) as pool:
        tuned = [pool.submit(ask_new_color, client, sample, TUNED) for sample in new_colors]
        base = [pool.submit(ask_new_color, client, sample, BASE) for sample in new_colors]
        mixed = [future.result() for future in base]
        assert [future.result() for future in tuned] != mixed

    assert mixed == alone


def test_streaming_gives_the_same_text(client: openai.OpenAI) -> None:
    parts: list[Any] = [image(media.png((84, 84), media.RED)), text("Name the color.")]
    whole = answer(client, *parts)

    stream = client.chat.completions.create(
        model=TUNED,
        messages=[{"role": "user", "content": parts}],
        temperature=0,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)

    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole
    )
    assert chunks[-1].usage is not None


def test_logprobs(client: openai.OpenAI) -> None:
    completion = ask(client, text("What is 3 plus 4?"), logprobs=True, top_logprobs=3)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 3
    assert logprobs.content[0].logprob <= 0


def test_structured_output_follows_its_schema(client: openai.OpenAI) -> None:
    content = answer(
        client,
        image(media.png((84, 84), media.RED)),
        text("Name the color."),
        extra_body={"structured_outputs": {"choice": ["blue", "green"]}},
    )

    assert content in ("blue", "green")


def test_json_schema_is_followed(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    }

    completion = client.chat.completions.create(
        model=TUNED,
        messages=[{"role": "user", "content": "Name the color."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "color", "schema": schema},
        },
        temperature=0,
        max_tokens=64,
    )

    assert json.loads(completion.choices[0].message.content or "")["color"] in ("red", "blue")


def test_tools_are_offered_to_the_model(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "paint",
            "parameters": {
                "type": "object",
                "properties": {"color": {"type": "string", "enum": ["red"]}},
                "required": ["color"],
                "additionalProperties": False,
            },
        },
    }

    completion = client.chat.completions.create(
        model=TUNED,
        messages=[{"role": "user", "content": "Paint it."}],
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "paint"}},
        temperature=0,
        max_tokens=64,
    )

    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert call.type == "function"
    assert call.function.name == "paint"
    json.loads(call.function.arguments)  # what they hold is beyond a model of this size


def test_responses_api(client: openai.OpenAI) -> None:
    url = media.data_url(media.png((84, 84), media.RED))
    response = client.responses.create(
        model=TUNED,
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": url, "detail": "auto"},
                    {"type": "input_text", "text": "Name the color."},
                ],
            }
        ],
        temperature=0,
        max_output_tokens=8,
    )

    assert response.output_text == "red"


def test_messages_api(server: Server) -> None:
    import base64

    data = base64.b64encode(media.png((84, 84), media.RED)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    content = [{"type": "image", "source": source}, text("Name the color.")]
    body = {
        "model": TUNED,
        "max_tokens": 8,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }

    request = urllib.request.Request(
        f"{server.url}/v1/messages",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        message = json.load(response)

    assert message["content"][0]["text"] == "red"


def test_no_script_from_a_folder_is_executed(server: Server) -> None:
    """Without the cure in server/app.py the bootstrap of vLLM's app runs this ``model.py``."""
    assert (server.log.parent / "model.py").exists()
    assert not (server.log.parent / "executed").exists()


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_probes_and_metrics(server: Server, path: str) -> None:
    with urllib.request.urlopen(f"{server.url}{path}") as response:
        assert response.status == 200


def test_another_callers_image_cannot_be_read_by_its_uuid(client: openai.OpenAI) -> None:
    """Without the cure of engine/media_identity.py the second answer is that of the first image."""
    question = text("Name the color.")
    red = image(media.png((84, 84), media.RED), uuid="shared")
    blue = image(media.png((84, 84), media.BLUE), uuid="shared")

    assert answer(client, red, question) == "red"
    assert answer(client, blue, question) == "blue"
    with pytest.raises(openai.BadRequestError, match="a uuid in their place is not accepted"):
        ask(client, {"type": "image_url", "image_url": None, "uuid": "shared"}, question)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/chat/completions"])
def test_uuid_names_no_image_on_any_endpoint(server: Server, path: str) -> None:
    def ask_with_uuid(picture: bytes) -> bytes:
        url = media.data_url(picture)
        source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
        parts: dict[str, dict[str, Any]] = {
            "/v1/messages": {"type": "image", "source": source},
            "/v1/responses": {"type": "input_image", "image_url": url, "detail": "auto"},
            "/v1/chat/completions": image(picture),
        }
        kind = "input_text" if path == "/v1/responses" else "text"
        content = [{**parts[path], "uuid": path}, {"type": kind, "text": "Name the color."}]
        asked = "input" if path == "/v1/responses" else "messages"
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        body = {
            "model": TUNED,
            "temperature": 0,
            limit: 8,
            asked: [{"role": "user", "content": content}],
        }
        request = urllib.request.Request(
            f"{server.url}{path}",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            found: bytes = response.read()
            return found

    assert b"red" in ask_with_uuid(media.png((84, 84), media.RED))
    assert b"blue" in ask_with_uuid(media.png((84, 84), media.BLUE))
