"""``vlmserve demo tour``: check, serve and judge the demo checkpoints with the real commands."""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from vlmserve.cli.console import create_console
from vlmserve.cli.stages import Stages
from vlmserve.errors import ConfigError, EngineError, VlmserveError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vlmserve.demo.questions import ShownQuestion

_START_TIMEOUT_S = 300
_STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class _Step:
    """A command of the tour and how it must end."""

    title: str
    arguments: Sequence[str]
    status: int


def run_tour(out: Path, *, config: Path, suite: Path) -> int:
    """Show the product end to end on the demo checkpoints.

    Args:
        out: Directory for checkpoints, answers and reports; made if it is not there.
        config: Settings of the server, such as ``configs/cpu-demo.yaml``.
        suite: The demo's suite, ``evals/demo.yaml``.

    Returns:
        0 when every step ended as it must.

    Raises:
        ConfigError: A file is missing; the tour needs a checkout of the repository.
        VlmserveError: A step ended otherwise.
    """
    for file in (config, suite):
        if not file.is_file():
            raise ConfigError(
                f"{file}: no such file", hint="run the tour in a checkout of vlmserve"
            )
    from vlmserve.demo.questions import load_questions

    questions = load_questions(suite.parent / "demo" / "data")
    console = create_console()
    started = time.monotonic()
    zoo, store = out / "checkpoints", out / "evals.sqlite"
    serving = ("--config", str(config))
    judging = ("--suite", str(suite), "--store", str(store), *serving)
    _run(
        console,
        _Step("1. The checkpoints", ("demo", "build", "--out", str(zoo)), 0),
        _Step("2. What is wrong with them", ("check", "--ckpt", str(zoo / "good-lora")), 0),
        _Step("", ("check", "--ckpt", str(zoo / "no-vision")), 4),
    )
    _show_serving(console, zoo, serving, questions)
    reports = {name: out / f"{name}.html" for name in ("good", "forgetful")}
    _run(
        console,
        _Step(
            "4. A good fine-tune is judged",
            ("eval", "--ckpt", str(zoo / "good"), *judging, *_files(reports["good"])),
            0,
        ),
        _Step(
            "5. A forgetful fine-tune is judged; the base's answers are reused",
            (
                "eval",
                "--ckpt",
                str(zoo / "forgetful"),
                *judging,
                *_files(reports["forgetful"]),
            ),
            1,
        ),
    )
    console.rule("Done")
    minutes, seconds = divmod(round(time.monotonic() - started), 60)
    console.print(
        f"good: [green]pass[/green], forgetful: [red]regression[/red], as they must be; "
        f"{minutes} min {seconds} s"
    )
    for name, path in reports.items():
        console.print(f"report of {name}: {path}", soft_wrap=True)
    return 0


def _files(page: Path) -> tuple[str, ...]:
    return ("--html", str(page), "--json", str(page.with_suffix(".json")))


def _run(console: Console, *steps: _Step) -> None:
    from vlmserve.cli.main import main
    from vlmserve.cli.termination import INTERRUPTED

    for step in steps:
        _announce(console, step.title, step.arguments)
        status = main(step.arguments)
        if status == INTERRUPTED:
            raise KeyboardInterrupt
        if status != step.status:
            raise VlmserveError(
                f"`vlmserve {shlex.join(step.arguments)}` ended with status {status}; the tour "
                f"expects {step.status}"
            )


def _announce(console: Console, title: str, arguments: Sequence[str]) -> None:
    if title:
        console.print()
        console.rule(f"[bold]{title}", align="left")
    console.print(f"$ vlmserve {shlex.join(arguments)}", style="cyan", soft_wrap=True, markup=False)


def _show_serving(
    console: Console, zoo: Path, serving: Sequence[str], questions: "Sequence[ShownQuestion]"
) -> None:
    arguments = ("serve", "--ckpt", str(zoo / "good-lora"), "--port", "0", *serving)
    _announce(console, "3. An adapter is served beside its base", arguments)
    with _serve(arguments) as url:
        console.print(f"{url} answers the OpenAI client:")
        for question in questions:
            _ask(console, url, question)


@contextmanager
def _serve(arguments: Sequence[str]) -> "Iterator[str]":
    command = [sys.executable, "-m", "vlmserve", *arguments]
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with Stages() as stages:
                stages.begin("starting the server")
                url = _wait_ready(process, Path(log.name))
            yield url
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        output = log.read_text(errors="replace")
        for line in output.splitlines():
            if line.startswith("ready: "):
                return line.split()[1]
        if process.poll() is not None:
            raise EngineError(f"the server ended with status {process.returncode}:\n{output}")
        time.sleep(0.2)
    raise EngineError(
        f"the server was not ready within {_START_TIMEOUT_S} s:\n{log.read_text(errors='replace')}"
    )


def _ask(console: Console, url: str, question: "ShownQuestion") -> None:
    import openai

    from vlmserve.engine.openai_messages import openai_messages

    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    console.print(f"  {question.title}: [italic]{question.text}[/italic]")
    for model in client.models.list():
        completion = client.chat.completions.create(
            model=model.id,
            messages=openai_messages((question.message,)),  # type: ignore[arg-type]
            temperature=0,
            max_tokens=12,
        )
        tokens = 0 if completion.usage is None else completion.usage.prompt_tokens
        answer = completion.choices[0].message.content
        mark = "[green]right[/green]" if answer == question.target else "[yellow]wrong[/yellow]"
        console.print(f"    {model.id:<10} {answer:<7} {mark} [dim]({tokens} prompt tokens)")
