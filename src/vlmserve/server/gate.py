"""The two gates that a request passes: is the server taking any, and is it this one's turn?"""

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from vlmserve import metrics
from vlmserve.errors import (
    EngineUnavailableError,
    OverloadedError,
    RequestError,
    RequestTimeoutError,
)
from vlmserve.server.admission import Admission
from vlmserve.server.context import RequestContext, context_of, header
from vlmserve.server.refusal import refuse
from vlmserve.server.stream_error import stream_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALWAYS_OPEN = frozenset({"/health", "/ready", "/metrics", "/ping", "/version"})
"""Routes that are answered while the server drains."""

TIMEOUT_HEADER = b"x-request-timeout"
"""Seconds that a client gives its request; at most the operator's."""

_ABORT_S = 2.0
"""Seconds that the app is given to notice that nobody waits any more."""

Gone = asyncio.Future[None]
"""Done when a request's client has left, or nobody shall wait any more; await it with
``asyncio.wait``, which does not cancel it. A future costs less than an event, whose every waiter is
a task."""


class AdmissionGate:
    """Pure ASGI middleware that answers 503 while the server drains, 429 while it is full.

    Args:
        app: What comes behind.
        admission: Whether requests are taken.
    """

    def __init__(self, app: "ASGIApp", admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Pass the request on and count it, or refuse it."""
        if scope["type"] != "http" or context_of(scope).route in ALWAYS_OPEN:
            await self._app(scope, receive, send)
            return
        try:
            with self._admission.presence():
                if takes_turn(scope):
                    self._admission.require_room()
                await self._app(scope, receive, send)
        except OverloadedError as error:
            await refuse(scope, send, error)
        except EngineUnavailableError as error:
            await refuse(scope, send, error, headers=((b"retry-after", b"1"),), close=True)


def takes_turn(scope: "Scope") -> bool:
    """Whether a request is one for the model; others are answered beside the queue."""
    return scope["method"] == "POST" and not context_of(scope).route.startswith("/admin/")


class TurnGate:
    """Pure ASGI middleware that gives requests their turns, and no more time than they have.

    A request whose client has left, or whose time is over, is given up in the engine: the app sees
    the client leave.

    Args:
        app: What comes behind; the request's body must have been read.
        admission: Gives the turns.
        timeout_s: Seconds that a request may take, waiting included.
    """

    def __init__(self, app: "ASGIApp", admission: Admission, timeout_s: float) -> None:
        self._app = app
        self._admission = admission
        self._timeout_s = timeout_s

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Wait for the turn, pass the request on, and end it in time."""
        if scope["type"] != "http" or not takes_turn(scope):
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        body = await receive()
        with contextlib.ExitStack() as stack:
            gone: Gone = asyncio.get_running_loop().create_future()
            watcher = asyncio.create_task(_watch(receive, gone))
            stack.callback(watcher.cancel)
            try:
                timeout_s = self._timeout(scope)
                if not await self._turn_came(context, timeout_s, gone):
                    context.refused = "client_left"
                    return
            except (EngineUnavailableError, RequestError) as error:
                await refuse(scope, send, error)
                return
            answer = _Answering(scope, body, gone, send, timeout_s)
            try:
                await answer.run(self._app)
            finally:
                self._admission.leave(answer.took_s)

    def _timeout(self, scope: "Scope") -> float:
        text = header(scope, TIMEOUT_HEADER)
        if text is None:
            return self._timeout_s
        try:
            asked = float(text)
        except ValueError:
            asked = math.nan
        if not 0 < asked <= self._timeout_s:
            raise RequestError(
                f"X-Request-Timeout: {text[:32]!r} is no number of seconds above 0 and up to "
                f"{self._timeout_s:g}, the operator's limit",
                param="X-Request-Timeout",
                code="invalid_header",
            )
        return asked

    async def _turn_came(self, context: RequestContext, timeout_s: float, gone: Gone) -> bool:
        """Wait in the queue; false if the client left it."""
        waited_from = context.age_s()
        if self._admission.try_take_turn():
            metrics.QUEUE_SECONDS.observe(0.0)
            return True
        turn = asyncio.create_task(self._admission.take_turn(timeout_s - waited_from))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._give_back(turn)
            raise
        if not turn.done():
            await self._give_back(turn)
            metrics.DISCONNECTS.inc()
            return False
        turn.result()
        metrics.QUEUE_SECONDS.observe(context.age_s() - waited_from)
        return True

    async def _give_back(self, turn: "asyncio.Task[None]") -> None:
        """Stop waiting for a turn; one that came at the last moment goes to the next request."""
        turn.cancel()
        with contextlib.suppress(asyncio.CancelledError, EngineUnavailableError):
            await turn
            self._admission.leave()


async def _watch(receive: "Receive", gone: Gone) -> None:
    """Note when the client leaves; its body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    _note(gone)


def _note(gone: Gone) -> None:
    if not gone.done():
        gone.set_result(None)


class _Answering:
    """One request that has its turn."""

    def __init__(
        self, scope: "Scope", body: "Message", gone: Gone, send: "Send", timeout_s: float
    ) -> None:
        self._scope = scope
        self._context = context_of(scope)
        self._body: Message | None = body
        self._gone = gone
        self._send = send
        self._timeout_s = timeout_s
        self._started: Message | None = None
        self._complete = False
        self._over = False
        self.took_s: float | None = None
        """Seconds that the answer took, where it came to its end."""

    async def run(self, app: "ASGIApp") -> None:
        begun = self._context.age_s()
        task = asyncio.create_task(self._call(app))
        try:
            await asyncio.wait(
                {task, self._gone},
                timeout=self._timeout_s - begun,
                return_when=asyncio.FIRST_COMPLETED,
            )
            # A server says that the client has left when the answer is complete, too.
            if not task.done() and not self._complete:
                await self._give_up(task)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            await asyncio.wait({task})
        if self._over or (self._gone.done() and not self._complete):
            if not task.cancelled():
                task.exception()  # whatever it was, nobody waits for it
            return
        self.took_s = self._context.age_s() - begun
        task.result()

    async def _call(self, app: "ASGIApp") -> None:
        await app(self._scope, self._receive, self._send_in_time)

    async def _give_up(self, task: "asyncio.Task[None]") -> None:
        """End a request whose client has left or whose time is over."""
        if self._gone.done():
            metrics.DISCONNECTS.inc()
            self._context.refused = "client_left"
        else:
            metrics.TIMEOUTS.labels("running").inc()
            self._over = True
            _note(self._gone)
        # vLLM stops computing when it sees the client leave; cancelling its handler alone would
        # leave what that has started.
        await asyncio.wait({task}, timeout=_ABORT_S)
        task.cancel()
        if self._over:
            await self._say_so()

    async def _say_so(self) -> None:
        error = RequestTimeoutError(
            f"the answer was not complete after {self._timeout_s:g} s and was given up"
        )
        if self._started is None:
            await refuse(self._scope, self._send, error)
            return
        self._context.refused = error.code
        event = stream_error(self._context.route, self._started, error)
        if event is not None:
            await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def _receive(self) -> "Message":
        if self._body is not None:
            body, self._body = self._body, None
            return body
        await asyncio.wait({self._gone})
        return {"type": "http.disconnect"}

    async def _send_in_time(self, message: "Message") -> None:
        if self._over:
            raise OSError("the request's time is over")
        if message["type"] == "http.response.start":
            self._started = message
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._complete = True
        await self._send(message)
