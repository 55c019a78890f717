"""The playground behind an API key: opened without it, and asking for it."""

import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from vlmserve.config.server import ServerConfig
from vlmserve.server.auth import KeyGuard, take_keys
from vlmserve.server.page import PATHS, add_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture
def guarded() -> Iterator[str]:
    """The page and a list of models behind the real guard; no engine is needed for that."""
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    add_page(app)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "base"}, {"id": "tuned", "parent": "base"}]}

    keys = take_keys(ServerConfig(), {"VLMSERVE_API_KEY": "secret"})
    app.add_middleware(KeyGuard, keys=keys, open_paths=PATHS)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        server.should_exit = True
        thread.join(10)


def test_the_key_is_asked_for_and_kept_in_the_tab_alone(browser: "Browser", guarded: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded)
    page.locator("#key-dialog[open]").wait_for()
    assert page.evaluate("document.activeElement.id") == "key"

    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.get_by_text("The server does not accept this key.").wait_for()
    page.fill("#key", "secret")
    page.click("#key-save")
    page.locator(".chip").nth(1).wait_for()

    assert page.locator("#key-dialog[open]").count() == 0
    assert page.evaluate("sessionStorage.getItem('vlmserve-key')") == "secret"
    assert page.evaluate("localStorage.length") == 0
    assert context.cookies() == []
    assert "secret" not in page.content()
    page.reload()
    page.locator(".chip").nth(1).wait_for()
    page.click("#key-open")
    page.click("#key-forget")
    page.locator("#key-dialog[open]").wait_for()
    assert page.evaluate("sessionStorage.getItem('vlmserve-key')") is None
    other = context.new_page()
    other.goto(guarded)
    other.locator("#key-dialog[open]").wait_for()
    context.close()


def test_a_server_that_is_gone_is_said(browser: "Browser", guarded: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(guarded)
    page.fill("#key", "secret")
    page.route("**/v1/models", lambda route: route.abort())
    page.click("#key-save")

    page.get_by_text("The server cannot be reached.").wait_for()
    context.close()
