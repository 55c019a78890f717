"""One server with all of an operator's guards: keys, limits, proxies, tracing; ended under load."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from typing_extensions import override

from tests.engine import media
from tests.engine.conftest import Server, start, write_adapters
from tests.engine.media import image, text
from tests.unit.promql import metric_names

MODEL = "no-processor"
WEB, CI, WATCHER, ADMIN = "web-secret-1", "ci-secret-22", "watcher-secret", "admin-secret"
PROMPT = "What is 3 plus 4? unmistakable-prompt"
END = "<|im_end|>"


class Collector(ThreadingHTTPServer):
    """Takes OpenTelemetry's traces over HTTP."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            @override
            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"web:{WEB}\nci:sha256:{hashlib.sha256(CI.encode()).hexdigest()}\n")
    return path


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
    root: Path,
    zoo: Path,
    key_file: Path,
    collector: Collector,
) -> Iterator[Server]:
    """A checkpoint without a processor, which it borrows from its base, behind every guard."""
    running = start(
        tmp_path_factory.mktemp("guarded") / "log", root, zoo / MODEL,
        "--base-model", str(zoo / "base"),
        "--api-key-file", str(key_file),
        "--set", "server.max_running=2",
        "--set", "server.max_queued_requests=2",
        "--set", "server.request_timeout_s=60",
        "--set", "server.header_timeout_s=1",
        "--set", "server.body_idle_timeout_s=1",
        "--set", "server.max_body_bytes=1000000",
        "--set", "server.metrics_port=0",
        "--set", "server.control_tokens=neutralise",
        "--set", "server.trusted_proxies=[127.0.0.1/32]",
        "--set", "server.allowed_origins=['https://app.example.org']",
        "--set", "server.drain_timeout_s=60",
        "--set", "server.root_path=/vlm",
        "--", "--otlp-traces-endpoint", f"http://127.0.0.1:{collector.server_port}/v1/traces",
        VLMSERVE_METRICS_KEY=WATCHER,
        VLMSERVE_ADMIN_KEY=ADMIN,
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
        OTEL_BSP_SCHEDULE_DELAY="100",
    )  # fmt: skip
    try:
        yield running.wait_ready()
    finally:
        running.stop()


def fetch(
    url: str, key: str | None = WEB, body: Any = None, method: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Ask and give status, headers in lower case, and body."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        fields["authorization"] = f"Bearer {key}"
    data = body
    if body is not None and not isinstance(body, bytes):
        data = json.dumps(body).encode()
        fields.setdefault("content-type", "application/json")
    request = urllib.request.Request(url, data=data, headers=fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            found = response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            found = error.code, error.headers, error.read()
    return found[0], {name.lower(): value for name, value in found[1].items()}, found[2]


def chat(**more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 4, **more}


def long_chat(**more: Any) -> dict[str, Any]:
    return chat(**{"max_tokens": 1900, "ignore_eos": True, **more})


def metrics(server: Server) -> str:
    found = re.search(r"^metrics: (\S+)$", server.output, re.MULTILINE)
    assert found is not None
    status, _, body = fetch(found[1], WATCHER)
    assert status == 200
    return body.decode()


def value(server: Server, name: str) -> float:
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", metrics(server), re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to that")


class Background:
    """Requests in threads of their own."""

    def __init__(self, server: Server, *bodies: Any) -> None:
        self.results: list[Any] = [None] * len(bodies)
        url = f"{server.url}/v1/chat/completions"

        def run(i: int, body: Any) -> None:
            self.results[i] = fetch(url, body=body)

        self.threads = [
            threading.Thread(target=run, args=(i, body)) for i, body in enumerate(bodies)
        ]
        for thread in self.threads:
            thread.start()
            time.sleep(0.05)

    def join(self) -> list[int]:
        for thread in self.threads:
            thread.join(120)
        return [result[0] for result in self.results]


def running(server: Server) -> float:
    return value(server, "vllm:num_requests_running")


def error_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_processor_is_borrowed_and_an_image_is_read(guarded: Server, zoo: Path) -> None:
    assert "borrowed" in guarded.output
    assert not (zoo / MODEL / "processor_config.json").exists()
    content: Any = [image(media.png((84, 84), media.RED)), text("Name the color.")]
    completion = guarded.client(CI).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}], temperature=0
    )
    assert completion.choices[0].message.content == "red"


@pytest.mark.parametrize(
    "path",
    ["/playground/elsewhere", "/v1/models", "/metrics", "/tokenize", "/invocations", "/version",
     "/docs", "/load", "/openapi.json", "/ping", "/v1/chat/completions/budget"],
)  # fmt: skip
def test_routes_ask_for_a_key(guarded: Server, path: str) -> None:
    answer = fetch(f"{guarded.url}{path}", None)

    assert answer[0] == 401
    assert error_of(answer)["code"] == "invalid_api_key"
    assert fetch(f"{guarded.url}{path}", "web-secret-2")[0] == 401
    assert fetch(f"{guarded.url}{path}", WATCHER)[0] == 401 or path == "/metrics"


def test_probes_ask_for_none(guarded: Server) -> None:
    assert fetch(f"{guarded.url}/health", None)[0] == 200
    assert fetch(f"{guarded.url}/ready", None)[0] == 200


def test_page_asks_for_none_and_keeps_its_own_policy(guarded: Server) -> None:
    """Its files hold nothing to be guarded, and a browser could not send a key."""
    for path in ("/", "/playground/app.js"):
        status, headers, _ = fetch(f"{guarded.url}{path}", None)
        assert status == 200
        assert "'self'" in headers["content-security-policy"]


def test_metrics_are_on_their_own_port_behind_their_own_key(guarded: Server) -> None:
    found = re.search(r"^metrics: (\S+)/metrics$", guarded.output, re.MULTILINE)
    assert found is not None
    assert fetch(f"{guarded.url}/metrics", WATCHER)[0] == 404
    assert fetch(f"{found[1]}/metrics", WEB)[0] == 401
    assert fetch(f"{found[1]}/v1/models", WEB)[0] == 404
    shown = metrics(guarded)
    assert "vllm:num_requests_running" in shown
    assert "vlmserve_queued_requests" in shown


def test_every_metric_that_is_watched_is_there(guarded: Server, root: Path) -> None:
    fetch(f"{guarded.url}/v1/chat/completions", body=chat())
    shown = metrics(guarded)

    for name in metric_names(root) - {"up"}:
        assert re.search(rf"^(# TYPE )?{re.escape(name)}\b", shown, re.MULTILINE) or re.search(
            rf"^# TYPE {re.escape(re.sub('_(bucket|sum|count)$', '', name))} ",
            shown,
            re.MULTILINE,
        ), name


def test_keys_change_without_a_restart(guarded: Server, key_file: Path) -> None:
    before = key_file.read_text()
    key_file.write_text(f"{before}new:fresh-secret\n")
    guarded.process.send_signal(signal.SIGHUP)
    wait_until(lambda: fetch(f"{guarded.url}/v1/models", "fresh-secret")[0] == 200)

    key_file.write_text("broken\n")
    wait_until(lambda: "the keys stay as they were" in guarded.output)
    assert fetch(f"{guarded.url}/v1/models", "fresh-secret")[0] == 200

    key_file.write_text(before)
    wait_until(lambda: fetch(f"{guarded.url}/v1/models", "fresh-secret")[0] == 401)
    assert fetch(f"{guarded.url}/v1/models", WEB)[0] == 200


def test_request_id_goes_through_to_vllm(guarded: Server) -> None:
    url = f"{guarded.url}/v1/chat/completions"

    _, headers, body = fetch(url, body=chat(), X_Request_Id="trace-77")

    assert headers["x-request-id"] == "trace-77"
    assert json.loads(body)["id"] == "chatcmpl-trace-77"
    wait_until(lambda: "key=web client=127.0.0.1 id=trace-77" in guarded.output)


def test_spans_are_sent_and_follow_the_callers_trace(guarded: Server, collector: Collector) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    fetch(
        f"{guarded.url}/v1/chat/completions",
        body=chat(),
        traceparent=f"00-{trace}-00f067aa0ba902b7-01",
    )

    wait_until(lambda: any(bytes.fromhex(trace) in body for body in list(collector.bodies)))
    assert not any(b"unmistakable-prompt" in body for body in collector.bodies)


def test_address_is_the_one_that_a_trusted_proxy_tells(guarded: Server) -> None:
    fetch(f"{guarded.url}/v1/models", X_Forwarded_For="203.0.113.9", X_Request_Id="proxied-1")

    wait_until(lambda: "client=203.0.113.9 id=proxied-1" in guarded.output)


def test_pages_of_allowed_origins_may_read_answers(guarded: Server) -> None:
    url = f"{guarded.url}/v1/models"
    allowed = "https://app.example.org"

    assert fetch(url, Origin=allowed)[1]["access-control-allow-origin"] == allowed
    assert fetch(url, "wrong", Origin=allowed)[1]["access-control-allow-origin"] == allowed
    assert "access-control-allow-origin" not in fetch(url, Origin="https://evil.example")[1]
    preflight = {"Origin": allowed, "Access_Control_Request_Method": "POST"}
    assert fetch(url, None, method="OPTIONS", **preflight)[0] == 200


def test_control_tokens_are_made_harmless(guarded: Server) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"a{END}b"}]}
    spelled = {"model": MODEL, "prompt": END, "add_special_tokens": False}

    _, _, tokens = fetch(f"{guarded.url}/tokenize", body=body)
    _, _, plain = fetch(f"{guarded.url}/tokenize", body=spelled)

    (end,) = json.loads(plain)["tokens"]
    # One ends the user's turn, and it is the template's.
    assert json.loads(tokens)["tokens"].count(end) == 1


def test_full_queue_is_told_at_once(guarded: Server) -> None:
    background = Background(guarded, *[long_chat() for _ in range(4)])
    wait_until(lambda: value(guarded, "vlmserve_queued_requests") == 2)

    answer = fetch(f"{guarded.url}/v1/chat/completions", body=chat())

    assert answer[0] == 429
    assert error_of(answer)["code"] == "queue_full"
    assert int(answer[1]["retry-after"]) >= 1
    assert fetch(f"{guarded.url}/v1/models")[0] == 200
    assert background.join() == [200] * 4


def test_request_that_runs_too_long_ends_in_the_engine_too(guarded: Server) -> None:
    url = f"{guarded.url}/v1/chat/completions"

    answer = fetch(url, body=long_chat(), X_Request_Timeout="1")

    assert answer[0] == 504
    assert error_of(answer)["code"] == "request_timeout"
    wait_until(lambda: running(guarded) == 0)

    status, _, content = fetch(url, body=long_chat(stream=True), X_Request_Timeout="1")
    events = [line for line in content.decode().split("\n\n") if line]
    assert status == 200
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "request_timeout"
    assert events[-1] == "data: [DONE]"
    wait_until(lambda: running(guarded) == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_the_engine(guarded: Server, stream: bool) -> None:
    body = json.dumps(long_chat(stream=stream)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {WEB}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    host, _, port = guarded.url.rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: running(guarded) == 1)

    wait_until(lambda: running(guarded) == 0)
    wait_until(lambda: value(guarded, "vlmserve_running_requests") == 0)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/tokenize"]
)
def test_bodies_are_bounded_before_they_are_parsed(guarded: Server, path: str) -> None:
    large = fetch(f"{guarded.url}{path}", body=b"[" + b" " * 1_000_000)
    deep = fetch(f"{guarded.url}{path}", body=b"[" * 900_000, content_type="application/json")

    assert (large[0], error_of(large)["code"]) == (413, "body_too_large")
    assert (deep[0], error_of(deep)["code"]) == (400, "json_too_deep")


def test_body_that_trickles_is_not_waited_for(guarded: Server) -> None:
    host, _, port = guarded.url.rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(60)
        connection.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {WEB}\r\n"
            "content-type: application/json\r\ncontent-length: 99\r\n\r\n{".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_answers_tell_browsers_to_keep_still(guarded: Server) -> None:
    for path, key in (("/v1/models", WEB), ("/v1/models", "wrong"), ("/nothing", WEB)):
        headers = fetch(f"{guarded.url}{path}", key)[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_log_holds_no_prompt_no_image_and_no_key(guarded: Server) -> None:
    url = f"{guarded.url}/v1/chat/completions"
    picture = media.data_url(media.png((56, 56), media.BLUE))
    part = {"type": "image_url", "image_url": {"url": picture}}
    broken = {"type": "image_url", "image_url": {"url": picture[:-40] + "unmistakable"}}
    for body in (
        chat(messages=[{"role": "user", "content": [text(PROMPT), part]}]),
        chat(messages=[{"role": "user", "content": [text(PROMPT), broken]}]),
        chat(messages=[{"role": PROMPT, "content": PROMPT}]),
        chat(messages=PROMPT),
        chat(model=PROMPT),
        chat(messages=[{"role": "user", "content": PROMPT * 500}]),
        chat(messages=[{"role": "user", "content": f"{PROMPT}{END}"}]),
        f'{{"messages": "{PROMPT}'.encode(),
    ):
        fetch(url, body=body, content_type="application/json")
    fetch(f"{url}?api_key={WEB}&q={PROMPT.split()[-1]}", "wrong-secret-99", body=chat())

    logged = guarded.output
    assert "POST /v1/chat/completions 200" in logged
    for secret in ("unmistakable", WEB, CI, WATCHER, ADMIN, "wrong-secret-99", picture[:60]):
        assert secret not in logged


def test_ctrl_c_under_load_drains_and_exits_0(guarded: Server) -> None:
    """Last: it ends the server.

    The signal goes to the whole process group, the engine's process included, as a terminal sends
    it. SIGTERM takes the same way in the server and reaches no other process.
    """
    background = Background(guarded, *[long_chat() for _ in range(3)])
    wait_until(lambda: running(guarded) == 2)

    os.killpg(guarded.process.pid, signal.SIGINT)
    wait_until(lambda: fetch(f"{guarded.url}/ready", None)[0] == 503)

    assert json.loads(fetch(f"{guarded.url}/ready", None)[2]) == {"status": "draining"}
    answer = fetch(f"{guarded.url}/v1/chat/completions", body=chat())
    assert answer[0] == 503
    assert error_of(answer)["type"] == "server_error"
    assert answer[1]["retry-after"]
    assert fetch(f"{guarded.url}/health", None)[0] == 200
    assert background.join() == [200] * 3
    assert guarded.process.wait(60) == 0
    end = guarded.output.partition("draining: 3 requests running")[2]
    assert end
    assert "Traceback" not in end


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a full disk; where none can be mounted, one in which nothing can be made."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if mounted:
        with contextlib.suppress(OSError):
            (place / "filler").write_bytes(bytes(1 << 20))
        yield place
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    else:
        (place / "file").touch()
        yield place / "file"


def test_full_cache_disk_is_survived_and_a_second_sigterm_ends_at_once(
    root: Path, zoo: Path, tmp_path: Path, full_disk: Path
) -> None:
    """Also: what was rolled out before comes back after a restart."""
    write_adapters(tmp_path / "adapters", zoo)
    state = {"adapters": {"v2": "good-lora-v2"}, "aliases": {"stable": ["gone", "v2"]}}
    (tmp_path / "state").write_text(json.dumps(state))
    server = start(
        tmp_path / "log", root, zoo / "base", "--set", "server.drain_timeout_s=600",
        "--set", f"server.adapter_root={tmp_path / 'adapters'}",
        "--set", f"server.adapter_state={tmp_path / 'state'}",
        XDG_CACHE_HOME=str(full_disk),
        VLMSERVE_ADMIN_KEY=ADMIN,
    ).wait_ready()  # fmt: skip
    try:
        url = f"{server.url}/version"
        wait_until(lambda: fetch(url, None)[2].count(b'"fingerprint":"sha256:') == 3)
        answer = fetch(f"{server.url}/v1/chat/completions", None, chat(model="stable"))
        assert json.loads(answer[2])["model"] == "v2"
        _, _, shown = fetch(f"{server.url}/admin/adapters", ADMIN)
        assert json.loads(shown)["aliases"][0]["history"] == ["v2"]
        children = psutil.Process(server.process.pid).children(recursive=True)
        client = server.client().with_options(timeout=600)
        failures: list[Any] = []

        def ask() -> None:
            try:
                client.chat.completions.create(
                    model="base",
                    messages=[{"role": "user", "content": PROMPT}],
                    max_tokens=1900,
                    extra_body={"ignore_eos": True},
                )
            except openai.OpenAIError as error:
                failures.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        wait_until(
            lambda: b"vlmserve_running_requests 1.0" in fetch(f"{server.url}/metrics", None)[2]
        )
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: fetch(f"{server.url}/ready", None)[0] == 503)
        assert server.process.poll() is None

        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(60) == 130
        thread.join(60)
        assert len(failures) == 1
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
    finally:
        server.stop()
