"""``vlmserve watch``: evaluate the checkpoints of a training as they appear."""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.console import create_console
from vlmserve.cli.options import require_eval_extra
from vlmserve.cli.output_files import require_writable
from vlmserve.cli.report_output import create_report_console
from vlmserve.cli.runs import add_store_argument
from vlmserve.errors import CheckpointError, ConfigError, EngineError, VlmserveError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from vlmserve.checkpoint.training_output import SeenCheckpoint
    from vlmserve.evals.trackers import Tracker
    from vlmserve.evals.watching import Point, Watch

_NAME_HEX_DIGITS = 8

# Of ``vlmserve eval``: passed, regression, inconclusive.
_VERDICTS = (0, 1, 3)
_FAILURES = (CheckpointError.exit_code, EngineError.exit_code, VlmserveError.exit_code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "folder", type=Path, metavar="OUTPUT_DIR", help="where the training writes checkpoint-N"
    )
    parser.add_argument(
        "--suite", required=True, type=Path, metavar="FILE", help="what to ask: evals/*.yaml"
    )
    parser.add_argument(
        "--baseline",
        metavar="DIR|RUN|URL",
        help="as for vlmserve eval (default: what the checkpoints were trained from)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="keep one page with curves over steps up to date"
    )
    parser.add_argument(
        "--log-to",
        action="append",
        default=[],
        choices=("wandb", "mlflow"),
        help="log the numbers there as well, where its package is installed; repeatable",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="evaluate what is complete, and wait for no further checkpoint",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="end when for so long no checkpoint became complete (default: wait until the training "
        "is at its last step)",
    )
    parser.add_argument(
        "--poll",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how often to look (default: 10)",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="how long the files of a checkpoint must rest (default: 5)",
    )
    parser.add_argument(
        "--name", help="of the runs, NAME-STEP (default: from directory, suite and options)"
    )
    add_store_argument(parser)
    parser.epilog = "Flags of vlmserve eval follow behind --, such as: -- --limit 100 --sequential"


def run(args: argparse.Namespace) -> int:
    """Evaluate checkpoints until the training is finished.

    Returns:
        0 when every checkpoint was evaluated, whatever the verdicts; otherwise the gravest status
        of those that were not.
    """
    require_eval_extra()
    from vlmserve.checkpoint.training_output import TrainingOutput
    from vlmserve.config.suite import load_suite
    from vlmserve.evals.store import default_store_path
    from vlmserve.evals.trackers import create_tracker
    from vlmserve.evals.watching import Patience, Watch

    for flag, number in (
        ("--timeout", args.timeout),
        ("--poll", args.poll),
        ("--settle", args.settle),
    ):
        if number is not None and not number > 0:
            raise ConfigError(f"{flag} {number:g}: must be above 0")
    if not args.folder.is_dir() and (args.once or args.folder.exists()):
        raise ConfigError(f"{args.folder}: no such directory")
    if args.html is not None:
        require_writable("html", args.html)
    suite = load_suite(args.suite)
    store_path = args.store or default_store_path()
    _check_flags(args.passed_on)
    name = args.name or _name(args, suite.model_dump(mode="json"))
    trackers = [create_tracker(kind, name) for kind in dict.fromkeys(args.log_to)]
    screen = _Screen(args.folder, args.html, trackers, create_report_console())
    watch = Watch(
        output=TrainingOutput(args.folder, settle_s=args.settle),
        store_path=store_path,
        name=name,
        evaluate=Evaluation(args, store_path, name),
        listener=screen,
        patience=Patience(once=args.once, poll_s=args.poll, timeout_s=args.timeout),
    )
    create_console(stderr=True).print(f"watch {name}", soft_wrap=True, markup=False)
    try:
        points = watch.run()
    except KeyboardInterrupt:
        _say_how_to_go_on(watch)
        raise
    finally:
        for tracker in trackers:
            tracker.close()
    screen.summarise(points)
    return max((_known(point.status) for point in points), default=0)


def _check_flags(flags: "Sequence[str]") -> None:
    """Refuse what ``vlmserve eval`` does not know now, and not when a checkpoint has come."""
    from vlmserve.cli import evaluate

    parser = argparse.ArgumentParser(prog="vlmserve watch ... --", allow_abbrev=False)
    evaluate.add_arguments(parser)
    parser.parse_args(["--ckpt", "DIR", "--suite", "FILE", *flags])


def _known(status: int) -> int:
    """A status that vlmserve has: a child that a signal ended has another one."""
    return status if status in {0, *_FAILURES} else EngineError.exit_code


def _say_how_to_go_on(watch: "Watch") -> None:
    done = sum(point.report is not None for point in watch.sorted_points())
    create_console(stderr=True).print(
        f"{done} checkpoints are evaluated and kept; the same command goes on from here",
        soft_wrap=True,
        markup=False,
    )


def _name(args: argparse.Namespace, suite: object) -> str:
    """One name for one training, suite and way of asking, so that a later call goes on."""
    folder = args.folder.resolve()
    asked = json.dumps([str(folder), suite, args.baseline, args.passed_on], default=str)
    return f"{folder.name}-{hashlib.sha256(asked.encode()).hexdigest()[:_NAME_HEX_DIGITS]}"


class Evaluation:
    """Runs ``vlmserve eval`` for a checkpoint, in a process of its own.

    An engine that dies, or keeps its memory, takes nothing with it.

    Args:
        args: The parsed arguments.
        store_path: Where runs are kept.
        name: Of the watch.
    """

    def __init__(self, args: argparse.Namespace, store_path: Path, name: str) -> None:
        self._suite = str(args.suite)
        self._store_path = store_path
        self._name = name
        self._baseline = args.baseline
        self._flags = list(args.passed_on)

    def __call__(self, checkpoint: Path, run_id: str) -> tuple[int, str | None]:
        """Evaluate; see ``vlmserve.evals.watching.Evaluate``."""
        from vlmserve.cli.child import run_child

        status, error = run_child(self.command(checkpoint, run_id))
        if status == ConfigError.exit_code:
            # What is wrong with the command line or the suite is wrong for every checkpoint.
            raise ConfigError(error or "vlmserve eval refused its command line")
        if status in _VERDICTS:
            return status, None
        return status, error or f"vlmserve eval ended with status {status}"

    def command(self, checkpoint: Path, run_id: str) -> list[str]:
        """The command that evaluates a checkpoint under a run's name."""
        command = [sys.executable, "-m", "vlmserve", "eval", "--ckpt", str(checkpoint)]
        baseline = self._asked_before() or self._baseline
        if baseline is not None:
            command += ["--baseline", baseline]
        common = ["--suite", self._suite, "--store", str(self._store_path), "--run-id", run_id]
        return [*command, *common, *self._flags]

    def _asked_before(self) -> str | None:
        """An endpoint's answers belong to the run that asked it: later runs take them from there.

        Those of a checkpoint are found by its fingerprint.
        """
        from vlmserve.cli.endpoints import is_url
        from vlmserve.evals.store import AnswerStore

        if self._baseline is None or not is_url(self._baseline) or not self._store_path.is_file():
            return None
        with AnswerStore(self._store_path) as store:
            kept = [
                run_id
                for run_id, side, _ in store.list_side_records()
                if side == "baseline" and run_id.rpartition("-")[0] == self._name
            ]
        return f"run:{kept[0]}:baseline" if kept else None


class _Screen:
    """Shows what happens, and keeps page and trackers up to date; a ``WatchListener``."""

    def __init__(
        self, folder: Path, page: Path | None, trackers: "Sequence[Tracker]", console: "Console"
    ) -> None:
        self._folder = folder
        self._page = page
        self._trackers = trackers
        self._console = console
        self._err = create_console(stderr=True)
        self._said: str | None = None

    def waiting(self, reason: str) -> None:
        """Say it once, not at every look."""
        if reason != self._said:
            self._err.print(reason, soft_wrap=True, markup=False, style="dim")
        self._said = reason

    def evaluating(self, checkpoint: "SeenCheckpoint") -> None:
        """Say which."""
        self._said = None
        self._err.print(f"evaluating {checkpoint.path}", soft_wrap=True, markup=False)

    def evaluated(self, point: "Point", points: "Iterable[Point]") -> None:
        """Show a line, and bring page and trackers up to date."""
        from vlmserve.evals.trackers import tracked_values

        if point.report is None:
            self._console.print(
                f"step {point.step}: not evaluated: {point.error}", soft_wrap=True, markup=False
            )
        else:
            scores = ", ".join(f"{name} {value:.4g}" for name, value in _scores(point).items())
            self._console.print(
                f"step {point.step}: {point.report.verdict}: {scores}",
                soft_wrap=True,
                markup=False,
            )
            for tracker in self._trackers:
                tracker.log(point.step, tracked_values(point.report))
        self._write(list(points))

    def summarise(self, points: "Sequence[Point]") -> None:
        """Print the table, and what it must not be taken for."""
        from vlmserve.evals.report.watch_table import print_watch
        from vlmserve.evals.watching import SPLIT_WARNING, best_points

        print_watch(points, self._console)
        for task, point in best_points(points):
            self._console.print(f"{task}: best at step {point.step}", soft_wrap=True, markup=False)
        if any(point.report is not None for point in points):
            self._console.print(f"warning: {SPLIT_WARNING}", soft_wrap=True, markup=False)
        self._write(points)
        if self._page is not None:
            self._console.print(f"page: {self._page}", soft_wrap=True, markup=False)

    def _write(self, points: "Sequence[Point]") -> None:
        if self._page is None:
            return
        from vlmserve.evals.report.watch_page import render_watch_page
        from vlmserve.evals.watching import SPLIT_WARNING

        text = render_watch_page(str(self._folder), points, [SPLIT_WARNING])
        part = self._page.with_name(f".{self._page.name}.{os.getpid()}.part")
        try:
            self._page.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(self._page)
        except OSError as error:
            raise ConfigError(f"--html {self._page}: {error.strerror or error}") from error


def _scores(point: "Point") -> dict[str, float]:
    report = point.report
    return {
        task.task: task.candidate
        for task in (() if report is None else report.tasks)
        if task.candidate is not None
    }
