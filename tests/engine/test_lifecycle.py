"""Servers that end: by a signal, by a dead engine, by weights that compute nothing.

Each test starts a server of its own; these are all the starts beside the shared one.
"""

import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import openai
import psutil
import pytest
from safetensors.torch import load_file, save_file

from tests.engine.conftest import Server, StartServer


def wait_until_shown(server: Server, pattern: bytes) -> None:
    """Wait until a line of the metrics matches."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"{server.url}/metrics") as response:
            if re.search(pattern, response.read(), re.MULTILINE):
                return
        time.sleep(0.05)
    pytest.fail(f"no metric is {pattern!r}")


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


def long_answer(server: Server, model: str) -> int | None:
    completion = server.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 3 plus 4?"}],
        max_tokens=1900,
        extra_body={"ignore_eos": True},
    )
    return completion.usage.completion_tokens if completion.usage else None


def long_stream(server: Server, model: str) -> int:
    stream = server.client().chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "What is 3 plus 4?"}],
        max_tokens=1900,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return sum(1 for _ in stream)


def test_dead_engine_answers_what_it_held_and_exits_5(start_server: StartServer, zoo: Path) -> None:
    """Under load: two that run and one that waits, one of the three a stream."""
    server = start_server(zoo / "base", "--set", "server.max_running=2").wait_ready()
    (engine,) = [
        child
        for child in psutil.Process(server.process.pid).children(recursive=True)
        if "EngineCore" in child.name() or "EngineCore" in " ".join(child.cmdline())
    ]
    whole = in_background(lambda: long_answer(server, "base"))
    streamed = in_background(lambda: long_stream(server, "base"))
    another = in_background(lambda: long_answer(server, "base"))
    wait_until_shown(server, rb"^vlmserve_queued_requests 1\.0$")

    os.kill(engine.pid, signal.SIGKILL)

    for thread, results in (whole, streamed, another):
        thread.join(60)
        (failure,) = results
        assert isinstance(failure, openai.APIError), failure
        assert "the engine is gone; try again later" in str(failure)
        assert isinstance(failure.body, dict)
        assert failure.body["type"] == "server_error"
    for _, (failure,) in (whole, another):
        assert isinstance(failure, openai.InternalServerError)
        assert failure.status_code == 503
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

    assert server.process.wait(60) == 0
    assert "stopped before it was ready" in server.output
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
