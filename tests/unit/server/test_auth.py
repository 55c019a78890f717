"""API keys: who may ask what, and what a key file may hold."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.asgi import ask, hello
from vlmserve.config.server import ServerConfig
from vlmserve.errors import ConfigError
from vlmserve.server.auth import KeyGuard, KeyRing, Keys, take_keys
from vlmserve.server.context import context_of

NONE = KeyRing()


def guard(**rings: KeyRing) -> KeyGuard:
    keys = {"api": NONE, "metrics": NONE, "admin": NONE, **rings}
    return KeyGuard(hello, Keys(**keys))


def ring(*keys: str) -> KeyRing:
    return KeyRing({f"key{i}": key for i, key in enumerate(keys)})


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {key}".encode())]


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        (b"authorization", b"Bearer secret", 200),
        (b"authorization", b"bearer secret", 200),
        (b"authorization", b"Bearer  secret", 200),
        (b"authorization", b"Bearer another", 200),
        (b"x-api-key", b"secret", 200),
        (b"authorization", b"Bearer Secret", 401),
        (b"authorization", b"Bearer secrets", 401),
        (b"authorization", b"Basic secret", 401),
        (b"authorization", b"secret", 401),
        (b"authorization", b"Bearer \xff", 401),
        (b"authorization", b"", 401),
        (b"x-api-key", b"", 401),
    ],
)
def test_key_is_asked_for(name: bytes, value: bytes, status: int) -> None:
    answer = ask(guard(api=ring("secret", "another")), headers=[(name, value)])

    assert answer.status == status
    assert b"secret" not in answer.content


@pytest.mark.parametrize(
    "path", ["/invocations", "/tokenize", "/metrics", "/load", "/docs", "/x", "/", "/version"]
)
def test_every_route_is_behind_the_key(path: str) -> None:
    answer = ask(guard(api=ring("secret")), path)

    assert answer.status == 401
    assert answer.headers[b"www-authenticate"] == b"Bearer"
    assert answer.error["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(path: str) -> None:
    assert ask(guard(api=ring("secret")), path).status == 200
    assert ask(guard(api=ring("secret")), f"/vlm{path}", root_path="/vlm").status == 200


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/metrics", "watcher", 200),
        ("/metrics", "secret", 401),
        ("/v1/models", "watcher", 401),
        ("/admin/adapters", "boss", 200),
        ("/admin/adapters", "secret", 401),
        ("/admin", "secret", 401),
        ("/v1/models", "boss", 401),
    ],
)
def test_metrics_and_admin_routes_have_keys_of_their_own(path: str, key: str, status: int) -> None:
    guarded = guard(api=ring("secret"), metrics=ring("watcher"), admin=ring("boss"))

    assert ask(guarded, path, headers=bearer(key)).status == status


def test_without_an_admin_key_there_are_no_admin_routes() -> None:
    assert ask(guard(), "/admin/adapters").status == 404
    assert ask(guard(api=ring("secret")), "/admin/adapters", headers=bearer("secret")).status == 404


def test_name_of_the_key_is_remembered() -> None:
    names: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        names.append(context_of(scope).key_name)
        await hello(scope, receive, send)

    ask(KeyGuard(app, Keys(ring("one", "two"), NONE, NONE)), headers=bearer("two"))

    assert names == ["key1"]


def test_websocket_without_key_is_closed() -> None:
    sent: list[Any] = []

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
        await guard(api=ring("secret"))(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(run())

    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_keys_are_read_once_and_vllms_own_is_taken_away() -> None:
    environ = {"VLMSERVE_API_KEY": " ours\n", "VLLM_API_KEY": "theirs"}

    keys = take_keys(ServerConfig(), environ)

    assert keys.api.find(b"ours") == "default"
    assert keys.api.find(b"theirs") is None
    assert "VLLM_API_KEY" not in environ
    assert take_keys(ServerConfig(), {"VLLM_API_KEY": "theirs"}).api.find(b"theirs") == "default"
    assert not take_keys(ServerConfig(), {}).api


@pytest.mark.parametrize("environ", [{}, {"MY_KEY": "\n"}])
@pytest.mark.parametrize("field", ["api_key_env", "metrics_key_env", "admin_key_env"])
def test_key_that_was_named_must_be_there(environ: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: the variable MY_KEY holds no key"):
        take_keys(ServerConfig(**{field: "MY_KEY"}), environ)


def test_key_that_no_header_can_carry_is_refused_without_being_told() -> None:
    with pytest.raises(ConfigError) as caught:
        take_keys(ServerConfig(), {"VLMSERVE_API_KEY": "schlüssel"})

    assert "schl" not in caught.value.message


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    digest = hashlib.sha256(b"hashed-key").hexdigest()
    path.write_text(f"# of the web team\n\nweb:web-secret\nci:sha256:{digest}\n")
    return path


def test_file_of_keys(key_file: Path) -> None:
    keys = take_keys(ServerConfig(api_key_file=str(key_file)), {"VLMSERVE_API_KEY": "ours"}).api

    assert len(keys) == 3
    assert keys.find(b"web-secret") == "web"
    assert keys.find(b"hashed-key") == "ci"
    assert keys.find(b"ours") == "default"
    assert keys.find(b"web") is None
    assert keys.find(b"") is None


def test_file_is_read_again_when_it_changes_and_kept_when_it_breaks(key_file: Path) -> None:
    keys = KeyRing({}, key_file)
    assert not keys.has_changed()

    key_file.write_text("web:another-secret\n")
    os.utime(key_file, ns=(1, 1))
    assert keys.has_changed()
    keys.reload()
    assert not keys.has_changed()
    assert keys.find(b"another-secret") == "web"
    assert keys.find(b"web-secret") is None

    key_file.write_text("no name here\n")
    with pytest.raises(ConfigError, match="line 1"):
        keys.reload()
    assert keys.find(b"another-secret") == "web"
    assert not keys.has_changed()  # told once
    key_file.unlink()
    assert keys.has_changed()
    with pytest.raises(ConfigError, match="No such file"):
        keys.reload()
    assert keys.find(b"another-secret") == "web"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("just-a-secret-key\n", "line 1: expected name:key"),
        ("web:web-secret\nweb:other-secret\n", "line 2: the name web is taken"),
        ("web:short\n", "line 1: the key of web is shorter"),
        ("web:with a space\n", "line 1: the key of web"),
        ("web:sha256:abc\n", "64 hexadecimal digits"),
        ("web:schlüssel-secret\n", "no HTTP header can carry"),
        (":nameless-secret\n", "expected name:key"),
        ("default:another-secret\n", "the name default is taken"),
    ],
)
def test_broken_file_is_told_by_line_and_never_shown(key_file: Path, text: str, told: str) -> None:
    key_file.write_text(text)

    with pytest.raises(ConfigError, match=told) as caught:
        take_keys(ServerConfig(api_key_file=str(key_file)), {"VLMSERVE_API_KEY": "ours"})

    assert "secret" not in caught.value.message
    assert "short" not in caught.value.message.partition("is shorter")[0]
