"""``vlmserve eval``: judge a checkpoint against the one before it."""

import argparse
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.cli.console import create_console
from vlmserve.cli.options import (
    add_allow_argument,
    add_checkpoint_arguments,
    add_config_arguments,
    add_train_env_argument,
    load_serve_config,
    open_checkpoint,
    parse_path_maps,
    require_eval_extra,
    require_sound,
)
from vlmserve.cli.report_output import add_report_arguments, create_report_console, report_files
from vlmserve.cli.runs import add_store_argument
from vlmserve.cli.stages import Stages
from vlmserve.errors import ConfigError, VlmserveError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.serve import ServeConfig
    from vlmserve.config.suite import SuiteConfig
    from vlmserve.evals.answering import Side
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.report.json_report import EvalReport

# Of the extra "eval", by their names of import.
_NAME_IT = "name the baseline: --baseline DIR, or --baseline http://host:8000/v1#MODEL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_checkpoint_arguments(parser)
    add_train_env_argument(parser)
    parser.add_argument(
        "--suite", required=True, type=Path, metavar="FILE", help="what to ask: evals/*.yaml"
    )
    parser.add_argument(
        "--baseline",
        metavar="DIR|URL",
        help="what came before: a checkpoint, or an OpenAI endpoint such as "
        "http://host:8000/v1#model, as --ckpt may be, too (default: what --ckpt was trained from)",
    )
    add_report_arguments(parser, with_media=True)
    parser.add_argument(
        "--on-inconclusive",
        choices=("fail", "warn"),
        default="fail",
        help="exit with 3 (fail, the default) or 0 (warn) when the samples do not decide",
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


def run(args: argparse.Namespace) -> int:
    """Judge a checkpoint.

    Returns:
        0 when it passes, 1 at a regression, 3 when the samples do not decide and that fails.
    """
    from vlmserve.config.suite import load_suite

    require_eval_extra()
    suite = load_suite(args.suite)
    config = load_serve_config(args)
    for flag, number in (("--limit", args.limit), ("--concurrency", args.concurrency)):
        if number is not None and number < 1:
            raise ConfigError(f"{flag} {number}: must be at least 1")
    files = report_files(args)
    for name, path in files.items():
        _check_writable(name, path)
    run_id = args.run_id or uuid.uuid4().hex[:12]
    with Stages() as stages:
        stages.begin("finding what is compared")
        create_sides = _find_sides(args, config, run_id)
        stages.begin("loading the tasks")
        tasks = _load_tasks(suite, args.limit)
        # Last, for it reads every byte of the weights.
        stages.begin("reading the checkpoints")
        baseline, candidate = create_sides()
        sides = (
            baseline.asked_as(suite.sides.of("baseline")),
            candidate.asked_as(suite.sides.of("candidate")),
        )
    report, store_path = _evaluate(args, suite, tasks, sides, run_id)
    from vlmserve.evals.gate import EXIT_STATUS
    from vlmserve.evals.report.files import write_reports
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
    if report.verdict == "inconclusive" and not inconclusive_fails:
        return 0
    return EXIT_STATUS[report.verdict]


def _check_writable(name: str, path: Path) -> None:
    # Now, and not when the answers have been paid for.
    place = path if path.exists() else path.absolute().parent
    while not place.exists():
        place = place.parent
    if path.is_dir() or not os.access(place, os.W_OK) or (place != path and not place.is_dir()):
        raise ConfigError(f"--{name} {path}: cannot be written")


def _load_tasks(suite: "SuiteConfig", limit: int | None) -> "list[EvalTask]":
    from vlmserve.evals.eval_task import load_tasks

    return load_tasks(suite, limit=limit)


def _evaluate(
    args: argparse.Namespace,
    suite: "SuiteConfig",
    tasks: "list[EvalTask]",
    sides: "tuple[Side, Side]",
    run_id: str,
) -> "tuple[EvalReport, Path]":
    from vlmserve.evals.report.progress import ProgressBars
    from vlmserve.evals.session import Session
    from vlmserve.evals.store import AnswerStore, default_store_path

    path = args.store or default_store_path()
    console = create_console(stderr=True)
    go_on = f"answers so far are kept; go on with --run-id {run_id}"
    with AnswerStore(path) as store:
        # Before the first request: whatever ends the run, its answers can be found again.
        console.print(f"run {run_id}", soft_wrap=True, markup=False)
        try:
            with ProgressBars(console) as bars:
                session = Session(
                    suite,
                    tasks,
                    store,
                    run_id,
                    limit=args.limit,
                    sequential=args.sequential,
                    repeats_baseline=args.aa,
                    listener=bars,
                )
                return session.evaluate(*sides), path
        except VlmserveError as error:
            error.hint = error.hint or go_on
            raise
        except KeyboardInterrupt:
            console.print(go_on, soft_wrap=True, markup=False)
            raise


def _find_sides(
    args: argparse.Namespace, config: "ServeConfig", run_id: str
) -> "Callable[[], tuple[Side, Side]]":
    """Find out what is compared, and refuse what cannot be.

    Returns:
        Sets up the baseline, then the candidate; it hashes checkpoints, which takes minutes.
    """
    from vlmserve.checkpoint.provenance import parse_train_env
    from vlmserve.cli.sides import checkpoint_side, checkpoint_sides, endpoint_side

    def endpoint(url: str) -> "Side":
        key = os.environ.get(args.api_key_env)
        return endpoint_side(url, api_key=key, concurrency=args.concurrency, run_id=run_id)

    train_env = parse_train_env(args.train_env) if args.train_env else None
    if not _is_url(args.ckpt):
        checkpoint = open_checkpoint(args)
        require_sound(checkpoint, args.allow, serve=config, train_env=train_env)
        if args.baseline is not None and _is_url(args.baseline):
            before = endpoint(args.baseline)
            return lambda: (before, checkpoint_side(checkpoint, config, train_env=train_env))
        baseline = _find_baseline(args, config, checkpoint)
        return lambda: checkpoint_sides(baseline, checkpoint, config, train_env=train_env)
    if args.baseline is None:
        raise ConfigError(
            f"{args.ckpt}: what an endpoint is compared with must be said", hint=_NAME_IT
        )
    candidate = endpoint(args.ckpt)
    if not _is_url(args.baseline):
        baseline = _open_baseline(args, config)
        return lambda: (checkpoint_side(baseline, config, train_env=train_env), candidate)
    if train_env is not None:
        raise ConfigError("--train-env: both sides are endpoints, which have their own settings")
    before = endpoint(args.baseline)
    return lambda: (before, candidate)


def _find_baseline(
    args: argparse.Namespace, config: "ServeConfig", candidate: "Checkpoint"
) -> "Checkpoint":
    if args.baseline is not None:
        return _open_baseline(args, config)
    if candidate.base is not None:
        require_sound(candidate.base, args.allow, serve=config)
        return candidate.base
    known = "nothing says what it was trained from"
    if candidate.base_ref is not None:
        known = f"it was trained from {candidate.base_ref}, which is not on this machine"
    raise ConfigError(f"{candidate.path}: {known}, so there is no baseline", hint=_NAME_IT)


def _open_baseline(args: argparse.Namespace, config: "ServeConfig") -> "Checkpoint":
    from vlmserve.checkpoint.source import load_checkpoint

    baseline = load_checkpoint(args.baseline, path_map=parse_path_maps(args.path_map))
    require_sound(baseline, args.allow, serve=config)
    return baseline


def _is_url(ref: str) -> bool:
    return ref.startswith(("http://", "https://"))
