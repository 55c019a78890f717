"""``vlmserve eval``: judge a checkpoint against the one before it."""

import argparse
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.console import create_console
from vlmserve.cli.options import (
    add_allow_argument,
    add_checkpoint_arguments,
    add_config_arguments,
    add_train_env_argument,
    load_serve_config,
    require_eval_extra,
)
from vlmserve.cli.report_output import add_report_arguments, create_report_console, report_files
from vlmserve.cli.runs import add_store_argument
from vlmserve.cli.stages import Stages
from vlmserve.errors import ConfigError, VlmserveError

if TYPE_CHECKING:
    from vlmserve.cli.references import References, SideSet
    from vlmserve.config.suite import SuiteConfig
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.report.eval_report import EvalReport
    from vlmserve.evals.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_checkpoint_arguments(parser)
    add_train_env_argument(parser)
    parser.add_argument(
        "--suite", required=True, type=Path, metavar="FILE", help="what to ask: evals/*.yaml"
    )
    _add_side_arguments(parser)
    parser.add_argument(
        "--engine",
        choices=("vllm", "transformers"),
        default="vllm",
        help="what computes the checkpoints' answers: vLLM, or transformers, which is slower and "
        "the reference (default: vllm)",
    )
    add_report_arguments(parser, with_media=True)
    parser.add_argument(
        "--on-inconclusive",
        choices=("fail", "warn"),
        default="fail",
        help="exit with 3 (fail, the default) or 0 (warn) when the samples do not "
        "decide; where too many requests failed, always with 3",
    )
    add_store_argument(parser)
    parser.add_argument(
        "--limit", type=int, metavar="N", help="ask only the first N samples of each task"
    )
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="ask in random order, and stop asking a task as soon as its margin is decided",
    )
    parser.add_argument(
        "--aa",
        action="store_true",
        help="ask the baseline a second time, in another order: what differs is noise",
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="say how much would be asked, how long it would take and what it could show; ask "
        "nothing, and start no engine",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="ask every sample N times, at a temperature above 0, and judge the mean of its scores",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of everything that is random: the order of asking, and sampling where the suite "
        "gives no seed",
    )
    parser.add_argument(
        "--run-id",
        metavar="ID",
        help="name of the run (default: a new one, which is printed); only a run of the same name "
        "reuses the answers of endpoints",
    )
    parser.add_argument(
        "--api-key-env",
        default="VLMSERVE_API_KEY",
        metavar="NAME",
        help="environment variable with the endpoint's API key (default: VLMSERVE_API_KEY)",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=16,
        metavar="N",
        help="requests in flight at an endpoint (default: 16)",
    )
    add_allow_argument(parser)
    add_config_arguments(parser)


def _add_side_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the candidate is compared with, and what is served differently."""
    parser.add_argument(
        "--baseline",
        metavar="DIR|RUN|URL",
        help="what came before: a checkpoint; a run of the store, whose candidate's answers are "
        "taken; or an OpenAI endpoint such as http://host:8000/v1#model, or several with commas "
        "between them; --ckpt may be any of these, too (default: what --ckpt was trained from)",
    )
    parser.add_argument(
        "--anchor",
        metavar="RUN|DIR|URL",
        help="a fixed point beside the baseline, so that small drops cannot add up: the graver "
        "verdict counts",
    )
    for side in ("baseline", "candidate"):
        parser.add_argument(
            f"--{side}-config",
            type=Path,
            metavar="FILE",
            help=f"settings that the {side} alone has, and what else may differ (differs: [...])",
        )


def run(args: argparse.Namespace) -> int:
    """Judge a checkpoint.

    Returns:
        0 when it passes, 1 at a regression, 3 when the samples do not decide and that fails.
    """
    from vlmserve.config.suite import load_suite

    require_eval_extra()
    files = report_files(args)
    if args.plan and files:
        raise ConfigError(f"--plan: there is no report to write to --{next(iter(files))}")
    suite = load_suite(args.suite)
    config = load_serve_config(args)
    if "media" not in suite.model_fields_set:
        # Where requests may fetch media from, the suite's data may, too.
        suite = suite.model_copy(update={"media": config.media})
    numbers = {"limit": args.limit, "concurrency": args.concurrency, "repeat": args.repeat}
    for flag, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"--{flag} {number}: must be at least 1")
    run_id = args.run_id or uuid.uuid4().hex[:12]
    from vlmserve.cli.references import References
    from vlmserve.evals.session import Session
    from vlmserve.evals.store import AnswerStore, default_store_path

    store_path = args.store or default_store_path()
    with AnswerStore(store_path) as store:
        with Stages() as stages:
            stages.begin("finding what is compared")
            references = References(args, suite, config, store, run_id)
            stages.begin("loading the tasks")
            tasks = _load_tasks(suite, args.limit)
            # Last, for it reads every byte of the weights.
            stages.begin("reading the checkpoints")
            found = references.create_sides(tasks)
        session = Session(
            suite,
            tasks,
            store,
            run_id,
            limit=args.limit,
            sequential=args.sequential,
            repeats_baseline=args.aa,
            n_repetitions=args.repeat,
            seed=args.seed or 0,
        )
        # Before the run has a name: nothing of it is kept yet that could be gone on with.
        session.check(found.sides["baseline"], found.sides["candidate"], found.sides.get("anchor"))
        if args.plan:
            return _plan(session, found, references)
        _look_for_namesake(session)
        report = _evaluate(session, found)
    from vlmserve.evals.report.files import write_reports
    from vlmserve.evals.report.letting_through import exit_status
    from vlmserve.evals.report.terminal import print_report
    from vlmserve.evals.report.thumbnails import collect_media

    console = create_report_console()
    inconclusive_fails = args.on_inconclusive == "fail"
    # Before anything is printed: the reader of that may leave.
    write_reports(report, files, inconclusive_fails=inconclusive_fails, media=collect_media(tasks))
    print_report(report, console)
    for path in files.values():
        console.print(f"report: {path}", soft_wrap=True, markup=False)
    console.print(f"run {report.run_id} is kept in {store_path}", soft_wrap=True, markup=False)
    return exit_status(report, inconclusive_fails=inconclusive_fails)


def _load_tasks(suite: "SuiteConfig", limit: int | None) -> "list[EvalTask]":
    from vlmserve.evals.eval_task import load_tasks

    return load_tasks(suite, limit=limit)


def _plan(session: "Session", found: "SideSet", references: "References") -> int:
    from vlmserve.cli.forecast import print_forecast
    from vlmserve.evals.forecast import create_forecast
    from vlmserve.evals.run_notes import difference_notes

    sides = found.sides
    with Stages() as stages:
        stages.begin("counting tokens")
        forecast = create_forecast(session, sides, references.count_tokens())
    console = create_report_console()
    for name, differences in found.differences.items():
        for note in difference_notes(name, differences):
            console.print(note, soft_wrap=True, markup=False)
    print_forecast(forecast, console, sequential=session.sequential)
    return 0


def _look_for_namesake(session: "Session") -> None:
    """Say what this run takes the place of, where that was asked otherwise."""
    from pydantic import ValidationError

    from vlmserve.evals.digests import digest_suite
    from vlmserve.evals.report.eval_report import EvalReport

    run_id, store = session.run_id, session.store
    text = store.find_report(run_id)
    if text is None:
        if store.list_sides(run_id):
            raise ConfigError(f"--run-id {run_id}: an imported run has this name")
        return
    try:
        kept = EvalReport.model_validate_json(text)
    except ValidationError:  # of a version that kept other reports: nothing can be said of it
        return
    if kept.suite.digest != digest_suite(session.tasks):
        create_console(stderr=True).print(
            f"there is a run {run_id} of other samples ({kept.verdict}, {kept.finished_at:%F %R}): "
            "this one takes its place when it ends",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )


def _evaluate(session: "Session", found: "SideSet") -> "EvalReport":
    from vlmserve.evals.report.progress import ProgressBars

    console = create_console(stderr=True)
    go_on = f"answers so far are kept; go on with --run-id {session.run_id}"
    # Before the first request: whatever ends the run, its answers can be found again.
    console.print(f"run {session.run_id}", soft_wrap=True, markup=False)
    try:
        with ProgressBars(console) as bars:
            listening = replace(session, listener=bars, differences=found.differences)
            sides = found.sides
            return listening.evaluate(
                sides["baseline"], sides["candidate"], anchor=sides.get("anchor")
            )
    except VlmserveError as error:
        error.hint = error.hint or go_on
        raise
    except KeyboardInterrupt:
        console.print(go_on, soft_wrap=True, markup=False)
        raise
