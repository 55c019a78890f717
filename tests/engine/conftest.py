"""Real vLLM on the CPU: one server for the session, and a way to start those that a test ends."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.engine import media
from tests.engine.media_host import MediaHost

_START_TIMEOUT_S = 300
_READY = re.compile(r"^ready: (http://\S+)/v1 serves (.*)$", re.MULTILINE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


@dataclass
class Server:
    """A ``vlmserve serve`` process."""

    process: "subprocess.Popen[bytes]"
    log: Path
    url: str = ""

    @property
    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)

    def wait_ready(self) -> "Server":
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            if found := _READY.search(self.output):
                self.url = found[1]
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        pytest.fail(f"the server did not get ready (status {self.process.poll()}):\n{self.output}")

    def stop(self) -> int:
        """End it, kindly first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


ADMIN_KEY = "admin-secret"

StartServer = Callable[..., Server]


def start(log: Path, root: Path, checkpoint: Path, *arguments: str, **environment: str) -> Server:
    import os

    command = [
        sys.executable, "-m", "vlmserve", "serve", "--ckpt", str(checkpoint),
        "--config", str(root / "configs" / "cpu-demo.yaml"), "--port", "0", *arguments,
    ]  # fmt: skip
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **environment},
            start_new_session=True,  # so that a test can press Ctrl-C: the whole group gets it
        )
    return Server(process, log)


def write_adapters(root: Path, zoo: Path) -> None:
    """Adapters that may be rolled out on the shared server, and some that should not."""
    from safetensors.numpy import load_file, save_file

    def change(name: str, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        copy = shutil.copytree(zoo / "good-lora", root / name)
        weights = copy / "adapter_model.safetensors"
        save_file(edit(load_file(weights)), weights, metadata={"format": "pt"})

    change("good-lora-v2", lambda weights: {n: w * 1.01 for n, w in weights.items()})
    change("good-lora-v3", lambda weights: {n: w * 1.02 for n, w in weights.items()})
    change(
        "misnamed",
        lambda weights: {n.replace("layers", "blocks"): w for n, w in weights.items()},
    )
    change("nan", lambda weights: {n: w * float("nan") for n, w in weights.items()})
    (root / "empty").mkdir()
    (root / "link").symlink_to(zoo / "good-lora")


@pytest.fixture(scope="session")
def media_host() -> Iterator[MediaHost]:
    """A web server on 127.0.0.1, the one address that the shared server may fetch from."""
    with MediaHost() as host:
        yield host


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, root: Path, zoo: Path, media_host: MediaHost
) -> Iterator[Server]:
    """The shared server: a LoRA adapter and its base. Tests must leave it running."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "media").mkdir()
    (directory / "media" / "red.png").write_bytes(media.png((84, 84), media.RED))
    (directory / "model.py").write_text(f"open({str(directory / 'executed')!r}, 'w')")
    write_adapters(directory / "adapters", zoo)
    running = start(
        directory / "log", root, zoo / "good-lora",
        "--set", f"server.adapter_root={directory / 'adapters'}",
        "--set", f"media.allowed_hosts=['*:{media_host.port}']",
        "--set", "media.allowed_networks=[127.0.0.1/32]",
        "--set", "media.fetch_idle_timeout_s=1",
        "--set", "media.fetch_timeout_s=3",
        "--set", "media.max_image_bytes=2000000",
        "--set", "media.max_request_pixels=100000000",
        "--set", f"media.allowed_roots=[{directory / 'media'}]",
        "--set", "server.tool_call_parser=hermes",
        # So small a model would fill a schema with white space.
        "--", "--structured-outputs-config",
        '{"backend": "xgrammar", "disable_any_whitespace": true}',
        SAGEMAKER_MODEL_PATH=str(directory),
        VLMSERVE_ADMIN_KEY=ADMIN_KEY,
    )  # fmt: skip
    try:
        yield running.wait_ready()
    finally:
        running.stop()


@pytest.fixture
def start_server(tmp_path: Path, root: Path) -> Iterator[StartServer]:
    """Starts a server that the test itself ends or breaks; it is not waited for."""
    started: list[Server] = []

    def create(checkpoint: Path, *arguments: str, **environment: str) -> Server:
        log = tmp_path / f"server-{len(started)}.log"
        started.append(start(log, root, checkpoint, *arguments, **environment))
        return started[-1]

    yield create
    for running in started:
        running.stop()


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()
