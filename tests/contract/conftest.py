"""A small HTTP endpoint with OpenAI's chat API that misbehaves as it is told."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from vlmserve.cli.main import main

Reply = tuple[int, Any]
"""Status, and a JSON value, text that is not JSON, or the bytes of a body that claims to be."""


def chat_completion(text: str | None = "red", **changes: Any) -> dict[str, Any]:
    """An answer as OpenAI's API gives it."""
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
        **changes,
    }


@dataclass
class FakeEndpoint:
    """What it was sent, and how it answers."""

    url: str = ""
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]
    )
    model_list: Any = None
    """What ``/models`` gives instead of OpenAI's list of ``models``."""

    reply: Callable[[dict[str, Any]], Reply] = lambda _: (200, chat_completion())
    version: dict[str, Any] | None = None
    """What ``/version`` gives; an endpoint of OpenAI's has none."""

    api_key: str | None = None
    delay_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    dropped: threading.Event = field(default_factory=threading.Event)
    """Set when a client left before its answer."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0

    def look_up(self, path: str) -> Reply:
        """What a GET gives."""
        if path == "/version":
            return (404, {"detail": "Not Found"}) if self.version is None else (200, self.version)
        listed = {"object": "list", "data": self.models}
        return 200, listed if self.model_list is None else self.model_list


def _encoded(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._authorized():
                return
            self._send(*endpoint.look_up(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self._authorized():
                return
            with endpoint.lock:
                endpoint.bodies.append(body)
                endpoint.now += 1
                endpoint.most_at_once = max(endpoint.most_at_once, endpoint.now)
            time.sleep(endpoint.delay_s)
            status, value = endpoint.reply(body)
            with endpoint.lock:
                endpoint.now -= 1
            self._send(status, value)

        def _authorized(self) -> bool:
            sent = self.headers["authorization"] or ""
            if endpoint.api_key in (None, sent.removeprefix("Bearer ")):
                return True
            self._send(401, {"error": {"message": "wrong key", "type": "x", "code": "y"}})
            return False

        def _send(self, status: int, value: Any) -> None:
            content = value if isinstance(value, bytes) else _encoded(value)
            kind = "text/html" if isinstance(value, str) else "application/json"
            try:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                # OpenAI's client waits this long between tries instead of half a second.
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
            except OSError:
                endpoint.dropped.set()

        @override
        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

    return Handler


class _Server(ThreadingHTTPServer):
    # With the standard 5 the client's connections wait a second for their turn.
    request_queue_size = 128
    daemon_threads = True


@contextlib.contextmanager
def serve_fake() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    server = _Server(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    with serve_fake() as fake:
        yield fake


@pytest.fixture
def other_endpoint() -> Iterator[FakeEndpoint]:
    with serve_fake() as fake:
        yield fake


@pytest.fixture
def answer() -> Callable[..., dict[str, Any]]:
    return chat_completion


@pytest.fixture
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("VLMSERVE_API_KEY", raising=False)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Twenty sums; each target is ``right``."""
    rows = [{"question": f"Sum {number}", "target": "right"} for number in range(20)]
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": "sums.jsonl"},
        "test_split": "train",
        "doc_to_text": "question",
        "doc_to_target": "target",
        "generation_kwargs": {"until": [], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    path = tmp_path / "suite.yaml"
    path.write_text(
        "name: small\ntask_files: [sums.yaml]\ngate: {margin: 0.2}\n"
        "tasks: [{task: sums, metric: exact_match}]\n"
    )
    return path


@pytest.fixture
def two_models(endpoint: FakeEndpoint) -> Any:
    """An endpoint with ``old``, which is always right, and ``new``, wrong below ``wrong``."""
    entry = {"object": "model", "created": 1, "owned_by": "us"}
    endpoint.models = [{"id": "old", **entry}, {"id": "new", **entry}]
    endpoint.wrong = 0  # type: ignore[attr-defined]

    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        number = int(body["messages"][-1]["content"][0]["text"].split()[1])
        fails = body["model"] == "new" and number < endpoint.wrong  # type: ignore[attr-defined]
        return 200, chat_completion("wrong" if fails else "right")

    endpoint.reply = reply
    return endpoint


@pytest.fixture
def evaluate(two_models: Any, suite: Path, caches: None) -> Callable[..., int]:
    """``vlmserve eval`` of ``new`` against ``old``; gives the exit status."""

    def run(*more: str) -> int:
        url = two_models.url
        sides = ["--ckpt", f"{url}#new", "--baseline", f"{url}#old"]
        return main(["eval", *sides, "--suite", str(suite), *more])

    return run
