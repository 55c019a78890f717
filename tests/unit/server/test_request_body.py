import asyncio
import json
from typing import Any

from vlmserve.server.request_body import RequestBody


def read(*chunks: bytes) -> RequestBody:
    pending = list(chunks)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pending.pop(0), "more_body": bool(pending)}

    body = RequestBody(receive)

    async def drain() -> None:
        while pending:
            await body.receive()

    asyncio.run(drain())
    return body


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def test_media_are_found_in_reading_order_over_messages() -> None:
    video = {"type": "video_url", "video_url": "v"}
    text = {"type": "text", "text": "x"}
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [text, image("a"), video]},
        {"role": "user", "content": [image("b")]},
    ]

    body = read(json.dumps({"messages": messages}).encode())

    assert body.media_fields("image") == [
        "messages[1].content[1].image_url",
        "messages[2].content[0].image_url",
    ]
    assert body.locate("v") == "messages[1].content[2].video_url"
    assert body.locate("elsewhere") is None


def test_body_may_come_in_pieces() -> None:
    whole = json.dumps({"messages": [{"role": "user", "content": [image("a")]}]}).encode()

    body = read(whole[:20], whole[20:])

    assert body.locate("a") == "messages[0].content[0].image_url"


def test_bodies_of_other_shapes_hold_no_media() -> None:
    shapes: list[Any] = [
        [],
        {"messages": 5},
        {"messages": [5, {"content": 5}, {"content": [5]}]},
        {"messages": [{"content": [{"image_url": 5}]}]},
    ]
    for shape in shapes:
        assert read(json.dumps(shape).encode()).locate("a") is None
    assert read(b"not JSON").content == {}
