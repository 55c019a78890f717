"""One Chromium for the tests of a page, and a page that tells of everything that goes wrong."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import CHROMIUM
from vlmserve.evals.medium import Medium
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.report.html_report import render_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@dataclass
class Opened:
    """A page and what was seen of it."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    """Addresses asked for, the page's own left out."""

    failed: list[str] = field(default_factory=list)
    """Those of them that got no answer."""

    errors: list[str] = field(default_factory=list)
    """Messages on the console and exceptions, above all violations of the policy."""

    def cards(self) -> Any:
        return self.page.locator(".card")

    def card(self, text: str) -> Any:
        return self.page.locator(".card", has_text=text)

    def count(self) -> str:
        return self.page.locator("#count").inner_text()

    def focused(self) -> str:
        """The label of what has the focus."""
        label: str = self.page.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
        )
        return label


# Not for the session: as long as Playwright is open, an event loop counts as running in this
# thread, and tests that start one of their own fail.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root; the pages are our own.
        chromium = playwright.chromium.launch(
            executable_path=shutil.which(CHROMIUM), args=["--no-sandbox"]
        )
        yield chromium
        chromium.close()


OpenReport = Callable[..., Opened]
OpenPage = Callable[..., Opened]


@pytest.fixture
def open_report(open_page: OpenPage) -> OpenReport:
    """Opens a report as ``open_page`` does."""

    def open_one(
        report: EvalReport, media: dict[str, Medium] | None = None, **context_options: Any
    ) -> Opened:
        return open_page(render_html(report, media), **context_options)

    return open_one


@pytest.fixture
def open_page(browser: "Browser", tmp_path: Path) -> Iterator[OpenPage]:
    """Opens a page from a file; at the end nothing must have been fetched or have failed."""
    opened: list[Opened] = []
    contexts = []

    def open_one(text: str, **context_options: Any) -> Opened:
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        context = browser.new_context(viewport={"width": 1200, "height": 900}, **context_options)
        contexts.append(context)
        seen = Opened(context.new_page())
        seen.page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((path.as_uri(), "data:"))
                else seen.requests.append(request.url)
            ),
        )
        seen.page.on("requestfailed", lambda request: seen.failed.append(request.url))
        seen.page.on("console", lambda message: seen.errors.append(message.text))
        seen.page.on("pageerror", lambda error: seen.errors.append(str(error)))
        seen.page.goto(path.as_uri())
        opened.append(seen)
        return seen

    yield open_one
    for each in opened:
        assert each.requests == []
        assert each.errors == []
    for context in contexts:
        context.close()
