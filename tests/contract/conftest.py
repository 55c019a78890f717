"""A small HTTP endpoint with OpenAI's chat API that misbehaves as it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typing_extensions import override

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
    api_key: str | None = None
    delay_s: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    dropped: threading.Event = field(default_factory=threading.Event)
    """Set when a client left before its answer."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    now: int = 0


def _encoded(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def _handler(endpoint: FakeEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._authorized():
                return
            listed = {"object": "list", "data": endpoint.models}
            self._send(200, listed if endpoint.model_list is None else endpoint.model_list)

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
            if endpoint.api_key in (None, self.headers["authorization"].removeprefix("Bearer ")):
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


@pytest.fixture
def endpoint() -> Iterator[FakeEndpoint]:
    fake = FakeEndpoint()
    server = _Server(("127.0.0.1", 0), _handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def answer() -> Callable[..., dict[str, Any]]:
    return chat_completion
