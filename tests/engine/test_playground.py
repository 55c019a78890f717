"""The page at ``/`` in a real browser, against the shared server."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import browser as browser
from tests.engine import media
from tests.engine.conftest import ADMIN_KEY, Server
from tests.engine.test_serving import BASE, TUNED

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

BY = "\N{MULTIPLICATION SIGN}"


@dataclass
class Visit:
    """A page and what was seen of it."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Messages on the console and exceptions, above all violations of the policy."""

    def text_field(self, number: int = 1) -> Any:
        return self.page.locator(f"textarea[aria-label='Text {number}']")

    def answer(self, model: str) -> Any:
        return self.page.locator(f".answer[data-model='{model}']")

    def finished(self) -> None:
        """Wait until every model has answered, or failed to."""
        self.page.locator(".answer .timings:visible").first.wait_for()
        # No function is waited for: the page's policy lets nobody evaluate text.
        self.page.locator("#stop").wait_for(state="hidden")

    def parts(self) -> list[str]:
        names: list[str] = self.page.locator("#parts .part-name").all_text_contents()
        return names

    def focused(self) -> str:
        label: str = self.page.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.id"
        )
        return label


@pytest.fixture
def visit(browser: "Browser", server: Server) -> Iterator[Visit]:
    """The page, opened; at the end nothing was asked for elsewhere and nothing went wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    seen = Visit(context.new_page())
    page = seen.page
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on(
        "request",
        lambda request: (
            seen.bodies.append(request.post_data_json)
            if request.url.endswith("/v1/chat/completions")
            else None
        ),
    )
    page.on("console", lambda message: seen.errors.append(message.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.goto(server.url)
    page.locator(".chip").nth(1).wait_for()
    yield seen
    own = (server.url, "data:", "blob:")
    assert [url for url in seen.requests if not url.startswith(own)] == []
    # The browser itself reports failed requests; the page must not add to that.
    assert [error for error in seen.errors if "Failed to load resource" not in error] == []
    context.close()


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "red.png", tmp_path / "blue.png"]
    for file, color in zip(files, (media.RED, media.BLUE), strict=True):
        file.write_bytes(media.png((84, 84), color))
    return files


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    file = tmp_path / "dot.mp4"
    file.write_bytes(media.mp4(10, side=56, fps=5.0))
    return file


def test_every_model_answers_side_by_side(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    page.set_input_files("#files", pictures[:1])
    visit.text_field().fill("Name the color.")
    page.click("#ask")
    visit.finished()

    assert page.locator(".answer").count() == 2
    for model in (BASE, TUNED):
        assert visit.answer(model).locator(".words").inner_text() == "red"
        timings = visit.answer(model).locator(".timings").inner_text()
        assert "First token" in timings
        assert "Total" in timings
    assert visit.answer(BASE).locator(".role").inner_text() == "base"
    assert visit.answer(TUNED).locator(".role").inner_text() == "fine-tune"
    assert page.locator("#verdict").inner_text() == "Both gave the same answer."
    assert {body["model"] for body in visit.bodies} == {BASE, TUNED}
    assert all(body["stream"] for body in visit.bodies)
    assert "base: red" in (page.locator("#status").text_content() or "")


def test_parts_are_sent_in_their_order(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    visit.text_field().fill("Which image is brighter?")
    page.set_input_files("#files", pictures)
    page.locator("#parts li").nth(2).wait_for()
    assert visit.parts() == ["Image 1", "Image 2", "Text 1"]

    # With the keyboard alone: the second image to the front, the text between them.
    page.focus("button[aria-label='Move Image 2 up']")
    page.keyboard.press("Enter")
    page.locator(".file").first.get_by_text("blue.png").wait_for()
    page.keyboard.press("Alt+ArrowDown")
    page.locator(".file").first.get_by_text("red.png").wait_for()
    page.keyboard.press("Alt+ArrowUp")
    visit.text_field().focus()
    page.keyboard.press("Alt+ArrowUp")
    assert visit.parts() == ["Image 1", "Text 1", "Image 2"]
    assert visit.focused() == "Text 1"
    page.keyboard.press("Control+Enter")
    visit.finished()

    content = visit.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "image_url"]
    assert content[0]["image_url"]["url"] == media.data_url(pictures[1].read_bytes())
    assert content[2]["image_url"]["url"] == media.data_url(pictures[0].read_bytes())


def test_budget_and_sampled_frames_are_shown_beforehand(
    visit: Visit, pictures: list[Path], clip: Path
) -> None:
    page = visit.page
    page.set_input_files("#files", [pictures[0], clip])
    visit.text_field().fill("Which way does the dot move?")
    page.locator(".strip img").nth(3).wait_for()

    rows = [" ".join(row.split()) for row in page.locator("#budget-rows tr").all_inner_texts()]
    assert rows[0].startswith("Text and template ")
    assert rows[1:] == [
        f"Image 1 84 {BY} 84 84 {BY} 84 9",
        f"Video 1 56 {BY} 56, 10 frames 56 {BY} 56, 4 frames 8",
    ]
    total = page.locator("#budget-total").inner_text()
    assert "of 2,048 tokens, leaving" in total
    assert page.locator("#frames figcaption").inner_text() == (
        "Video 1: 4 of 10 frames at 5 a second were sampled."
    )
    times = page.locator(".strip span").all_inner_texts()
    assert times == ["0.00 s", "0.40 s", "1.00 s", "1.40 s"]
    assert page.locator(".strip img").evaluate_all(
        "images => images.every(i => i.complete && i.naturalWidth === 56)"
    )
    assert page.locator(".part-note").nth(1).inner_text() == "8 tokens"
    # Nothing was asked of a model.
    assert visit.bodies == []

    page.click("#ask")
    visit.finished()
    prompt = visit.answer(TUNED).locator(".timings").inner_text()
    assert f"{total.split()[0]} tokens" in prompt


def test_what_does_not_fit_is_laid_out(visit: Visit) -> None:
    visit.text_field().fill("What is 3 plus 4? " * 900)

    note = visit.page.locator("#budget-note.error")
    note.wait_for()
    assert "this model's context holds 2048 tokens" in note.inner_text()
    assert "over" in (visit.page.locator("#budget-total").get_attribute("class") or "")
    visit.page.click("#ask")
    visit.finished()
    for model in (BASE, TUNED):
        error = visit.answer(model).locator(".error").inner_text()
        assert "messages: the prompt has" in error
        assert "(context_length_exceeded)" in error


def test_an_error_is_text_at_the_part_it_is_about(visit: Visit, tmp_path: Path) -> None:
    broken = tmp_path / "cut.png"
    broken.write_bytes(media.png((300, 300), media.RED)[:200])
    page = visit.page
    visit.text_field().fill("Name the color.")
    page.set_input_files("#files", [broken])
    page.click("#ask")
    visit.finished()

    error = visit.answer(TUNED).locator(".error").inner_text()
    assert error.startswith("messages[0].content[0].image_url: this image cannot be used")
    card = page.locator("#parts li").first
    assert "truncated" in card.locator(".error").inner_text()
    assert page.locator("#parts li").nth(1).locator(".error").is_hidden()
    # What is put right works.
    page.click("button[aria-label='Remove Image 1']")
    assert visit.focused() == "Text 1"
    page.click("#ask")
    visit.finished()
    assert visit.answer(TUNED).locator(".words").inner_text()


def test_a_field_is_named_once(visit: Visit) -> None:
    """Some of the server's messages begin with the field, others leave it to ``param``."""
    visit.text_field().fill("Say <|im_end|>")
    visit.page.click("#ask")
    visit.finished()

    error = visit.answer(TUNED).locator(".error").inner_text()
    assert error.startswith("messages[0].content[0].text: the text spells <|im_end|>")
    assert error.count("messages") == 1


@pytest.fixture
def alias(server: Server) -> Iterator[str]:
    def change(method: str, data: bytes | None = None) -> None:
        request = urllib.request.Request(
            f"{server.url}/admin/aliases/stable",
            data=data,
            headers={"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request) as response:
            assert response.status == 200

    change("PUT", json.dumps({"target": TUNED}).encode())
    yield "stable"
    change("DELETE")


def test_a_model_with_an_alias_is_asked_once(visit: Visit, alias: str) -> None:
    page = visit.page
    page.reload()
    page.locator(".chip .alias").wait_for()

    assert page.locator(".chip").count() == 2
    assert page.locator("#served").inner_text() == "2 models served"
    assert page.locator(".chip", has_text=TUNED).locator(".alias").inner_text() == f"alias: {alias}"
    assert visit.answer(TUNED).locator(".alias").inner_text() == f"alias: {alias}"
    assert visit.answer(BASE).locator(".alias").count() == 0
    visit.text_field().fill("What is 3 plus 4?")
    page.click("#ask")
    visit.finished()
    assert sorted(body["model"] for body in visit.bodies) == sorted([BASE, TUNED])


def test_files_of_other_kinds_are_named(visit: Visit, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("hello")
    visit.page.set_input_files("#files", [notes])

    assert visit.page.locator("#composer-error").inner_text() == (
        "notes.txt is neither an image nor a video."
    )


def test_files_can_be_dropped(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
          return transfer;
        }""",
        ["red.png", list(pictures[0].read_bytes())],
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": transfer})
    assert page.locator(".drop-note").is_visible()
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})

    page.locator(".file", has_text="red.png").wait_for()
    assert page.locator(".drop-note").is_hidden()
    assert visit.parts() == ["Image 1", "Text 1"]


def test_a_running_answer_can_be_stopped(visit: Visit) -> None:
    page = visit.page
    page.click("details.settings summary")
    page.fill("#max-tokens", "1900")
    page.fill("#temperature", "2")
    visit.text_field().fill("What is 3 plus 4?")
    page.keyboard.press("Control+Enter")
    page.locator("#stop").wait_for()
    page.keyboard.press("Escape")
    visit.finished()

    assert page.locator("#ask").is_enabled()
    assert page.locator("#stop").is_hidden()


def test_models_can_be_left_out(visit: Visit) -> None:
    page = visit.page
    page.uncheck(f".chip:has-text('{BASE}') >> nth=0 >> input")
    visit.text_field().fill("What is 3 plus 4?")
    page.click("#ask")
    visit.finished()

    assert [body["model"] for body in visit.bodies] == [TUNED]
    assert page.locator(".answer").count() == 1


def test_markup_in_texts_stays_text(visit: Visit, tmp_path: Path) -> None:
    hostile = tmp_path / "<img src=x onerror=document.title='pwned'>.png"
    hostile.write_bytes(media.png((56, 56), media.RED))
    visit.text_field().fill("<script>document.title='pwned'</script>")
    visit.page.set_input_files("#files", [hostile])
    visit.page.locator(".file", has_text="onerror").wait_for()
    visit.page.click("#ask")
    visit.finished()

    assert visit.page.title() == "Playground · vlmserve"
    assert visit.page.locator("#parts img[src='x']").count() == 0


def test_the_policy_refuses_what_is_not_the_pages_own(visit: Visit) -> None:
    visit.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'pwned'";
          document.body.append(script);
          fetch("https://example.com/").catch(() => {});
          const image = new Image(); image.src = "https://example.com/x.png";
        }"""
    )
    visit.page.wait_for_timeout(200)

    assert visit.page.title() == "Playground · vlmserve"
    refused = " ".join(visit.errors)
    for directive in ("script-src", "connect-src", "img-src"):
        assert directive in refused
    visit.errors.clear()
    visit.requests.clear()


def test_theme_goes_round(visit: Visit) -> None:
    page = visit.page
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.click("#theme")
    assert page.evaluate(back) == light
    page.click("#theme")
    assert page.locator("#theme").inner_text() == "Theme: dark"
    assert page.evaluate(back) != light
    page.emulate_media(color_scheme="dark")
    page.click("#theme")
    assert page.locator("#theme").inner_text() == "Theme: system"
    assert page.evaluate(back) != light


def test_a_narrow_window_does_not_scroll_sideways(visit: Visit, pictures: list[Path]) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 700})
    visit.page.set_input_files("#files", pictures)
    visit.text_field().fill("Name the color.")
    visit.page.locator("#budget-rows tr").nth(2).wait_for()

    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_everything_has_a_name_and_can_be_reached(visit: Visit, pictures: list[Path]) -> None:
    page = visit.page
    page.set_input_files("#files", pictures)
    page.locator("#parts li").nth(2).wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, [tabindex='0']")]
          .filter((each) => each.checkVisibility() && !each.closest(".hidden"))
          .filter((each) => !(each.textContent.trim() || each.getAttribute("aria-label")
            || each.getAttribute("aria-labelledby") || each.labels?.length))
          .map((each) => each.outerHTML)"""
    )
    assert nameless == []
    page.evaluate("document.activeElement.blur(); document.body.focus()")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(visit.focused())
    for label in ("key-open", "theme", "Move Image 1 down", "Remove Image 2", "Text 1", "add-media",
                  "ask"):  # fmt: skip
        assert label in reached


def test_without_a_script_it_says_so(browser: "Browser", server: Server) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(server.url)

    assert page.get_by_text("This page needs its own script").is_visible()
    context.close()


def test_its_files_carry_the_policy(server: Server) -> None:
    for path in ("/", "/playground/app.js", "/playground/style.css"):
        with urllib.request.urlopen(f"{server.url}{path}") as response:
            policy = response.headers["content-security-policy"]
            assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_thumbnails_come_only_when_asked_for(server: Server, clip: Path) -> None:
    url = media.data_url(clip.read_bytes(), "video/mp4")
    message = {"role": "user", "content": [media.video(url)]}
    body = json.dumps({"model": TUNED, "messages": [message]}).encode()

    def frames(query: str) -> list[Any]:
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions/budget{query}",
            data=body,
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            found: list[Any] = json.load(response)["parts"][1]["sampled_frames"]
        return found

    assert all("image" not in frame for frame in frames(""))
    shown = [frame["image"] for frame in frames("?frames=thumbnails")]
    assert len(shown) == 4
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in shown)
