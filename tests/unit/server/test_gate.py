"""Turns, the queue, time-outs and clients that leave, without a clock that matters."""

import asyncio
from typing import Any

import pytest

from tests.unit.server.asgi import Answer, Client, ask, echo, hello, streamer
from vlmserve.errors import EngineUnavailableError, OverloadedError
from vlmserve.server.admission import Admission
from vlmserve.server.gate import AdmissionGate, TurnGate


class Slow:
    """An app whose answers wait until they are let go; knows how many it is asked for."""

    def __init__(self) -> None:
        self.n_asked = 0
        self.n_left = 0
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.n_asked += 1
        await receive()
        left = asyncio.create_task(receive())
        go = asyncio.create_task(self.go.wait())
        done, pending = await asyncio.wait({left, go}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if left in done:
            assert left.result() == {"type": "http.disconnect"}
            self.n_left += 1
            return
        await hello(scope, receive, send)


def gates(app: Any, admission: Admission, timeout_s: float = 60) -> Any:
    return AdmissionGate(TurnGate(app, admission, timeout_s), admission)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def start(app: Any, **more: Any) -> tuple[Client, "asyncio.Task[Answer]"]:
    client = Client(app, **more)
    return client, asyncio.create_task(client.ask())


def test_requests_wait_for_their_turn_and_the_next_is_refused() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=2, max_queued=1)
        app = gates(slow, admission)
        tasks = [start(app)[1] for _ in range(3)]
        await settle()

        assert slow.n_asked == admission.n_running == 2
        assert admission.n_queued == 1
        refused = await Client(app).ask()
        assert refused.status == 429
        assert refused.error["code"] == "queue_full"
        assert int(refused.headers[b"retry-after"]) >= 1

        slow.go.set()
        assert [(await task).status for task in tasks] == [200, 200, 200]
        assert (admission.n_running, admission.n_queued, admission.n_present) == (0, 0, 0)

    asyncio.run(run())


def test_without_a_queue_a_full_server_refuses() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=0)
        app = gates(slow, admission)
        _, task = start(app)
        await settle()

        assert (await Client(app).ask()).status == 429

        slow.go.set()
        assert (await task).status == 200
        assert (await Client(app).ask()).status == 200

    asyncio.run(run())


def test_what_is_no_question_to_the_model_passes_a_full_server() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=0)
        app = gates(slow, admission)
        start(app)
        await settle()

        beside = gates(hello, admission)
        assert (await Client(beside, "/v1/models", method="GET").ask()).status == 200
        assert (await Client(beside, "/admin/adapters").ask()).status == 200

        slow.go.set()
        await settle()

    asyncio.run(run())


def test_a_turn_that_would_come_too_late_is_refused_at_once() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        await admission.take_turn(1)
        admission.leave(took_s=40)  # what a request took a moment ago
        app = gates(slow, admission)
        start(app)
        await settle()

        refused = await Client(app, headers=[(b"x-request-timeout", b"30")]).ask()
        _, waiting = start(app, headers=[(b"x-request-timeout", b"50")])
        await settle()

        assert refused.status == 503
        assert refused.error["code"] == "deadline_unmeetable"
        assert refused.headers[b"retry-after"] == b"40"
        assert admission.n_queued == 1
        slow.go.set()
        assert (await waiting).status == 200

    asyncio.run(run())


def test_a_turn_that_does_not_come_in_time_is_refused() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        app = gates(slow, admission)
        start(app)
        await settle()

        refused = await Client(app, headers=[(b"x-request-timeout", b"0.01")]).ask()

        assert refused.status == 503
        assert refused.error["code"] == "deadline_unmeetable"
        assert (slow.n_asked, admission.n_queued) == (1, 0)
        slow.go.set()
        await settle()

    asyncio.run(run())


def test_a_request_that_runs_too_long_is_given_up_and_told() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)

        answer = await Client(gates(slow, admission, timeout_s=0.01)).ask()

        assert answer.status == 504
        assert answer.error["code"] == "request_timeout"
        assert answer.headers[b"x-should-retry"] == b"false"
        assert slow.n_left == 1
        assert (admission.n_running, admission.n_present) == (0, 0)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/chat/completions", b'data: {"error": {"message": "the answer was not complete'),
        ("/v1/responses", b'event: error\ndata: {"message": "the answer was'),
        ("/v1/messages", b'event: error\ndata: {"type": "error", "error": {"type": "server_err'),
    ],
)
def test_a_stream_that_runs_too_long_ends_with_an_error_event(path: str, told: bytes) -> None:
    async def run() -> None:
        app = gates(streamer(asyncio.Event()), Admission(), timeout_s=0.01)

        answer = await Client(app, path).ask()

        assert answer.status == 200
        assert answer.content.startswith(b"data: 1\n\n" + told)
        assert path != "/v1/responses" or b'"type": "error"' in answer.content
        assert answer.messages[-1]["more_body"] is False

    asyncio.run(run())


def test_an_app_that_ignores_its_client_is_cancelled() -> None:
    async def run() -> None:
        cancelled = asyncio.Event()

        async def stubborn(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        admission = Admission()
        answer = await Client(gates(stubborn, admission, timeout_s=0.01)).ask()

        assert answer.status == 504
        await asyncio.wait_for(cancelled.wait(), 5)
        assert admission.n_running == 0

    asyncio.run(run())


def test_a_client_that_leaves_frees_its_turn() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        app = gates(slow, admission)
        client, task = start(app)
        _, next_one = start(app)
        await settle()
        assert (slow.n_asked, admission.n_queued) == (1, 1)

        client.left.set()
        await task

        assert slow.n_left == 1
        await settle()
        assert slow.n_asked == 2
        slow.go.set()
        assert (await next_one).status == 200

    asyncio.run(run())


def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        app = gates(slow, admission)
        _, running = start(app)
        waiting, task = start(app)
        await settle()

        waiting.left.set()
        await task

        assert (slow.n_asked, admission.n_queued) == (1, 0)
        slow.go.set()
        assert (await running).status == 200
        assert admission.n_present == 0

    asyncio.run(run())


def test_a_turn_that_comes_as_its_request_leaves_is_passed_on() -> None:
    async def run() -> None:
        admission = Admission(max_running=1, max_queued=9)
        await admission.take_turn(60)
        leaving = asyncio.create_task(admission.take_turn(60))
        staying = asyncio.create_task(admission.take_turn(60))
        await settle()

        admission.leave()
        leaving.cancel()

        with pytest.raises(asyncio.CancelledError):
            await leaving
        await asyncio.wait_for(staying, 5)
        assert admission.n_running == 1

    asyncio.run(run())


def test_work_behind_a_complete_answer_is_let_finish() -> None:
    async def run() -> None:
        finished = False

        async def with_background_work(scope: Any, receive: Any, send: Any) -> None:
            nonlocal finished
            await hello(scope, receive, send)
            client.left.set()  # as servers say it when the answer is complete
            await asyncio.sleep(0.01)
            finished = True

        client = Client(gates(with_background_work, Admission()))

        assert (await client.ask()).content == b"hello"
        assert finished

    asyncio.run(run())


@pytest.mark.parametrize("value", [b"0", b"-1", b"61", b"nan", b"inf", b"soon", b""])
def test_time_that_cannot_be_given_is_refused(value: bytes) -> None:
    answer = ask(gates(hello, Admission(), 60), headers=[(b"x-request-timeout", value)])

    assert answer.status == 400
    assert answer.error["param"] == "X-Request-Timeout"


def test_body_passes_the_queue() -> None:
    assert ask(gates(echo, Admission()), body={"model": "x"}).content == b'{"model": "x"}'


def test_drain_refuses_new_requests_and_waits_for_those_that_are_in() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        app = gates(slow, admission)
        tasks = [start(app)[1] for _ in range(2)]
        await settle()
        admission.close()

        assert not await admission.drained(timeout_s=0.01)
        refused = await Client(app).ask()
        assert refused.status == 503
        assert refused.headers[b"retry-after"] == b"1"
        assert refused.error["type"] == "server_error"
        assert (await Client(gates(hello, admission), "/health", method="GET").ask()).status == 200

        slow.go.set()
        assert await admission.drained(timeout_s=5)
        assert [(await task).status for task in tasks] == [200, 200]

    asyncio.run(run())


def test_a_dead_engine_turns_away_those_that_wait() -> None:
    async def run() -> None:
        slow, admission = Slow(), Admission(max_running=1, max_queued=9)
        app = gates(slow, admission)
        start(app)
        _, waiting = start(app)
        await settle()

        admission.abandon("the engine is gone")

        answer = await waiting
        assert answer.status == 503
        assert answer.error["message"] == "the engine is gone"
        slow.go.set()
        await settle()

    asyncio.run(run())


def test_request_that_raises_is_counted_out() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ConnectionResetError

    admission = Admission()
    with pytest.raises(ConnectionResetError):
        ask(gates(broken, admission))

    assert (admission.n_running, admission.n_present) == (0, 0)


def test_a_closed_server_lets_nobody_in() -> None:
    admission = Admission()
    admission.close()

    with pytest.raises(EngineUnavailableError), admission.presence():
        pass


def test_a_full_queue_says_how_many() -> None:
    async def run() -> None:
        admission = Admission(max_running=1, max_queued=0)
        await admission.take_turn(60)
        with pytest.raises(OverloadedError, match="1 requests are running and 0 wait"):
            await admission.take_turn(60)

    asyncio.run(run())
