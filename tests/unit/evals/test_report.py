import io
import logging
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Any

import pyte
import pytest
from rich.cells import cell_len
from rich.console import Console

from vlmserve.evals.report.eval_report import EvalReport, SideReport, SuiteReport
from vlmserve.evals.report.junit import render_junit
from vlmserve.evals.report.markdown import render_markdown
from vlmserve.evals.report.progress import ProgressBars
from vlmserve.evals.report.task_report import (
    AnswerReport,
    FailureReport,
    FlipReport,
    FlipsReport,
    TaskReport,
)
from vlmserve.evals.report.terminal import print_report


def flip(number: int, question: str = "What [b]color[/b]?") -> FlipReport:
    return FlipReport(
        sample_id=f"{number}234567890",
        question=question,
        target="red",
        baseline=AnswerReport(answer="red", score=1.0),
        candidate=AnswerReport(answer="", score=0.0),
        media=(),
    )


def task(name: str, **changes: Any) -> TaskReport:
    values: dict[str, Any] = {
        "task": name,
        "metric": "exact_match",
        "higher_is_better": True,
        "in_points": True,
        "gated": True,
        "margin": 0.08,
        "verdict": "pass",
        "reason": "pass (no worse than 8 points)",
        "n_samples": 200,
        "n_available": 200,
        "n_pairs": 200,
        "n_clusters": 200,
        "detectable": 0.05,
        "n_failed_baseline": 0,
        "n_failed_candidate": 0,
        "n_cut_baseline": 0,
        "n_cut_candidate": 0,
        "method": "matched proportions",
        "baseline": 0.905,
        "candidate": 0.89,
        "difference": -0.015,
        "lower": -0.0456,
        "upper": 0.0142,
        "p_value": 0.0004,
        "adjusted_level": None,
        "flips": FlipsReport(regressed=(), improved=()),
        "failures": (),
    }
    return TaskReport(**{**values, **changes})


def report(*tasks: TaskReport, verdict: Any = "pass") -> EvalReport:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    side = {"settings": {}, "n_requests_sent": 200, "n_reused": 0}
    return EvalReport(
        verdict=verdict,
        run_id="run",
        started_at=now,
        finished_at=now,
        n_requests_sent=400,
        n_reused=7,
        suite=SuiteReport(
            name="demo",
            digest="d",
            sequential=False,
            limit=None,
            gate={"alpha": 0.05, "max_failed_fraction": 0.02},
            sampling={},
        ),
        baseline=SideReport(name="old", fingerprint="sha256:1", **side),
        candidate=SideReport(name="new", fingerprint="sha256:2", **side),
        versions={},
        tasks=tasks,
        notes=("mind the gap",),
    )


def shown(what: EvalReport, width: int = 200) -> str:
    buffer = io.StringIO()
    print_report(what, Console(file=buffer, width=width, highlight=False))
    return buffer.getvalue()


def test_the_table_shows_points_interval_p_and_words() -> None:
    text = shown(report(task("color")))

    assert "demo: new against old" in text
    assert "difference" in text
    assert "[95 %]" in text
    for cell in ("color", "200", "90.5", "89.0", "-1.5 [-4.6, +1.4]", "<0.001", "0/0"):
        assert cell in text
    assert "pass (no worse than 8 points)" in text
    assert "400 requests sent, 7 answers reused" in text
    assert "note: mind the gap" in text
    assert "verdict: pass (0 regression, 0 inconclusive, 1 pass of 1 gated tasks)" in text


def test_flipped_samples_are_shown_as_they_are_and_a_few_of_them() -> None:
    flips = FlipsReport(regressed=tuple(flip(n) for n in range(5)), improved=(flip(9),))
    bad = task("color", verdict="regression", reason="regression", flips=flips)
    text = shown(report(bad, verdict="regression"))

    assert "color: 5 worse, 3 shown" in text
    assert "color: 1 better, 1 shown" in text
    # Square brackets in a prompt are no markup.
    assert text.count("What [b]color[/b]?  target red  baseline red  candidate (empty)") == 4


def test_gains_of_a_task_that_passes_are_only_counted() -> None:
    text = shown(report(task("color", flips=FlipsReport(regressed=(), improved=(flip(1),)))))

    assert "0/1" in text
    assert "better" not in text


def test_failures_are_in_the_table_and_shown() -> None:
    failure = FailureReport(
        sample_id="s", side="candidate", question="?", error_type="MediaError", message="cut off"
    )
    text = shown(report(task("color", n_failed_candidate=2, failures=(failure,))))

    assert "0/2" in text
    assert "color: failed on the candidate: MediaError: cut off" in text


def test_a_task_without_numbers_has_dashes_and_not_zeros() -> None:
    empty = dict.fromkeys(("baseline", "candidate", "difference", "lower", "upper", "p_value"))
    text = shown(report(task("color", n_pairs=0, method=None, **empty)))

    row = next(line for line in text.splitlines() if "color" in line)
    assert row.split().count("-") == 4  # two scores, difference, p
    assert "0.0" not in row


def test_nothing_is_cut_at_eighty_columns() -> None:
    tasks = [
        task("newcolor", verdict="inconclusive", reason="inconclusive (too few)"),
        task("video", lower=-0.3456, upper=-0.1234, difference=-0.2345, n_failed_candidate=3),
    ]
    text = shown(report(*tasks), width=80)

    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= 80
    for cell in ("newcolor", "-23.4 [-34.6, -12.3]", "0/3", "inconclusive"):
        assert cell in text
    assert "inconclusive (too few): newcolor" in text
    assert "pass (no worse than 8 points): video" in text


@pytest.mark.parametrize("width", [110, 140])
def test_every_task_has_one_line_of_the_table(width: int) -> None:
    reason = "inconclusive (a drop of 8 points is not ruled out; about 1234 samples might decide)"
    bad = {"verdict": "regression", "reason": "regression (worse beyond chance)"}
    tasks = [
        task("newcolor", verdict="inconclusive", reason=reason, n_failed_candidate=12),
        task("video", lower=-0.3456, upper=-0.1234, difference=-0.2345, **bad),
        task("shape", **bad),
    ]
    lines = shown(report(*tasks, verdict="regression"), width=width).splitlines()

    rows = [line for line in lines if line.startswith(("newcolor", "video", "shape"))]
    assert [row.split()[-1] for row in rows] == ["inconclusive", "regression", "regression"]
    first = lines.index(rows[0])
    assert lines[first : first + 3] == rows
    assert lines[first + 3 : first + 5] == [
        f"{reason}: newcolor",
        "regression (worse beyond chance): video, shape",
    ]


@pytest.mark.parametrize("width", [80, 110, 200])
def test_a_long_flip_is_cut_and_keeps_to_its_line(width: int) -> None:
    long = flip(1, question="Why " * 50).model_copy(
        update={"target": "because " * 20, "baseline": AnswerReport(answer="字" * 90, score=1.0)}
    )
    flips = FlipsReport(regressed=(long, flip(2, question="Why?")), improved=())
    lines = shown(report(task("color", flips=flips)), width=width).splitlines()
    cut = next(line for line in lines if line.startswith("  12345678"))

    assert cell_len(cut) <= width
    assert cut.count("...") == 3
    # What is short stays whole: above all what the candidate said.
    assert cut.endswith("candidate (empty)")
    assert "  22345678  Why?  target red  baseline red  candidate (empty)" in [
        line[:61] for line in lines
    ]


def test_scores_that_are_no_fractions_are_shown_in_their_own_units() -> None:
    values = {"baseline": 12.5, "candidate": 14.0, "difference": 1.5, "lower": 0.5, "upper": 2.5}
    text = shown(report(task("words", in_points=False, **values)))

    assert "+1.5 [+0.5, +2.5]" in text
    assert "12.5" in text


def test_progress_counts_answers_and_failures() -> None:
    buffer = io.StringIO()
    with ProgressBars(Console(file=buffer, force_terminal=True, width=100)) as bars:
        bars.started("baseline", 0, 5)
        bars.started("candidate", 2, 0)
        bars.answered("candidate", failed=True)
        bars.answered("candidate", failed=False)

    assert "2/2" in buffer.getvalue()
    assert "1 failed" in buffer.getvalue()


def test_without_a_terminal_progress_is_a_line_a_side() -> None:
    buffer = io.StringIO()
    with ProgressBars(Console(file=buffer, width=100)) as bars:
        bars.loading("new [1] and old")
        bars.started("candidate", 2, 3)
        bars.answered("candidate", failed=False)

    assert buffer.getvalue().splitlines() == [
        "loading new [1] and old ...",
        "candidate: 2 requests to send, 3 answers reused",
    ]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> tuple[logging.Logger, io.StringIO]:
    """vlmserve's logger as the command sets it up, and the terminal that it writes to."""
    terminal = io.StringIO()
    handler = logging.StreamHandler(terminal)
    logger = logging.getLogger("vlmserve")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    return logger, terminal


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after this was written."""
    emulated = pyte.Screen(100, 50)
    emulated.set_mode(pyte.modes.LNM)
    pyte.Stream(emulated).feed(written)
    return [line.rstrip() for line in emulated.display if line.strip()]


def test_log_lines_do_not_stick_to_bars(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, terminal = log
    with ProgressBars(Console(file=terminal, force_terminal=True, width=100)) as bars:
        bars.loading("old")
        logger.warning("loaded old")
        bars.started("baseline", 1, 0)
        logger.warning("in the middle")
        bars.answered("baseline", failed=False)
        bars.loading("new")
        logger.warning("loaded new")
        bars.started("candidate", 1, 0)
        bars.answered("candidate", failed=True)
    logger.warning("the end")
    lines = screen(terminal.getvalue())

    assert [line for line in lines if "1/1" not in line] == [
        "loading old ...",
        "loaded old",
        "in the middle",
        "loading new ...",
        "loaded new",
        "the end",
    ]
    bars_shown = [line for line in lines if "1/1" in line]
    assert [line.split()[0] for line in bars_shown] == ["baseline", "candidate"]
    assert lines.index(bars_shown[0]) < lines.index("loading new ...")


HOSTILE = "a|b <script> `x` *y* @someone \x00 \ud800"


def test_markdown_shows_the_verdict_and_what_got_worse() -> None:
    flips = FlipsReport(regressed=tuple(flip(number) for number in range(12)), improved=())
    reason = f"regression (worse {'and worse ' * 20})"
    worse = task("color", verdict="regression", reason=reason, flips=flips)
    text = render_markdown(report(worse, task("shape"), verdict="regression"))

    assert text.startswith("## 🔴 regression: demo\n")
    assert "new against old" in text
    assert "| color | 200 | 90.5 | 89.0 | -1.5 \\[-4.6, +1.4\\] | \\<0.001 | 12/0 |" in text
    assert f"- **color**: {' '.join(reason.split())}" in text
    assert "**shape**" not in text
    assert text.count("| red | red |") == 10
    assert "and 2 more" in text
    assert "- note: mind the gap" in text


def test_markdown_keeps_what_models_say_from_being_markup() -> None:
    said = flip(1, HOSTILE)
    flips = FlipsReport(regressed=(said,), improved=())
    row = next(
        line
        for line in render_markdown(report(task("color", flips=flips))).splitlines()
        if line.startswith("| 12345678 ")
    )

    assert row.count(" | ") == 4
    assert "\\|" in row
    assert "\\<script\\>" in row
    assert "@someone" not in row


def test_junit_is_a_case_a_task() -> None:
    failed = FailureReport(
        sample_id="9", side="candidate", question="q", error_type="MediaError", message="cut off"
    )
    flips = FlipsReport(regressed=(flip(1, HOSTILE),), improved=())
    tasks = (
        task("color", verdict="regression", reason="regression (worse)", flips=flips),
        task("shape", verdict="inconclusive", reason="inconclusive (few)", failures=(failed,)),
        task("size"),
        task("order", gated=False, verdict="not gated", reason="not gated", margin=None),
    )
    root = ET.fromstring(render_junit(report(*tasks, verdict="regression")))
    (suite,) = root
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    cases = {case.get("name"): case for case in suite.iter("testcase")}

    assert counts == {"tests": "4", "failures": "1", "errors": "1", "skipped": "1"}
    assert cases["color"].find("failure") is not None
    assert "<script>" in str(cases["color"].findtext("failure"))
    assert "MediaError: cut off" in str(cases["shape"].findtext("error"))
    assert [child.tag for child in cases["size"]] == ["system-out"]
    assert cases["order"].find("skipped") is not None


def test_junit_of_a_gate_that_only_warns() -> None:
    undecided = task("shape", verdict="inconclusive", reason="inconclusive (few)")
    text = render_junit(report(undecided, verdict="inconclusive"), inconclusive_fails=False)
    suite = ET.fromstring(text)[0]

    assert (suite.get("errors"), suite.get("skipped")) == ("0", "1")


def test_junit_of_a_gate_that_only_warns_still_shows_requests_that_failed() -> None:
    failed = task("shape", verdict="inconclusive", reason="failed", n_failed_candidate=200)
    text = render_junit(report(failed, verdict="inconclusive"), inconclusive_fails=False)
    suite = ET.fromstring(text)[0]

    assert (suite.get("errors"), suite.get("skipped")) == ("1", "0")
    assert suite.find("testcase/error") is not None


def test_markdown_names_endpoints_in_full() -> None:
    url = "http://host.example.org:8000/v1"
    found = report(task("color"))
    side = found.candidate.model_copy(update={"fingerprint": url})
    last = render_markdown(found.model_copy(update={"candidate": side})).splitlines()[-1]
    assert f"candidate {url}" in last.replace("\\", "")
