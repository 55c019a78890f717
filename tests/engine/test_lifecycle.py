"""Servers that end: by a signal, by a dead engine, by weights that compute nothing.

Each test starts a server of its own; these are all the starts beside the shared one.
"""

import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from safetensors.torch import load_file, save_file

from tests.engine import media
from tests.engine.conftest import Server, StartServer
from tests.engine.media import image, text


def status_of(url: str, key: str | None = None) -> int:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def wait_until_running(server: Server, key: str = "none") -> None:
    """Wait until the engine computes a request."""
    headers = {"authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{server.url}/metrics", headers=headers)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with urllib.request.urlopen(request) as response:
            if re.search(rb"^vllm:num_requests_running\{.*\} 1\.0$", response.read(), re.MULTILINE):
                return
        time.sleep(0.05)
    pytest.fail("no request is running")


def in_background(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except openai.APIError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def long_answer(server: Server, model: str, key: str = "none") -> int | None:
    completion = server.client(key).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 3 plus 4?"}],
        max_tokens=1900,
        extra_body={"ignore_eos": True},
    )
    return completion.usage.completion_tokens if completion.usage else None


def test_ctrl_c_drains_and_exits_0(start_server: StartServer, zoo: Path) -> None:
    """Also: a checkpoint without a processor borrows its base's, and a key guards every route.

    The signal goes to the whole process group, the engine's process included, as a terminal sends
    it. SIGTERM takes the same way in the server and reaches no other process.
    """
    server = start_server(
        zoo / "no-processor", "--base-model", str(zoo / "base"), VLMSERVE_API_KEY="secret"
    ).wait_ready()
    assert "borrowed" in server.output
    assert not (zoo / "no-processor" / "processor_config.json").exists()

    for path in ("/v1/models", "/metrics", "/tokenize", "/invocations", "/version", "/docs"):
        assert status_of(f"{server.url}{path}") == 401
    # The playground's files hold nothing to be guarded, and a browser could not send a key.
    for path in ("/health", "/ready", "/", "/playground/app.js"):
        assert status_of(f"{server.url}{path}") == 200
    assert status_of(f"{server.url}/playground/elsewhere") == 401
    client = server.client("secret")
    content: Any = [image(media.png((84, 84), media.RED)), text("Name the color.")]
    completion = client.chat.completions.create(
        model="no-processor",
        messages=[{"role": "user", "content": content}],
        temperature=0,
    )
    assert completion.choices[0].message.content == "red"

    thread, results = in_background(lambda: long_answer(server, "no-processor", "secret"))
    wait_until_running(server, "secret")
    os.killpg(server.process.pid, signal.SIGINT)
    time.sleep(0.3)

    assert status_of(f"{server.url}/ready") == 503
    assert status_of(f"{server.url}/v1/models", "secret") == 503
    thread.join(60)
    assert results == [1900]
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.output


def test_dead_engine_exits_5(start_server: StartServer, zoo: Path) -> None:
    server = start_server(zoo / "base", "--no-playground").wait_ready()
    assert status_of(f"{server.url}/") == 404
    (engine,) = [
        child
        for child in psutil.Process(server.process.pid).children(recursive=True)
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline())
    ]
    thread, results = in_background(lambda: long_answer(server, "base"))
    wait_until_running(server)

    os.kill(engine.pid, signal.SIGKILL)

    thread.join(60)
    (failure,) = results
    assert isinstance(failure, openai.APIError)
    assert server.process.wait(60) == 5
    assert "error: the engine died" in server.output


def test_weights_of_nan_are_refused_before_the_server_listens(
    start_server: StartServer, zoo_copy: Path
) -> None:
    path = zoo_copy / "base" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.down_proj.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})

    server = start_server(zoo_copy / "base")

    assert server.process.wait(300) == 4
    assert "log-probability nan" in server.output
    assert "ready:" not in server.output


def test_sigterm_while_loading_leaves_nothing_behind(start_server: StartServer, zoo: Path) -> None:
    server = start_server(zoo / "base")
    deadline = time.monotonic() + 120
    while "starting the engine" not in server.output and time.monotonic() < deadline:
        time.sleep(0.2)

    children = psutil.Process(server.process.pid).children(recursive=True)

    server.process.send_signal(signal.SIGTERM)

    assert server.process.wait(60) == 130
    assert "Traceback" not in server.output
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


@pytest.mark.parametrize("variable", ["VLLM_BATCH_INVARIANT"])
def test_what_would_kill_the_engine_later_is_refused_now(
    start_server: StartServer, zoo: Path, variable: str
) -> None:
    server = start_server(zoo / "base", **{variable: "1"})

    assert server.process.wait(60) == 2
    assert variable in server.output
