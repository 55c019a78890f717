"""Adapters rolled out, moved and taken back on the shared server, while it answers."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tests.engine.conftest import ADMIN_KEY, Server

OLD, NEW, ALIAS = "good-lora", "good-lora-v2", "stable"


def admin(
    server: Server, method: str, path: str, body: Any = None, key: str = ADMIN_KEY
) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.url}/admin/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def state(server: Server) -> dict[str, Any]:
    status, found = admin(server, "GET", "adapters")
    assert status == 200
    assert isinstance(found, dict)
    return found


@pytest.fixture(autouse=True)
def clean(server: Server) -> Iterator[None]:
    yield
    for alias in state(server)["aliases"]:
        admin(server, "DELETE", f"aliases/{alias['name']}")
    for adapter in state(server)["adapters"]:
        if adapter["name"] != OLD:
            admin(server, "DELETE", f"adapters/{adapter['name']}")


def ask(client: openai.OpenAI, model: str, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": "What is 3 plus 4?"}]
    return client.chat.completions.create(
        model=model, messages=messages, temperature=0, max_tokens=8, **more
    )


@contextmanager
def traffic(server: Server, model: str) -> Iterator[list[Any]]:
    """Four clients that ask all the time; holds which adapter answered, and every failure.

    Entered when each has its first answer: adapters may change faster than a client is made.
    """
    answers: list[Any] = []
    stop = threading.Event()
    asking = threading.Barrier(5)

    def work() -> None:
        client = server.client()
        first = True
        while not stop.is_set():
            try:
                answers.append(ask(client, model).model)
            except openai.OpenAIError as error:
                answers.append(error)
            if first:
                asking.wait(120)
                first = False

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        asking.wait(120)
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_rolled_out_moved_and_taken_back_under_traffic(
    server: Server, client: openai.OpenAI
) -> None:
    assert admin(server, "PUT", f"aliases/{ALIAS}", {"target": OLD})[0] == 200
    stream = ask(client, ALIAS, stream=True, extra_body={"ignore_eos": True, "max_tokens": 1500})
    assert next(iter(stream)).model == OLD

    with traffic(server, ALIAS) as answers:
        status, found = admin(server, "POST", "adapters", {"path": NEW, "alias": ALIAS})
        assert status == 200, found
        assert (found["name"], found["check"]["warn"]) == (NEW, [])
        assert ask(client, ALIAS).model == NEW
        status, found = admin(server, "POST", f"aliases/{ALIAS}/rollback")
        assert (status, found["aliases"][0]["target"]) == (200, OLD)
        assert ask(client, ALIAS).model == OLD

    assert {OLD, NEW} >= set(answers)
    assert OLD in answers
    # The request that ran meanwhile kept what it began with.
    assert {chunk.model for chunk in stream} == {OLD}


def test_what_is_served_is_told(server: Server, client: openai.OpenAI) -> None:
    admin(server, "POST", "adapters", {"path": NEW, "name": "v2", "alias": ALIAS})

    with urllib.request.urlopen(f"{server.url}/version") as response:
        models = {model["id"]: model for model in json.load(response)["models"]}
    listed = {model.id: model for model in client.models.list().data}

    assert set(models) == set(listed) == {"base", OLD, "v2", ALIAS}
    assert models[ALIAS]["alias_of"] == "v2"
    assert models[ALIAS]["fingerprint"] == models["v2"]["fingerprint"] != models[OLD]["fingerprint"]
    adapter = next(a for a in state(server)["adapters"] if a["name"] == "v2")
    assert adapter["path"] == NEW
    assert adapter["aliases"] == [ALIAS]


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("misnamed", "lora.match"),
        ("nan", "ckpt.finite"),
        ("empty", "empty"),
        ("../good-lora", "leads out"),
        ("/etc", "leads out"),
        ("link", "leads out"),
        (".", "leads out"),
        ("nowhere", "no directory"),
    ],
)
def test_what_should_not_be_served_is_refused_and_changes_nothing(
    server: Server, client: openai.OpenAI, path: str, told: str
) -> None:
    admin(server, "PUT", f"aliases/{ALIAS}", {"target": OLD})
    before = state(server)

    status, error = admin(server, "POST", "adapters", {"path": path, "alias": ALIAS})

    assert status == 400, error
    assert told in error["message"].lower()
    assert str(server.log.parent) not in error["message"]
    assert state(server) == before
    assert ask(client, ALIAS).model == OLD


def test_what_contradicts_is_a_conflict(server: Server) -> None:
    assert admin(server, "POST", "adapters", {"path": NEW, "alias": ALIAS})[0] == 200

    for method, path, body in (
        ("POST", "adapters", {"path": NEW}),
        ("POST", "adapters", {"path": NEW, "name": "base"}),
        ("POST", "adapters", {"path": NEW, "name": "v3", "alias": OLD}),
        ("PUT", f"aliases/{OLD}", {"target": NEW}),
        ("DELETE", f"adapters/{NEW}", None),
        ("POST", f"aliases/{ALIAS}/rollback", None),
    ):
        status, error = admin(server, method, path, body)
        assert (status, error["code"]) == (409, "conflict"), (path, error)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "aliases/a", {"target": "nothing"}, 404),
        ("PUT", "aliases/a", {"target": "base"}, 404),
        ("PUT", "aliases/a%20b", {"target": OLD}, 400),
        ("POST", "aliases/none/rollback", None, 404),
        ("DELETE", "aliases/none", None, 404),
        ("DELETE", "adapters/base", None, 404),
        ("POST", "adapters", {}, 400),
        ("POST", "adapters", {"path": NEW, "colour": "red"}, 400),
        ("POST", "adapters", {"path": 3}, 400),
        ("POST", "adapters", {"path": NEW, "allow": ["nothing"]}, 400),
        ("POST", "adapters", {"path": NEW, "name": "a/b"}, 400),
    ],
)
def test_bad_admin_requests(server: Server, method: str, path: str, body: Any, status: int) -> None:
    found, error = admin(server, method, path, body)

    assert found == status
    assert set(error) == {"message", "type", "param", "code"}


def test_a_name_never_stands_for_other_weights(server: Server) -> None:
    assert admin(server, "POST", "adapters", {"path": NEW, "name": "once"})[0] == 200
    assert admin(server, "DELETE", "adapters/once")[0] == 200
    assert admin(server, "POST", "adapters", {"path": NEW, "name": "once"})[0] == 200
    assert admin(server, "DELETE", "adapters/once")[0] == 200

    status, error = admin(server, "POST", "adapters", {"path": "good-lora-v3", "name": "once"})

    assert status == 409
    assert "other weights" in error["message"]


def test_room_is_bounded(server: Server) -> None:
    for name in ("a", "b", "c"):
        assert admin(server, "POST", "adapters", {"path": NEW, "name": name})[0] == 200

    status, error = admin(server, "POST", "adapters", {"path": NEW, "name": "d"})

    assert status == 409
    assert "server.max_adapters" in error["message"]


def test_admin_routes_have_a_key_of_their_own(server: Server) -> None:
    assert admin(server, "GET", "adapters", key="none")[0] == 401


@pytest.mark.parametrize("path", ["load_lora_adapter", "unload_lora_adapter"])
def test_vllms_own_way_to_load_adapters_is_closed(server: Server, path: str) -> None:
    request = urllib.request.Request(f"{server.url}/v1/{path}", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as error:
        assert error.code == 404
