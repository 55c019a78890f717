"""Reports with real media, as large as a test wants them."""

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from vlmserve.evals.medium import Medium
from vlmserve.evals.report.eval_report import EvalReport, SideReport, SuiteReport
from vlmserve.evals.report.task_report import (
    AnswerReport,
    FailureReport,
    FlipReport,
    FlipsReport,
    MediumReport,
    NoiseReport,
    SliceReport,
    TaskReport,
)

TURNED = 6  # EXIF orientation: shown turned by 90 degrees


def picture(
    color: str, size: tuple[int, int] = (64, 48), *, kind: str = "PNG", orientation: int = 1
) -> bytes:
    """An image whose left half is of a color and whose right half is black."""
    image = Image.new("RGB", size, "black")
    image.paste(Image.new("RGB", (size[0] // 2, size[1]), color), (0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def medium(data: bytes) -> Medium:
    return Medium.load(data, Path())


def known(media: Iterable[Medium]) -> dict[str, Medium]:
    return {each.sha256: each for each in media}


def flip(number: int, media: Sequence[Medium] = (), **texts: str) -> FlipReport:
    return FlipReport(
        sample_id=f"{number:08x}",
        question=texts.get("question", f"What is {number}?"),
        target=texts.get("target", f"target {number}"),
        baseline=AnswerReport(answer=texts.get("baseline", "before"), score=1.0),
        candidate=AnswerReport(answer=texts.get("candidate", "after"), score=0.0),
        media=_media(media),
    )


def failure(number: int, message: str, media: Sequence[Medium] = ()) -> FailureReport:
    return FailureReport(
        sample_id=f"{number:08x}",
        side="candidate",
        question="<image>What failed?",
        target="nothing",
        error_type="MediaError",
        message=message,
        media=_media(media),
    )


def _media(media: Sequence[Medium]) -> tuple[MediumReport, ...]:
    return tuple(MediumReport(content_type=m.content_type, sha256=m.sha256) for m in media)


def task(
    name: str,
    worse: Sequence[FlipReport] = (),
    better: Sequence[FlipReport] = (),
    failures: Sequence[FailureReport] = (),
    **changes: Any,
) -> TaskReport:
    values: dict[str, Any] = {
        "task": name,
        "metric": "exact_match",
        "higher_is_better": True,
        "in_points": True,
        "gated": True,
        "margin": 0.05,
        "verdict": "regression",
        "reason": "regression (worse beyond chance)",
        "n_samples": 400,
        "n_available": 400,
        "n_pairs": 400,
        "n_clusters": 400,
        "detectable": 0.05,
        "n_failed_baseline": 0,
        "n_failed_candidate": len(failures),
        "n_cut_baseline": 0,
        "n_cut_candidate": 0,
        "method": "matched proportions",
        "baseline": 0.9,
        "candidate": 0.8,
        "difference": -0.1,
        "lower": -0.15,
        "upper": -0.05,
        "p_value": 0.0004,
        "adjusted_level": 0.01,
        "flips": FlipsReport(regressed=tuple(worse), improved=tuple(better)),
        "failures": tuple(failures),
    }
    return TaskReport(**{**values, **changes})


def kind_of_samples(task_name: str, name: str, *, is_worse: bool) -> SliceReport:
    return SliceReport(
        task=task_name,
        name=name,
        in_points=True,
        n_pairs=40,
        baseline=0.9,
        candidate=0.6,
        difference=-0.3,
        lower=-0.4,
        upper=-0.2,
        p_value=0.001,
        adjusted_p=0.004,
        is_worse=is_worse,
    )


def noise() -> NoiseReport:
    return NoiseReport(n_pairs=400, n_changed=12, n_worse=3, n_better=2)


def report(*tasks: TaskReport, **changes: Any) -> EvalReport:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    side: dict[str, Any] = {"settings": {"engine": "vllm"}, "n_requests_sent": 4, "n_reused": 0}
    values: dict[str, Any] = {
        "verdict": "regression",
        "run_id": "run-1",
        "started_at": now,
        "finished_at": now,
        "n_requests_sent": 8,
        "n_reused": 7,
        "suite": SuiteReport(
            name="demo",
            digest="d1",
            sequential=False,
            limit=None,
            gate={"alpha": 0.05},
            sampling={"temperature": 0},
        ),
        "baseline": SideReport(name="old", fingerprint="sha256:1", **side),
        "candidate": SideReport(name="new", fingerprint="sha256:2", **side),
        "versions": {"vlmserve": "0.1.0"},
        "tasks": tasks,
    }
    return EvalReport(**{**values, **changes})
