"""The guards around a small ASGI app, driven through the protocol itself."""

import asyncio
import json
from typing import Any

import pytest

from vlmserve.config.serve import ServerConfig
from vlmserve.engine.media_connector import current_request
from vlmserve.errors import ConfigError
from vlmserve.server.admission import Admission, AdmissionGate
from vlmserve.server.auth import ApiKeyGuard, take_api_key
from vlmserve.server.errors import ErrorTranslator, send_error


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def call(
    app: Any,
    path: str = "/v1/models",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: Any = None,
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": list(headers), "method": "POST"}
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), content


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (b"Bearer secret", 200),
        (b"bearer secret", 200),
        (b"Bearer  secret", 200),
        (b"Bearer Secret", 401),
        (b"Bearer secrets", 401),
        (b"Basic secret", 401),
        (b"secret", 401),
        (b"", 401),
    ],
)
def test_key_is_asked_for(authorization: bytes, status: int) -> None:
    guard = ApiKeyGuard(hello, key="secret")

    found, _, content = asyncio.run(call(guard, headers=((b"authorization", authorization),)))

    assert found == status
    assert b"secret" not in content


@pytest.mark.parametrize("path", ["/invocations", "/tokenize", "/metrics", "/load", "/docs", "/x"])
def test_every_route_is_behind_the_key(path: str) -> None:
    status, headers, content = asyncio.run(call(ApiKeyGuard(hello, key="secret"), path))

    assert status == 401
    assert headers[b"www-authenticate"] == b"Bearer"
    assert json.loads(content)["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(path: str) -> None:
    assert asyncio.run(call(ApiKeyGuard(hello, key="secret"), path))[0] == 200


def test_preflight_needs_no_key() -> None:
    async def run() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"origin", b"https://a.example"), (b"access-control-request-method", b"POST")]
        scope = {"type": "http", "path": "/v1/x", "headers": headers, "method": "OPTIONS"}
        await ApiKeyGuard(hello, key="secret")(scope, None, send)  # type: ignore[arg-type]
        status: int = sent[0]["status"]
        return status

    assert asyncio.run(run()) == 200


def test_key_is_read_once_and_vllms_own_is_taken_away() -> None:
    environ = {"VLMSERVE_API_KEY": " ours\n", "VLLM_API_KEY": "theirs"}

    assert take_api_key(ServerConfig(), environ) == "ours"
    assert "VLLM_API_KEY" not in environ
    assert take_api_key(ServerConfig(), {"VLLM_API_KEY": "theirs"}) == "theirs"
    assert take_api_key(ServerConfig(), {}) is None


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": "\n"}])
def test_key_that_was_named_must_be_there(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="MY_KEY holds no key"):
        take_api_key(ServerConfig(api_key_env="MY_KEY"), environ)


def test_key_that_no_header_can_carry_is_refused_without_being_told() -> None:
    with pytest.raises(ConfigError) as caught:
        take_api_key(ServerConfig(), {"VLMSERVE_API_KEY": "schlüssel"})

    assert "schl" not in caught.value.message


def test_websocket_without_key_is_closed() -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
        await ApiKeyGuard(hello, key="secret")(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(run())

    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_drain_refuses_new_requests_and_waits_for_the_running() -> None:
    async def run() -> None:
        admission, finish = Admission(), asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await finish.wait()
            await hello(scope, receive, send)

        running = asyncio.create_task(call(AdmissionGate(slow, admission)))
        await asyncio.sleep(0)
        admission.close()

        assert admission.n_running == 1
        assert not await admission.drained(timeout_s=0.01)
        status, headers, content = await call(AdmissionGate(hello, admission))
        assert status == 503
        assert headers[b"retry-after"] == b"1"
        assert json.loads(content)["error"]["type"] == "server_error"
        assert (await call(AdmissionGate(hello, admission), "/health"))[0] == 200

        finish.set()
        assert await admission.drained(timeout_s=5)
        assert (await running)[0] == 200

    asyncio.run(run())


def test_request_that_raises_is_counted_out() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    admission = Admission()
    with pytest.raises(ConnectionResetError):
        asyncio.run(call(AdmissionGate(broken, admission)))

    assert admission.n_running == 0


def test_success_passes_untouched() -> None:
    assert asyncio.run(call(ErrorTranslator(hello)))[2] == b"hello"


def test_failure_is_rewritten_and_keeps_other_headers() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        error = {"message": "The model `x` does not exist.", "code": 404}
        await send_error(send, 404, {"error": error}, ((b"x-request-id", b"7"),))

    status, headers, content = asyncio.run(call(ErrorTranslator(failing), body={"model": "x"}))

    assert status == 404
    assert headers[b"x-request-id"] == b"7"
    assert int(headers[b"content-length"]) == len(content)
    assert json.loads(content)["error"]["code"] == "model_not_found"


def test_media_of_a_running_request_are_located() -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        request = current_request.get()
        assert request is not None
        assert request.locate is not None
        found.append(request.locate("u"))
        await hello(scope, receive, send)

    part = {"type": "image_url", "image_url": {"url": "u"}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    asyncio.run(call(ErrorTranslator(app), body=body))

    assert found == ["messages[0].content[0].image_url"]
    assert current_request.get() is None
