"""What probes read, through the middleware that rewrites errors."""

import json

from fastapi import FastAPI

from tests.unit.server.asgi import Answer, ask
from vlmserve.server.admission import Admission
from vlmserve.server.errors import ErrorTranslator
from vlmserve.server.identity import Identity
from vlmserve.server.routes import add_probe_routes


def ready(admission: Admission) -> Answer:
    app = FastAPI()
    add_probe_routes(app, admission, Identity([], None))
    app.add_middleware(ErrorTranslator)
    return ask(app, "/ready", method="GET")


def test_probe_is_told_that_the_server_drains() -> None:
    admission = Admission()
    before = ready(admission)
    admission.close()
    after = ready(admission)

    assert (before.status, json.loads(before.content)) == (200, {"status": "ready"})
    assert (after.status, json.loads(after.content)) == (503, {"status": "draining"})
