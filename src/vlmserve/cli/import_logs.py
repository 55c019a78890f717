"""``vlmserve import``: sample logs of lm-eval, lmms-eval and VLMEvalKit as kept runs."""

import argparse
import uuid
from collections.abc import Sequence
from pathlib import Path

from vlmserve.cli.console import create_console
from vlmserve.cli.runs import add_store_argument
from vlmserve.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="sample logs of one model, or the directory that they are in",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=("lm-eval", "lmms-eval", "vlmevalkit"),
        help="which harness wrote them",
    )
    parser.add_argument(
        "--name", metavar="RUN", help="what the run is called here (default: a new name)"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="[TASK=]NAME",
        help="which of a task's metrics is judged, where the log has several; repeatable",
    )
    parser.add_argument(
        "--filter", metavar="NAME", help="which of lm-eval's filters, where the log has several"
    )
    parser.add_argument(
        "--direction",
        choices=("higher", "lower"),
        help="which values of the metric are better, where the log does not say",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="what a table of VLMEvalKit is called as a task"
    )
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Keep logs as a run; exit status 0."""
    from vlmserve.evals.imports.imported import Choice, create_side
    from vlmserve.evals.imports.lm_eval_log import read_lm_eval
    from vlmserve.evals.imports.lmms_eval_log import read_lmms_eval
    from vlmserve.evals.imports.vlmevalkit_table import read_vlmevalkit
    from vlmserve.evals.store import AnswerStore, default_store_path

    choice = Choice(
        metrics=_metrics(args.metric),
        filter=args.filter,
        higher_is_better=None if args.direction is None else args.direction == "higher",
        task=args.task,
    )
    readers = {
        "lm-eval": read_lm_eval,
        "lmms-eval": read_lmms_eval,
        "vlmevalkit": read_vlmevalkit,
    }
    log = readers[args.format](args.files, choice)
    side = create_side(log)
    run_id = args.name or uuid.uuid4().hex[:12]
    path = args.store or default_store_path()
    with AnswerStore(path) as store:
        if store.list_sides(run_id) or store.find_report(run_id) is not None:
            raise ConfigError(
                f"{path}: there is a run {run_id} already", hint="give another --name"
            )
        store.keep_run(run_id, None, [side])
    console = create_console()
    for task in log.tasks:
        n_failed = sum(row.outcome.status == "failed" for row in task.rows)
        console.print(
            f"{task.name}: {len(task.rows)} samples, {task.metric}, {n_failed} failed",
            soft_wrap=True,
            markup=False,
        )
    console.print(f"run {run_id} is kept in {path}", soft_wrap=True, markup=False)
    return 0


def _metrics(texts: Sequence[str]) -> dict[str | None, str]:
    metrics: dict[str | None, str] = {}
    for text in texts:
        task, _, name = text.rpartition("=")
        if not name:
            raise ConfigError(f"--metric {text}: expected NAME or TASK=NAME")
        metrics[task or None] = name
    return metrics
