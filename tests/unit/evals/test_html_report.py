"""What goes into the HTML report: media within their room, texts that stay texts, the plot."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.reports import failure, flip, known, medium, picture, report, task
from vlmserve.evals.medium import Medium
from vlmserve.evals.report.files import write_reports
from vlmserve.evals.report.forest import render_forests
from vlmserve.evals.report.gallery import MAX_TEXT, create_gallery, embed_json
from vlmserve.evals.report.html_report import render_html
from vlmserve.evals.report.thumbnails import create_preview
from vlmserve.evals.report.visible_text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, 字, é, \u0634", "plain, 字, é, \u0634"),
        ("two\n\tlines", "two\n\tlines"),
        ("two\r\nlines\rmore", "two\nlines\nmore"),
        ("a\u202eb\u2066c\u200f", "a⟨U+202E⟩b⟨U+2066⟩c⟨U+200F⟩"),
        ("\0\x1b[2J\x7f\x9b", "⟨U+0000⟩⟨U+001B⟩[2J⟨U+007F⟩⟨U+009B⟩"),
        ("zero\u200bwidth\ufeff\u00ad", "zero⟨U+200B⟩width⟨U+FEFF⟩⟨U+00AD⟩"),
        ("\U000e0041 \ud800 \u2028", "⟨U+E0041⟩ ⟨U+D800⟩ ⟨U+2028⟩"),
        ("👩\u200d🚀 می\u200cشود", "👩\u200d🚀 می\u200cشود"),
    ],
)
def test_hidden_characters_are_named(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_embedded_json_holds_no_markup_and_reads_as_it_was() -> None:
    value = {"a": "</script><!--<script>", "b": "&lt; '\""}
    text = embed_json(value)

    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_worse_samples_come_first_and_each_medium_is_kept_once() -> None:
    first, second = medium(picture("red")), medium(picture("blue"))
    color = task("color", [flip(1, [first])], [flip(2, [first])])
    shape = task("shape", [flip(3, [second, first])], failures=[failure(4, "cut", [second])])
    gallery = create_gallery(report(color, shape), known([first, second]))

    assert [(card["id"][-1], card["kind"]) for card in gallery.cards] == [
        ("1", "worse"), ("3", "worse"), ("4", "failed"), ("2", "better")
    ]  # fmt: skip
    assert [card["media"] for card in gallery.cards] == [[0], [1, 0], [1], [0]]
    assert [entry["first"] for entry in gallery.media] == [0, 1]
    assert len(gallery.thumbnails) == 2
    assert gallery.notices == []


def test_media_end_where_their_room_does_and_every_task_has_some() -> None:
    images = [medium(picture(f"#0000{number:02x}")) for number in range(40)]
    room = 11 * create_preview(images[0]).n_bytes
    tasks = [
        task("color", [flip(number, [images[number]]) for number in range(30)]),
        task("shape", [flip(100 + number, [images[30 + number]]) for number in range(10)]),
    ]
    gallery = create_gallery(report(*tasks), known(images), max_media_bytes=room)
    shown = {card["id"] for card in gallery.cards if gallery.media[card["media"][0]]["thumbnails"]}
    of_color = sum(int(sample_id, 16) < 100 for sample_id in shown)

    assert sum(len(thumbnail.url) for thumbnail in gallery.thumbnails) <= room
    assert 8 <= len(shown) < 40
    assert of_color - (len(shown) - of_color) in {0, 1}
    assert shown == {f"{n:08x}" for n in range(of_color)} | {
        f"{100 + n:08x}" for n in range(len(shown) - of_color)
    }
    (notice,) = gallery.notices
    assert notice.startswith(f"Images of {len(shown)} of 40 samples are in this file")
    left_out = [entry["missing"] for entry in gallery.media if not entry["thumbnails"]]
    assert set(left_out) == {"left out: this file's room for images is used up"}


def test_media_are_read_one_at_a_time_and_none_beyond_the_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    media = []
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(picture(f"#0000{number:02x}"))
        media.append(Medium.load(f"{number}.png", tmp_path))
    read: list[Path] = []
    read_bytes = Path.read_bytes

    def note(path: Path) -> bytes:
        read.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", note)
    color = task("color", [flip(number, [each]) for number, each in enumerate(media)])
    create_gallery(report(color), known(media), max_media_bytes=1)

    assert read == [tmp_path / "0.png"]


def test_more_samples_than_fit_are_counted() -> None:
    tasks = [
        task("color", [flip(number) for number in range(5)]),
        task("shape", [flip(100 + number) for number in range(2)], [flip(200)]),
    ]
    gallery = create_gallery(report(*tasks), None, max_cards=5)

    assert [int(card["id"], 16) for card in gallery.cards] == [0, 1, 100, 101, 200]
    assert gallery.notices == [
        "5 of 8 samples are in this file, the first of each task; all are in the JSON report."
    ]


def test_samples_end_where_the_room_for_their_texts_does() -> None:
    text = "x" * 2 * MAX_TEXT
    long = [
        flip(number, question=text, target=text, baseline=text, candidate=text)
        for number in range(9)
    ]
    gallery = create_gallery(report(task("color", long)), None, max_characters=4 * 4 * MAX_TEXT + 1)

    assert len(gallery.cards) == 4
    assert gallery.notices[0].startswith("4 of 9 samples are in this file")


def test_long_texts_are_cut_in_the_open() -> None:
    gallery = create_gallery(report(task("color", [flip(1, question="x" * (MAX_TEXT + 7))])), None)

    question = gallery.cards[0]["question"]
    assert question.startswith("x" * MAX_TEXT + " [")
    assert question.endswith("7 more characters are in the JSON report]")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_images_of_every_mode_are_shown(mode: str) -> None:
    import io

    if mode == "I;16":
        image = Image.fromarray(np.full((20, 30), 40_000, np.uint16))
    else:
        image = Image.new("L", (30, 20), 156).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF" if mode in {"CMYK", "I;16", "I", "F"} else "PNG")
    preview = create_preview(Medium("image", "image/x", "", buffer.getvalue()))

    (thumbnail,) = preview.thumbnails
    assert (thumbnail.width_px, thumbnail.height_px) == (30, 20)
    if mode in {"L", "I;16", "I", "F"}:
        import base64

        data = base64.b64decode(thumbnail.url.partition(",")[2])
        with Image.open(io.BytesIO(data)) as shown:
            assert shown.convert("L").getpixel((15, 10)) == pytest.approx(156, abs=4)


def test_a_changed_file_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    before = Medium.load("a.png", tmp_path)
    (tmp_path / "a.png").write_bytes(picture("blue"))
    preview = create_preview(before)

    assert not preview.thumbnails
    assert "has changed since the run began" in preview.missing


def test_an_image_too_large_to_decode_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    preview = create_preview(medium(picture("red", (40, 40))))

    assert preview.missing.startswith("cannot be shown: DecompressionBombError")


def test_plots_are_by_unit_and_worse_is_always_to_the_left() -> None:
    error_rate = task(
        "ocr", metric="cer", higher_is_better=False, difference=0.1, lower=0.05, upper=0.15
    )
    distance = task(
        "boxes", metric="distance", in_points=False, difference=3.0, lower=-1.0, upper=7.0
    )
    none = task("none", difference=None, lower=None, upper=None)
    plots = render_forests([task("color"), error_rate, distance, none], "95 %")

    assert len(plots) == 3
    for plot in plots[:2]:
        root = ET.fromstring(str(plot))
        (zero,) = [line for line in root.iter("line") if line.get("class") == "zero"]
        mark = next(p for p in root.iter("path") if p.get("class") == "mark")
        middle = float((mark.get("d") or "").split()[0][1:])
        assert middle < float(zero.get("x1") or "nan")
    assert "lower is better" in plots[1]
    assert "none" not in "".join(plots)


def test_ticks_are_round_and_reach_zero() -> None:
    for scale in (1e-6, 0.013, 1.0, 47.0, 1e7):
        wide = task(
            "color", in_points=False, difference=0.1 * scale, lower=-0.7 * scale, upper=scale,
            margin=None,
        )  # fmt: skip
        (plot,) = render_forests([wide], "95 %")
        labels = re.findall(r'class="tick"[^>]*>([^<]*)<', plot)

        assert "0" in labels
        assert 3 <= len(labels) <= 8
        assert len(set(labels)) == len(labels)


def test_a_plot_escapes_names() -> None:
    (plot,) = render_forests([task("<b>&\u202e", reason='"><script>')], "95 %")

    assert "<b>" not in plot
    assert "<script>" not in plot
    assert "⟨U+202E⟩" in plot


def test_nothing_flipped_is_said(tmp_path: Path) -> None:
    passed = task("color", verdict="pass", reason="pass (no worse than 5 points)")
    path = tmp_path / "new" / "report.html"
    write_reports(report(passed, verdict="pass"), {"html": path})
    text = path.read_text(encoding="utf-8")

    assert "No sample flipped, and none failed." in text
    assert '<h1 id="verdict">Pass</h1>' in text


def test_the_policy_allows_nothing_but_the_digests_of_its_own_parts() -> None:
    text = render_html(report(task("color")))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)

    assert re.fullmatch(
        r"default-src 'none'; script-src 'sha256-[\w+/=]{44}'; style-src 'sha256-[\w+/=]{44}'; "
        r"img-src data:; base-uri 'none'; form-action 'none'",
        policy.replace("&#39;", "'"),
    )
    assert "http://" not in text
    assert "https://" not in text


def test_no_gated_task_is_said() -> None:
    free = task("color", gated=False, margin=None, verdict="not gated", reason="not gated")

    assert "No task is gated." in render_html(report(free, verdict="pass"))


@pytest.mark.parametrize(("n_frames", "n_shown"), [(1, 1), (3, 3), (9, 4)])
def test_frames_of_videos_are_spread_and_none_is_shown_twice(n_frames: int, n_shown: int) -> None:
    pytest.importorskip("cv2")
    from vlmserve.demo.video import FPS, encode_mp4

    frames = np.zeros((n_frames, 32, 48, 3), np.uint8)
    preview = create_preview(medium(encode_mp4(frames)))
    times = [float(thumbnail.label.removesuffix(" s")) for thumbnail in preview.thumbnails]

    assert preview.missing == ""
    assert len(times) == n_shown == len(set(times))
    assert times == sorted(times)
    assert 0 <= times[-1] < n_frames / FPS


def test_a_video_without_opencv_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    import sys

    from vlmserve.demo.video import encode_mp4

    video = medium(encode_mp4(np.zeros((2, 32, 32, 3), np.uint8)))
    monkeypatch.setitem(sys.modules, "cv2", None)

    assert create_preview(video).missing == "frames of videos need OpenCV, which is not installed"
