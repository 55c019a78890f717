"""``vlmserve eval --plan``: what a run would ask, take and be able to show."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from vlmserve.config.judge import JudgeConfig
    from vlmserve.evals.forecast import Forecast, SideForecast, TaskForecast

_MINUTE_S = 60


def print_forecast(forecast: "Forecast", console: "Console", *, sequential: bool) -> None:
    """Print a forecast: a table of the tasks, a line for each side, and the sum."""
    console.print(_table(forecast))
    for line in _lines(forecast):
        console.print(Text(line), soft_wrap=True)
    if sequential:
        console.print("with --sequential this is the most: a task that is decided is asked no more")
    console.print("nothing was asked")


def _table(forecast: "Forecast") -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("task", overflow="fold")
    for header in ("samples", "clusters", "prompt tokens", "answer tokens\nat most", "detectable"):
        table.add_column(header, justify="right")
    table.add_column("judged by", overflow="fold")
    for task in forecast.tasks:
        tokens = f"{task.prompt_tokens:,}" if isinstance(task.prompt_tokens, int) else "unknown"
        table.add_row(
            Text(task.name),
            f"{task.n_samples:,}",
            f"{task.n_clusters:,}",
            tokens,
            f"{task.max_answer_tokens:,}",
            f"{task.detectable:.3f}",
            Text(task.aim),
        )
    return table


def _lines(forecast: "Forecast") -> Iterator[str]:
    yield (
        "detectable: the smallest difference that is seen four times out of five if 10 % of the "
        "scores differ and samples of one image, video or text rise and fall together"
    )
    reasons: dict[str, list[str]] = {}
    for task in forecast.tasks:
        if isinstance(task.prompt_tokens, str):
            reasons.setdefault(task.prompt_tokens, []).append(task.name)
        if task.n_needed is not None:
            yield _out_of_reach(task)
    for reason, names in reasons.items():
        yield f"prompt tokens of {', '.join(names)} are not known: {reason}"
    for side in forecast.sides:
        yield _side(side)
    if forecast.judge is not None and forecast.n_opinions:
        yield _judge(forecast, forecast.judge)
    total = "an unknown time" if forecast.seconds is None else _duration(forecast.seconds)
    yield f"in all {forecast.n_requests:,} requests, {total}; starting engines comes on top"


def _out_of_reach(task: "TaskForecast") -> str:
    return (
        f"{task.name}: {task.aim} is out of reach with {task.n_samples:,} samples, about "
        f"{task.n_needed:,} would do"
    )


def _side(side: "SideForecast") -> str:
    scored = f", {side.n_targets:,} expected answers to score" if side.n_targets else ""
    took = "unknown" if side.seconds is None else _duration(side.seconds)
    return (
        f"{side.side} {side.name}: {side.n_requests:,} requests to send, {side.n_reused:,} answers "
        f"reused{scored}; time: {took} ({side.basis})"
    )


def _judge(forecast: "Forecast", judge: "JudgeConfig") -> str:
    cost = forecast.judge_cost
    said = (
        "what they cost is not known, for the suite gives no prices"
        if cost is None
        else f"its own words cost {cost:.4g} {judge.currency} at most; its prompts, which hold the "
        "answers, come on top"
    )
    return f"judge {judge.model}: {forecast.n_opinions:,} opinions at most; {said}"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE_S:.1f} minutes"
