"""Requests made to harm: each is refused with a 4xx that says why, and the server goes on.

Further cases, for the sentences of the errors, are in ``test_bad_requests.py``.
"""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.engine import hostile_media, media
from tests.engine.conftest import Server
from tests.engine.media import image, text, video
from tests.engine.media_host import MediaHost
from tests.engine.test_bad_requests import QUESTION, refused
from tests.engine.test_serving import TUNED, answer

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _survives(server: Server, client: openai.OpenAI) -> Iterator[None]:
    """After each request the server still answers a good one."""
    yield
    assert answer(client, image(media.png((84, 84), media.RED)), QUESTION) == "red"


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def check_refusal(response: httpx.Response, *statuses: int) -> str:
    """It is a 4xx in OpenAI's shape; gives its message."""
    assert response.status_code in (statuses or (400,)), response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return str(error["message"])


HOSTS = [
    "127.0.0.2", "127.1.1.1", "127.2", "2130706434", "0x7f000002", "0x7f.0.0.2", "0177.0.0.2",
    "017700000002", "127.0.0x0.2", "127.00.00.02", "0", "10.0.0.1", "172.16.0.1",
    "0.0.0.0",  # noqa: S104
    "192.168.0.1", "100.64.0.1", "169.254.1.1", "169.254.169.254", "2852039166", "0xa9fea9fe",
    "0251.0376.0251.0376", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16",
    "198.18.0.1", "192.0.2.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "[::]", "[::1]", "[::ffff:127.0.0.2]", "[::ffff:7f00:2]", "[::ffff:169.254.169.254]",
    "[::127.0.0.2]", "[64:ff9b::127.0.0.2]", "[2002:7f00:2::]", "[2001:0:7f00:2::]", "[fe80::1]",
    "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[2001:db8::1]", "[100::1]",
    "\uff11\uff12\uff17.0.0.2", "127\u30020.0.2", "127.0.0.2.", "user@127.0.0.1", "u:p@127.0.0.1",
    "127.0.0.1@127.0.0.2", "127.0.0.2#@127.0.0.1", "127.0.0.2\\@127.0.0.1", "", ".", "a b",
    "[::1", "127.0.0.1:0@x", "%31%32%37.0.0.2", "127.0.0.1%00.example.org", "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_that_are_nobodys_business(
    client: openai.OpenAI, media_host: MediaHost, host: str
) -> None:
    before = len(media_host.paths)

    error = refused(client, QUESTION, image(f"http://{host}:{media_host.port}/red.png"))

    assert error.code == "invalid_image"
    assert len(media_host.paths) == before


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/a.png", "gopher://127.0.0.1/_x", "dict://127.0.0.1:11211/stats",
        "ldap://127.0.0.1/", "javascript:alert(1)", "blob:https://example.org/1", "about:blank",
        "/etc/passwd", "//127.0.0.1/a.png", "C:\\a.png", "http:", "http://", "http:///a.png",
        "http:127.0.0.1", "http://127.0.0.1:99999/", "http://127.0.0.1:-1/", "http://127.0.0.1:x/",
        "https://127.0.0.1:22/", "HTTP://169.254.169.254/", "file:", "file:///", "file:////etc",
        "file://example.org/etc/passwd", "FILE:///etc/passwd", "file:///proc/self/environ",
        "file:///proc/self/fd/0", "file:///dev/stdin", "file:///dev/random", "file://%2Fetc%2Fpasswd",
        "file:///etc/passwd%00.png", "file:///" + "a/" * 3000, "data:", "data:,", "data:,hello",
        "data:;base64", "data:;base64,", "data:image/png;base64,====", "data:image/png;base64,A",
        "data:image/png;base64,\u00e9", "data:image/png;charset=utf-8,abc", "data:text/html;base64,"
        "PHNjcmlwdD4=", "\0", " ", "\r\nHost: x", "http://127.0.0.1/\r\nX: y", "x" * 1_000_000,
    ],
)  # fmt: skip
def test_urls_that_lead_nowhere(client: openai.OpenAI, url: str) -> None:
    error = refused(client, QUESTION, image(url))

    assert error.code == "invalid_image"
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "nowhere", "packed", "short", "garbage", "headers", "hangup", "status/204", "status/206",
        "status/301", "status/401", "status/418", "status/503", "redirect/ftp://127.0.0.1/",
        "redirect/data:image/png;base64,AAAA", "redirect/javascript:alert(1)", "redirect/",
        "redirect/http://u:p@127.0.0.1:PORT/red.png", "redirect/http://2130706434:PORT/red.png",
        "redirect/http://169.254.169.254:PORT/latest", "redirect/http://[::1]:PORT/red.png",
        "redirect/http://0177.0.0.2:PORT/red.png", "redirect///127.0.0.2:PORT/red.png",
        "redirect/http://[fd00:ec2::254]:PORT/", "redirect/http://[", "dot.mp4",
    ],
)  # fmt: skip
def test_hosts_that_answer_badly(client: openai.OpenAI, media_host: MediaHost, path: str) -> None:
    url = f"{media_host.url}/{path.replace('PORT', str(media_host.port))}"

    error = refused(client, QUESTION, image(url))

    assert error.code == "invalid_image"
    # Nobody is told what lies in this network.
    assert "Errno" not in error.message
    assert "refused" not in error.message.removeprefix("this image cannot be used")


@pytest.mark.parametrize("name", hostile_media.FORMATS)
def test_half_an_image(client: openai.OpenAI, name: str) -> None:
    half = hostile_media.half(hostile_media.picture(name))

    assert refused(client, QUESTION, image(half)).code == "invalid_image"


@pytest.mark.parametrize("name", hostile_media.huge_headers())
def test_headers_that_state_60_000_pixels_a_side(client: openai.OpenAI, name: str) -> None:
    error = refused(client, QUESTION, image(hostile_media.huge_headers()[name]))

    assert "more pixels than any limit allows" in error.message or "60000" in error.message


@pytest.mark.parametrize("name", hostile_media.bombs())
def test_bombs_and_files_of_other_kinds(client: openai.OpenAI, name: str) -> None:
    assert refused(client, QUESTION, image(hostile_media.bombs()[name])).code == "invalid_image"


@pytest.mark.parametrize("name", hostile_media.videos())
def test_videos_that_lie(client: openai.OpenAI, name: str) -> None:
    data, reason = hostile_media.videos()[name]

    error = refused(client, QUESTION, video(data))

    assert error.code == "invalid_video"
    assert reason in error.message


@pytest.mark.parametrize("name", hostile_media.frame_lists())
def test_frame_lists_that_are_none(client: openai.OpenAI, name: str) -> None:
    content, reason = hostile_media.frame_lists()[name]

    error = refused(client, QUESTION, video(f"data:video/jpeg;base64,{content}"))

    assert error.code == "invalid_video"
    assert reason in error.message


BODIES = {
    "nothing": b"",
    "white space": b"   ",
    "an array": b"[]",
    "a string": b'"messages"',
    "a number": b"5",
    "null": b"null",
    "half an object": b'{"model": "',
    "more than an object": b"{} {}",
    "no quotes": b"{model: 1}",
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "an endless number": b'{"model": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"messages": NaN}',
    "a form": b"model=x&messages=y",
    "XML": b"<?xml version='1.0'?><a/>",
    "zeros": bytes(1000),
    "arrays in arrays": b'{"messages": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    "objects in objects": b'{"a":' * 2000 + b"1" + b"}" * 2000,
    "arrays without an end": b"[" * 100_000,
    "50 MB of arrays": b"[" * 50_000_000,
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_are_none(http: httpx.Client, name: str) -> None:
    response = http.post(CHAT, content=BODIES[name], headers={"content-type": "application/json"})

    check_refusal(response, 400, 413)


def chat(**change: Any) -> dict[str, Any]:
    return {"model": TUNED, "messages": [{"role": "user", "content": "hello"}], **change}


def said(content: Any, **more: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": content, **more}])


PARAMETERS: dict[str, dict[str, Any]] = {
    "no messages": {"model": TUNED},
    "messages of null": chat(messages=None),
    "a message of null": chat(messages=[None]),
    "a message that is a list": chat(messages=[[]]),
    "no role": chat(messages=[{"content": "hello"}]),
    "a role of 5": chat(messages=[{"role": 5, "content": "hello"}]),
    "content of 5": said(5),
    "content of an object": said({"text": "hello"}),
    "a part of null": said([None]),
    "a part of text without text": said([{"type": "text"}]),
    "text of 5": said([{"type": "text", "text": 5}]),
    "a part of no type": said([{}]),
    "an unknown part": said([{"type": "image_path", "image_path": "/etc/passwd"}]),
    "an image without a URL": said([{"type": "image_url"}]),
    "an image of null": said([{"type": "image_url", "image_url": None}]),
    "an image of null with a uuid": said(
        [{"type": "image_url", "image_url": None, "uuid": "somebody's"}]
    ),
    "a URL of 5": said([{"type": "image_url", "image_url": {"url": 5}}]),
    "a URL of null": said([{"type": "image_url", "image_url": {"url": None}}]),
    "a list of URLs": said([{"type": "image_url", "image_url": {"url": ["a", "b"]}}]),
    "embeddings": said([{"type": "image_embeds", "image_embeds": "AAAA"}]),
    "audio": said([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    "media settings of its own": chat(media_io_kwargs={"video": {"num_frames": 10**9}}),
    "processor settings of its own": chat(mm_processor_kwargs={"max_pixels": 10**12}),
    "a model of 5": chat(model=5),
    "a model that is a list": chat(model=[TUNED]),
    "a temperature below 0": chat(temperature=-1),
    "a temperature of text": chat(temperature="hot"),
    "a top_p of 0": chat(top_p=0),
    "a top_p of 7": chat(top_p=7),
    "a top_k below -1": chat(top_k=-7),
    "a min_p of 2": chat(min_p=2),
    "a penalty of 100": chat(presence_penalty=100),
    "a penalty of text": chat(frequency_penalty="much"),
    "a repetition penalty of 0": chat(repetition_penalty=0),
    "no answers": chat(n=0),
    "answers below 0": chat(n=-1),
    "answers of text": chat(n="many"),
    "max_tokens of 0": chat(max_tokens=0),
    "max_tokens below 0": chat(max_tokens=-5),
    "max_tokens over the context": chat(max_tokens=10**9),
    "max_tokens of text": chat(max_tokens="all"),
    "max_tokens of 1e400": chat(max_tokens=10**400),
    "min_tokens over max_tokens": chat(min_tokens=9, max_tokens=3),
    "log-probabilities of a thousand": chat(logprobs=True, top_logprobs=1000),
    "log-probabilities below 0": chat(logprobs=True, top_logprobs=-2),
    "log-probabilities of the prompt in a stream": chat(stream=True, prompt_logprobs=1),
    "a seed of text": chat(seed="luck"),
    "a seed of 2**70": chat(seed=2**70),
    "a stop of 5": chat(stop=5),
    "an empty stop": chat(stop=[""]),
    "a bias of text": chat(logit_bias={"1": "much"}),
    "a bias of no token": chat(logit_bias={"999999999": 1}),
    "a bias of a word": chat(logit_bias={"hello": 1}),
    "a bias of 1000": chat(logit_bias={"1": 1000}, stop_token_ids=["x"]),
    "an unknown format": chat(response_format={"type": "yaml"}),
    "a schema of null": chat(response_format={"type": "json_schema"}),
    "a schema that is none": chat(
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {"type": "nonsense"}},
        }
    ),
    "a regular expression that is none": chat(structured_outputs={"regex": "(["}),
    "a grammar that is none": chat(structured_outputs={"grammar": "root ::= ("}),
    "two constraints": chat(structured_outputs={"regex": "a", "choice": ["b"]}),
    "no choices": chat(structured_outputs={"choice": []}),
    "tools of text": chat(tools="all"),
    "a tool without a function": chat(tools=[{"type": "function"}]),
    "a tool choice without tools": chat(
        tool_choice={"type": "function", "function": {"name": "a"}}
    ),
    "a choice of no tool": chat(
        tools=[{"type": "function", "function": {"name": "a", "parameters": {}}}],
        tool_choice={"type": "function", "function": {"name": "b"}},
    ),
    "a stream of text": chat(stream="maybe"),
    "stream options of text": chat(stream=True, stream_options="all"),
    "a template of its own": chat(chat_template="{{ 7 * 7 }}"),
    "template settings of text": chat(chat_template_kwargs="all"),
    "bad words of 5": chat(bad_words=5),
    "a salt of 5": chat(cache_salt=5),
    "an empty salt": chat(cache_salt=""),
    "half a character": said("\ud800"),
    "nobody's adapter": chat(model="../../etc/passwd"),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_cannot_be(http: httpx.Client, name: str) -> None:
    # As text, because Python's own encoder would refuse half a character.
    content = json.dumps(PARAMETERS[name]).encode()

    response = http.post(CHAT, content=content, headers={"content-type": "application/json"})

    message = check_refusal(response, 400, 404)
    assert "Traceback" not in message
    assert "site-packages" not in message


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("PUT", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/../../etc/passwd", 404),
        ("GET", "/v1/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/static/../../etc/passwd", 404),
        ("GET", "//etc/passwd", 404),
        ("GET", "/v1/" + "a" * 10_000, 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/v1/unload_lora_adapter", 404),
        ("POST", "/scale_elastic_ep", 404),
        ("POST", "/reset_prefix_cache", 404),
        ("POST", "/sleep", 404),
        ("POST", "/collective_rpc", 404),
    ],
)
def test_routes_that_are_none(http: httpx.Client, method: str, path: str, status: int) -> None:
    check_refusal(http.request(method, path, json={}), status)


def _raw(server: Server, data: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        # A server that has seen enough closes before all is sent.
        with contextlib.suppress(OSError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while part := sock.recv(65536):
                received += part
    return received


RAW = {
    "no HTTP": b"\0\1\2\3\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP of version 9": b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    "a method of its own": b"A B C D E\r\n\r\n",
    "a length below 0": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: -5\r\n\r\nhello",
    "a length of text": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: all\r\n\r\nhello",
    "two lengths": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
    "a length and chunks": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks that are none": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "a header of a megabyte": b"GET /health HTTP/1.1\r\nHost: a\r\nX-A: "
    + b"a" * 1_000_000
    + b"\r\n\r\n",
    "ten thousand headers": b"GET /health HTTP/1.1\r\nHost: a\r\n"
    + b"".join(b"X-%d: a\r\n" % number for number in range(10_000))
    + b"\r\n",
    "a length of 100 GB": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 100000000000\r\n\r\n{",
    "an upgrade": b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header with a line feed in it": b"GET /health HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_http(server: Server, name: str) -> None:
    received = _raw(server, RAW[name])

    assert not received or received.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), received[:200]


RED = media.data_url(media.png((84, 84), media.RED))


@pytest.mark.parametrize("route", [CHAT, f"{CHAT}/budget", f"{CHAT}/batch", "/tokenize"])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ({"type": "text", "text": "Name the color.", "image": 1}, "image"),
        ({"type": "text", "text": "Name the color.", "video": RED}, "video"),
        ({"type": "text", "text": "Name the color.", "image_url": {"url": RED}}, "image_url"),
        ({"type": "image_url", "image_url": {"url": RED}, "video": 1}, "video"),
    ],
)
def test_media_in_a_part_of_another_type(
    http: httpx.Client, route: str, part: dict[str, Any], key: str
) -> None:
    """A template writes the tokens of an image that is not there."""
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Hi."}, part]}]
    if route.endswith("batch"):
        messages = [messages]

    response = http.post(route, json={"model": TUNED, "messages": messages})

    message = check_refusal(response)
    assert message.startswith(f"messages[0].content[1].{key}: a part of type {part['type']}")
    assert response.json()["error"]["param"] == f"messages[0].content[1].{key}"


def test_text_is_what_it_is(client: openai.OpenAI) -> None:
    assert isinstance(answer(client, text("\0\u202e{{ 7 * 7 }} {% raw %}")), str)
