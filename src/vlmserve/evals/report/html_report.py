"""One self-contained HTML file: the verdict, the differences, and every sample that flipped.

Nothing in it is fetched. A content security policy names its one script and its one style sheet by
their digests, so that nothing else runs even where a text were taken for markup; texts of models
and of data are escaped here and set as text by the script.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vlmserve.evals.gate import TaskVerdictName
from vlmserve.evals.report.amounts import (
    difference_in_words,
    nll_finding,
    nll_in_words,
    p_value_in_words,
    score_in_words,
)
from vlmserve.evals.report.eval_report import EvalReport, SideReport
from vlmserve.evals.report.forest import render_forests
from vlmserve.evals.report.gallery import Gallery, create_gallery
from vlmserve.evals.report.nll_plot import render_nll_plot
from vlmserve.evals.report.task_report import TaskReport
from vlmserve.evals.report.visible_text import visible

if TYPE_CHECKING:
    from vlmserve.evals.medium import Medium

_N_SLICES = 12
_VERDICTS = {
    "regression": "got worse beyond chance",
    "not improved": "had to improve and did not",
    "inconclusive": "undecided",
    "improved": "improved as required",
    "pass": "no worse than the margin allows",
}


def render_html(report: EvalReport, media: "Mapping[str, Medium] | None" = None) -> str:
    """Write a report as one HTML file.

    Args:
        report: What was found.
        media: By digest, the media of the suite's samples, for thumbnails; see
            ``vlmserve.evals.report.thumbnails.collect_media``. ``None`` where they are not at hand.
    """
    return render_page(report, create_gallery(report, media))


def render_page(report: EvalReport, gallery: Gallery) -> str:
    """Write a report with a gallery that is made already."""
    folder = files("vlmserve.evals.report") / "html"
    script = (folder / "report.js").read_text(encoding="utf-8")
    style = (folder / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"p_value": p_value_in_words, "difference": difference_in_words}
    environment.filters |= {"nll": nll_in_words, "nll_finding": nll_finding}
    environment.globals["score"] = score_in_words
    template = environment.from_string((folder / "template.html").read_text(encoding="utf-8"))
    confidence = f"{100 * (1 - report.suite.gate['alpha']):g} %"
    return template.render(
        report=report,
        summary=_summary(report),
        reasons=_reasons(report.tasks),
        confidence=confidence,
        forests=render_forests(report.tasks, confidence),
        nll_plot=render_nll_plot(report.tasks, confidence),
        nlls=[(task, task.nll) for task in report.tasks if task.nll is not None],
        worse_slices=[each for each in report.slices if each.is_worse],
        n_slices_shown=_N_SLICES,
        noise=[task for task in report.tasks if task.noise is not None],
        some_failed=any(t.n_failed_baseline or t.n_failed_candidate for t in report.tasks),
        gallery=gallery,
        counts=_counts(gallery),
        sides=[_side("baseline", report.baseline), _side("candidate", report.candidate)],
        script=Markup(script),  # noqa: S704 - our own file
        script_digest=_digest(script),
        style=Markup(style),  # noqa: S704 - our own file
        style_digest=_digest(style),
    )


def _finalize(value: Any) -> Any:
    """Show hidden characters of any text that the template inserts."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _digest(text: str) -> str:
    """Name an inline script or style as a content security policy does (CSP 3, 2.3.1)."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _summary(report: EvalReport) -> str:
    """Say in a sentence what the verdict rests on."""
    gated = Counter(task.verdict for task in report.tasks if task.gated)
    if not gated:
        return "No task is gated."
    said = [f"{count} {_VERDICTS.get(verdict, verdict)}" for verdict, count in _gravest(gated)]
    n_gated = gated.total()
    return f"Of {n_gated} gated task{'s' if n_gated != 1 else ''}: {', '.join(said)}."


def _gravest(counts: Mapping[TaskVerdictName, int]) -> list[tuple[TaskVerdictName, int]]:
    """Put regressions first, then what is undecided."""
    return sorted(counts.items(), key=lambda item: _grave(item[0]))


def _grave(verdict: TaskVerdictName) -> int:
    order = list(_VERDICTS)
    return order.index(verdict) if verdict in order else len(order)


def _reasons(tasks: Sequence[TaskReport]) -> list[dict[str, Any]]:
    """Give each reason once with the tasks that it holds for, the gravest first."""
    named: dict[tuple[TaskVerdictName, str], list[str]] = {}
    for task in tasks:
        if task.gated:
            named.setdefault((task.verdict, _bare_reason(task)), []).append(task.task)
    return [
        {"verdict": verdict, "reason": reason, "tasks": names}
        for (verdict, reason), names in sorted(named.items(), key=lambda item: _grave(item[0][0]))
    ]


def _bare_reason(task: TaskReport) -> str:
    """The reason without the verdict's name before it."""
    words = task.reason.removeprefix(task.verdict).strip()
    return words[1:-1] if words.startswith("(") and words.endswith(")") else words or task.reason


def _counts(gallery: Gallery) -> dict[str, int]:
    kinds = [card["kind"] for card in gallery.cards]
    return {kind: kinds.count(kind) for kind in ("worse", "failed", "better")}


def _side(role: str, side: SideReport) -> dict[str, Any]:
    settings = json.dumps(side.settings, indent=2, ensure_ascii=False, default=str)
    return {"role": role, "side": side, "settings": settings}
