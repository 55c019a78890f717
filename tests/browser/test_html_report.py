"""The HTML report in a real browser: what is seen, and what keys and filters do."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import OpenReport
from tests.browser.reports import (
    TURNED,
    failure,
    flip,
    kind_of_samples,
    known,
    medium,
    noise,
    picture,
    report,
    task,
)
from vlmserve.evals.medium import Medium
from vlmserve.evals.report.task_report import MeasureReport, NllReport

pytestmark = pytest.mark.browser

HOSTILE = (
    "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
)


def wait_for_pictures(card: Any) -> list[list[int]]:
    """Natural sizes of a card's pictures, once they are decoded."""
    card.scroll_into_view_if_needed()
    card.page.wait_for_function(
        "card => [...card.querySelectorAll('img')].every(i => i.complete && i.naturalWidth)",
        arg=card.element_handle(),
    )
    sizes: list[list[int]] = card.locator("img").evaluate_all(
        "images => images.map(i => [i.naturalWidth, i.naturalHeight])"
    )
    return sizes


@pytest.fixture
def small() -> Any:
    """Two tasks with three worse, one better and one failed sample."""
    color = task("color", [flip(1), flip(2)], [flip(3)], noise=noise())
    shape = task(
        "shape",
        [flip(4, question="Which Ωmega?")],
        failures=[failure(5, "cut off")],
        verdict="inconclusive",
        reason="inconclusive (too few samples)",
    )
    slices = (kind_of_samples("color", "images = 2", is_worse=True),)
    return report(color, shape, slices=slices, notes=("mind the gap",))


def test_the_verdict_comes_first_with_its_reasons(open_report: OpenReport, small: Any) -> None:
    page = open_report(small).page

    assert page.title() == "regression: new against old"
    header = page.locator("header.verdict")
    assert header.bounding_box()["y"] == 0  # type: ignore[index]
    assert page.locator("h1").inner_text() == "Regression"
    words = header.inner_text()
    assert "new against old" in words
    assert "Of 2 gated tasks: 1 got worse beyond chance, 1 undecided." in words
    reasons = header.locator("li").all_inner_texts()
    assert [" ".join(reason.split()) for reason in reasons] == [
        "regression color: worse beyond chance",
        "inconclusive shape: too few samples",
    ]


def test_tables_plot_and_notes_are_there(open_report: OpenReport, small: Any) -> None:
    page = open_report(small).page

    row = page.locator("table.tasks tbody tr").first.inner_text().split()
    assert row[:9] == ["color", "exact_match", "400", "90.0", "80.0", "-10.0", "[-15.0,", "-5.0]",
                       "5.0"]  # fmt: skip
    assert "images = 2" in page.locator("table.slices").inner_text()
    assert page.locator("table.noise tbody td").all_inner_texts() == [
        "400",
        "12",
        "3",
        "2",
        "2",
        "1",
    ]
    assert page.get_by_text("mind the gap").is_visible()
    plot = page.get_by_role("img", name="Differences in points with 95 % intervals")
    assert plot.count() == 1
    assert "color -10.0 [-15.0, -5.0], regression" in (
        page.locator("svg.forest desc").text_content() or ""
    )


def test_the_plot_shows_intervals_where_they_are(open_report: OpenReport, small: Any) -> None:
    page = open_report(small).page

    def box(what: str) -> Any:
        found = page.locator(f"svg.forest {what}").first.bounding_box()
        assert found
        return found

    zero, interval, margin = box(".zero"), box(".interval"), box("line.margin")
    assert interval["x"] + interval["width"] / 2 < margin["x"] < zero["x"]
    mark = box(".mark")
    assert mark["x"] + mark["width"] / 2 == pytest.approx(
        interval["x"] + interval["width"] / 2, abs=1
    )
    # -15 to -5 is as wide as the margin is from zero, twice.
    assert interval["width"] == pytest.approx(2 * (zero["x"] - margin["x"]), rel=0.1)


def test_filters_and_search_narrow_the_samples(open_report: OpenReport, small: Any) -> None:
    opened = open_report(small)
    page = opened.page
    assert opened.count() == "5 of 5"

    page.locator(".kinds").get_by_text("better").click()
    assert opened.count() == "1 of 5"
    assert opened.cards().count() == 1
    page.locator(".kinds").get_by_text("failed").click()
    assert "MediaError: cut off" in (opened.cards().text_content() or "")
    page.locator(".kinds").get_by_text("all").click()
    page.select_option("#task", label="shape")
    assert opened.count() == "2 of 5"
    # Words in any order, in any case, in any of the texts.
    page.fill("#search", "BEFORE ωmega")
    assert opened.count() == "1 of 5"
    page.fill("#search", "no such words")
    assert opened.cards().count() == 0
    assert page.get_by_text("No sample matches.").is_visible()


def test_counts_in_the_table_lead_to_their_samples(open_report: OpenReport, small: Any) -> None:
    opened = open_report(small)
    opened.page.get_by_role("link", name="2 worse samples of color").click()

    assert opened.count() == "2 of 5"
    assert opened.page.locator("#task").input_value() == "0"
    assert opened.page.locator("input[name=kind]:checked").get_attribute("value") == "worse"


def test_the_keyboard_leads_through_the_samples(open_report: OpenReport, small: Any) -> None:
    opened = open_report(small)
    press = opened.page.keyboard.press

    press("/")
    assert opened.focused() == "search"
    opened.page.keyboard.type("jk")  # letters while searching, not steps
    assert opened.page.locator("#search").input_value() == "jk"
    press("Escape")
    assert opened.page.locator("#search").input_value() == ""
    assert opened.count() == "5 of 5"
    assert opened.focused() != "search"
    press("j")
    assert opened.focused() == "worse, color, sample 00000001"
    press("j")
    press("ArrowDown")
    assert opened.focused() == "worse, shape, sample 00000004"
    press("k")
    press("ArrowUp")
    press("k")  # at the first: stays
    assert opened.focused() == "worse, color, sample 00000001"
    press("End")
    assert opened.focused() == "better, color, sample 00000003"
    press("Home")
    focused = opened.page.locator(".card:focus")
    assert focused.evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    assert focused.evaluate("card => getComputedStyle(card).outlineWidth") == "2px"
    # One card is a stop of the tabulator, and it is the one that was left.
    assert opened.page.locator(".card[tabindex='0']").count() == 1


def test_it_is_dark_where_that_is_preferred_and_where_it_is_asked_for(
    open_report: OpenReport, small: Any
) -> None:
    def lightness(page: Any) -> int:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color[4:-1].split(",")[:3])

    dark = open_report(small, color_scheme="dark").page
    assert lightness(dark) < 150
    page = open_report(small, color_scheme="light").page
    assert lightness(page) > 700
    button = page.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    button.click()
    assert button.inner_text() == "Theme: dark"
    assert lightness(page) < 150
    page.reload()
    assert lightness(page) < 150  # remembered


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_either_theme(
    open_report: OpenReport, small: Any, scheme: str
) -> None:
    page = open_report(small, color_scheme=scheme).page
    # WCAG 2.2, 1.4.3: a contrast of 4.5 to 1 for text.
    weak = page.evaluate(
        """() => {
          const channels = (color) => color.match(/[\\d.]+/g).map(Number);
          const light = (color) => {
            const [r, g, b] = channels(color).map((v) => v / 255)
              .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (node) => {
            for (let at = node; at; at = at.parentElement) {
              const color = getComputedStyle(at).backgroundColor;
              if (!/, 0\\)$/.test(color)) return color;
            }
            return getComputedStyle(document.body).backgroundColor;
          };
          const weak = [];
          const texts = "p, td, th, li span, dd, dt, a, code, summary, svg text";
          for (const node of document.querySelectorAll(texts)) {
            if (!node.textContent.trim() || !node.checkVisibility()) continue;
            const style = getComputedStyle(node);
            const ink = node.namespaceURI.endsWith("svg") ? style.fill : style.color;
            const [a, b] = [light(ink), light(ground(node))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) weak.push(`${node.tagName} ${node.textContent}`);
          }
          return weak;
        }"""
    )

    assert weak == []


def test_texts_of_models_and_data_are_texts(open_report: OpenReport) -> None:
    bad = task(
        HOSTILE,
        [flip(1, question=HOSTILE, target=HOSTILE, baseline=HOSTILE, candidate=HOSTILE)],
        failures=[failure(2, HOSTILE)],
        metric=HOSTILE,
        reason=HOSTILE,
    )
    opened = open_report(
        report(
            bad,
            notes=(HOSTILE,),
            slices=(kind_of_samples(HOSTILE, HOSTILE, is_worse=True),),
            run_id=HOSTILE,
        )
    )
    page = opened.page

    assert page.title() == "regression: new against old"
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("script:not([type])").count() == 1
    assert (opened.cards().first.text_content() or "").count(HOSTILE) == 5  # with the task's name
    assert page.locator("main li", has_text=HOSTILE).first.is_visible()


def test_what_is_not_seen_is_named(open_report: OpenReport) -> None:
    opened = open_report(
        report(task("color", [flip(1, candidate="yes\u202eon\u200b\x1b[31m\0", target="")]))
    )
    card = opened.cards().first.text_content() or ""

    assert "yes⟨U+202E⟩on⟨U+200B⟩⟨U+001B⟩[31m⟨U+0000⟩" in card
    assert "(empty)" in card


def test_right_to_left_answers_stay_in_their_place(open_report: OpenReport) -> None:
    opened = open_report(report(task("color", [flip(1, candidate="שלום (1)")])))
    answer = opened.page.locator(".lost bdi")

    assert answer.evaluate("text => getComputedStyle(text).unicodeBidi") == "isolate"
    assert "score 0" in (opened.cards().first.text_content() or "")


def test_images_are_shown_upright_and_small(open_report: OpenReport) -> None:
    large = medium(picture("red", (1200, 600)))
    turned = medium(picture("red", (400, 200), kind="JPEG", orientation=TURNED))
    opened = open_report(
        report(task("color", [flip(1, [large, turned], question="<image>and <image>: which?")])),
        known([large, turned]),
    )
    card = opened.cards().first

    assert wait_for_pictures(card) == [[256, 128], [128, 256]]
    assert card.locator(".chip").all_text_contents() == ["image 1", "image 2"]
    assert card.locator("figcaption").all_text_contents() == [
        "image 1 · 1200 \N{MULTIPLICATION SIGN} 600",
        "image 2 · 400 \N{MULTIPLICATION SIGN} 200",
    ]
    # Orientation 6 turns the left half of the file to the top.
    top = (
        card.locator("img")
        .nth(1)
        .evaluate(
            """image => {
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return [...canvas.getContext("2d").getImageData(64, 20, 1, 1).data];
        }"""
        )
    )
    assert top[0] > 200
    assert max(top[1:3]) < 60


def test_frames_of_a_video_are_shown_in_their_order(open_report: OpenReport) -> None:
    np = pytest.importorskip("numpy")
    pytest.importorskip("cv2")
    from vlmserve.demo.video import encode_mp4

    frames = (
        np.zeros((8, 32, 48, 3), np.uint8)
        + np.arange(0, 240, 30, dtype=np.uint8)[:, None, None, None]
    )
    video = medium(encode_mp4(frames))
    opened = open_report(
        report(task("move", [flip(1, [video], question="<video>Where?")])), known([video])
    )
    card = opened.cards().first

    assert wait_for_pictures(card) == [[48, 32]] * 4
    times = [float(text.split()[0]) for text in card.locator(".frames span").all_text_contents()]
    assert times == sorted(set(times))
    assert card.locator(".chip").all_text_contents() == ["video"]


def test_what_cannot_be_shown_says_why(open_report: OpenReport, tmp_path: Path) -> None:
    cut = medium(picture("red", (64, 64))[:80])
    (tmp_path / "gone.png").write_bytes(picture("blue"))
    gone = Medium.load("gone.png", tmp_path)
    (tmp_path / "gone.png").unlink()
    other = medium(picture("green"))
    opened = open_report(
        report(
            task(
                "color",
                [flip(1, [cut]), flip(2, [gone])],
                [flip(3, [other])],
                [failure(4, "?", [cut])],
            )
        ),
        known([cut, gone]),
    )
    page = opened.page

    assert page.get_by_text("4 of 4 samples have images or videos that cannot").is_visible()
    gaps = page.locator(".gone").all_text_contents()
    assert len(gaps) == 4
    assert gaps[0].startswith("image: cannot be shown: ")
    assert "No such file" in gaps[1]
    assert gaps[3] == "image: not at hand: the suite's data no longer has it"


def test_a_report_without_its_data_says_so(open_report: OpenReport) -> None:
    image = medium(picture("red"))
    opened = open_report(report(task("color", [flip(1, [image])])))

    assert opened.page.get_by_text("Images and videos are not in this file").is_visible()
    assert (
        opened.page.locator(".gone").text_content()
        == "image: not at hand: written from a kept report"
    )


def test_thousands_of_samples_are_drawn_as_they_are_reached(open_report: OpenReport) -> None:
    images = [medium(picture(f"#{number:06x}")) for number in range(200)]
    flips = [flip(number, [images[number % 200]]) for number in range(5000)]
    opened = open_report(report(task("color", flips)), known(images))
    page = opened.page

    assert opened.count() == "5,000 of 5,000"
    first = opened.cards().count()
    assert 0 < first < 100
    # Pictures out of sight have not been decoded.
    assert page.locator(".card img[src]").count() < first
    opened.cards().nth(first - 1).scroll_into_view_if_needed()
    page.wait_for_function("n => document.querySelectorAll('.card').length > n", arg=first)
    assert opened.cards().count() < 1000
    page.fill("#search", "00001387")  # number 4999
    assert opened.count() == "1 of 5,000"
    wait_for_pictures(opened.cards().first)


def test_steps_go_past_what_is_drawn(open_report: OpenReport) -> None:
    opened = open_report(report(task("color", [flip(number) for number in range(200)])))
    for _ in range(61):
        opened.page.keyboard.press("j")

    assert opened.focused() == f"worse, color, sample {60:08x}"
    card = opened.page.locator(".card:focus")
    box, bar = card.bounding_box(), opened.page.locator("#filters").bounding_box()
    assert box
    assert bar
    assert bar["y"] + bar["height"] <= box["y"] < 900 - box["height"] + 1


def test_print_is_light_and_says_how_much_it_shows(open_report: OpenReport) -> None:
    image = medium(picture("red"))
    flips = [flip(number, [image]) for number in range(1000)]
    opened = open_report(report(task("color", flips)), known([image]), color_scheme="dark")
    page = opened.page

    assert page.pdf().startswith(b"%PDF")  # fires beforeprint and afterprint
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.get_by_text("Printed: 300 of 1,000 samples.").is_visible()
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".card img:not([src])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#printed").is_hidden()


def test_it_reads_without_its_script(open_report: OpenReport, small: Any) -> None:
    page = open_report(small, java_script_enabled=False).page

    assert page.locator("h1").inner_text() == "Regression"
    assert page.locator("table.tasks tbody tr").count() == 2
    assert page.get_by_text("The samples are shown by this page's own script").is_visible()
    assert not page.locator("#filters").is_visible()


def test_nothing_but_its_own_script_runs(open_report: OpenReport, small: Any) -> None:
    opened = open_report(small)
    opened.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "document.title = 'pwned'";
          document.body.append(script);
          fetch("https://example.com/").catch(() => {});
          const image = new Image(); image.src = "https://example.com/x.png";
        }"""
    )
    opened.page.wait_for_timeout(200)

    assert opened.page.title() != "pwned"
    refused = " ".join(opened.errors)
    assert refused.count("Content Security Policy") >= 3
    for directive in ("script-src", "connect-src", "img-src"):
        assert directive in refused
    # They are asked for inside the browser, and refused there.
    assert opened.failed == opened.requests
    opened.errors.clear()
    opened.requests.clear()


def test_a_narrow_window_does_not_scroll_sideways(open_report: OpenReport, small: Any) -> None:
    note = f"served differently: {'mm_processor_kwargs.images_kwargs.' * 3}: unset | 50176"
    page = open_report(small.model_copy(update={"notes": (note,)})).page
    page.set_viewport_size({"width": 360, "height": 700})

    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_names_of_tasks_that_moved_alike_do_not_cover_each_other(open_report: OpenReport) -> None:
    measure = MeasureReport(
        baseline=0.5,
        candidate=0.6,
        difference=0.1,
        lower=0.05,
        upper=0.15,
        detectable=0.1,
        p_value=0.01,
    )
    nll = NllReport(
        n_samples=100,
        n_pairs=100,
        n_clusters=100,
        n_failed_baseline=0,
        n_failed_candidate=0,
        per_token=measure,
        per_byte=None,
        margin=None,
        verdict="not gated",
        reason="not gated",
        is_early_warning=False,
    )
    tasks = [task(f"receipts {number}").model_copy(update={"nll": nll}) for number in range(6)]
    labels = open_report(report(*tasks)).page.locator("svg.nll .label")
    boxes = [box for label in labels.all() if (box := label.bounding_box()) is not None]

    assert len(boxes) == 6
    lines = sorted(box["y"] for box in boxes)
    # A line of 12 px letters; boxes of text are somewhat higher than what is drawn in them.
    assert all(below - above >= 12 for above, below in pairwise(lines))
