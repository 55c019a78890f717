"""A log of requests, put to two models behind a real HTTP endpoint and measured without labels."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from typing_extensions import override

from vlmserve.cli.main import main

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)

ANSWER = '{"total": 12, "note": "The invoice lists two items and the tax."}'


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLMSERVE_API_KEY", raising=False)


@pytest.fixture
def picture_host() -> Iterator[tuple[str, list[str]]]:
    """Where the pictures of the log lie, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PNG)

        @override
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def judge_log(
    endpoint: Any, answer: Any, tmp_path: Path, picture_host: tuple[str, list[str]]
) -> Callable[..., dict[str, Any]]:
    """Asks ``old``, which answers well, and ``new``; gives the tasks of the report by name."""
    entry = {"object": "model", "created": 1, "owned_by": "us"}
    endpoint.models = [{"id": name, **entry} for name in ("old", "new")]
    host, _ = picture_host

    def run(say: Callable[[int], Any], *checks: Any, n: int = 40, **more: Any) -> dict[str, Any]:
        def reply(body: dict[str, Any]) -> tuple[int, Any]:
            text = body["messages"][-1]["content"][-1]["text"]
            said = say(int(text.split()[1])) if body["model"] == "new" else ANSWER
            return said if isinstance(said, tuple) else (200, answer(said))

        endpoint.reply = reply
        image = {"type": "image_url", "image_url": {"url": f"http://{host}/a.png"}}
        rows = [
            {
                "model": "whatever",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            image,
                            {
                                "type": "text",
                                "text": f"Invoice {k} : please say what the total of it is.",
                            },
                        ],
                    }
                ],
                "max_tokens": 99,
            }
            for k in range(n)
        ]
        (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        suite = {
            "name": "log",
            "gate": {"margin": 0.05},
            "media": {"allowed_hosts": [host], "allowed_networks": ["127.0.0.0/8"]},
            "tasks": [
                {
                    "requests": "log.jsonl",
                    "name": check if isinstance(check, str) else check["name"],
                    "check": check,
                    **more,
                }
                for check in checks
            ],
        }
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
        sides = ["--ckpt", f"{endpoint.url}#new", "--baseline", f"{endpoint.url}#old"]
        report = tmp_path / "report.json"
        arguments = [*sides, "--suite", str(tmp_path / "suite.yaml"), "--json", str(report)]
        status = main(["eval", *arguments])
        found: dict[str, Any] = {"status": status}
        found |= {task["task"]: task for task in json.loads(report.read_text())["tasks"]}
        return found

    return run


ALL = ("empty", "cut", "invalid_json", "repetition", "refusal", "other_language")


def test_the_same_answers_pass_every_check(
    judge_log: Any, endpoint: Any, picture_host: tuple[str, list[str]]
) -> None:
    found = judge_log(lambda _: ANSWER, *ALL, "answer_tokens", "prompt_tokens", "latency_ms")

    assert found["status"] == 3
    assert {name: found[name]["candidate"] for name in ALL} == dict.fromkeys(ALL, 0.0)
    assert found["answer_tokens"]["candidate"] == 2
    assert found["prompt_tokens"]["candidate"] == 11
    assert found["latency_ms"]["candidate"] > 0
    # Forty requests to each side, whatever the number of checks, and one picture for all.
    assert len(endpoint.bodies) == 80
    assert {body["max_tokens"] for body in endpoint.bodies} == {99}
    sent = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    urls = {body["messages"][0]["content"][0]["image_url"]["url"] for body in endpoint.bodies}
    assert urls == {sent}
    assert picture_host[1] == ["/a.png"]


def test_each_fault_is_a_regression_of_its_own_check(judge_log: Any, answer: Any) -> None:
    cut = answer(ANSWER)
    cut["choices"][0]["finish_reason"] = "length"
    faults: dict[str, Any] = {
        "empty": " ",
        "cut": (200, cut),
        "invalid_json": "total: 12",
        "repetition": "the total is the total is the total is the total is",
        "refusal": "I'm sorry, but I can't help with that.",
        "other_language": "Die Rechnung enthält zwei Posten und die gesetzliche Mehrwertsteuer.",
    }
    for check, fault in faults.items():
        found = judge_log(lambda k, fault=fault: fault if k % 2 else ANSWER, *ALL)
        assert found["status"] == 1
        assert found[check]["verdict"] == "regression"
        assert found[check]["candidate"] == 0.5
        assert not found[check]["higher_is_better"]


def test_a_request_that_fails_is_no_fault_of_an_answer(judge_log: Any) -> None:
    error = (400, {"error": {"message": "too long", "type": "x", "code": "y"}})
    found = judge_log(lambda k: error if k < 4 else ANSWER, "empty")

    assert found["status"] == 3
    assert found["empty"]["n_failed_candidate"] == 4
    assert found["empty"]["candidate"] == 0.0


def test_tokens_are_gated_by_a_margin_in_tokens(judge_log: Any, answer: Any) -> None:
    longer = answer(ANSWER)
    longer["usage"] = {"prompt_tokens": 11, "completion_tokens": 30, "total_tokens": 41}

    found = judge_log(lambda _: (200, longer), "answer_tokens", margin=5)
    assert (found["status"], found["answer_tokens"]["verdict"]) == (1, "regression")
    assert found["answer_tokens"]["difference"] == 28
    assert judge_log(lambda _: (200, longer), "answer_tokens", margin=40)["status"] == 0
