"""``vlmserve runs``: what has been judged, from the store."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmserve.cli.console import create_console
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.evals.store import AnswerStore


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="FILE",
        help="where runs are kept (default: vlmserve/evals.sqlite in the user's data directory)",
    )


def open_store(path: Path | None) -> "AnswerStore":
    """Open a store that is there.

    Raises:
        ConfigError: It is not, or cannot be read.
    """
    from vlmserve.evals.store import AnswerStore, default_store_path

    chosen = path or default_store_path()
    if not chosen.is_file():
        raise ConfigError(
            f"{chosen}: no such store", hint="vlmserve eval makes one; name it with --store FILE"
        )
    return AnswerStore(chosen)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_store_argument(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print the runs of a store, oldest first; exit status 0."""
    with open_store(args.store) as store:
        runs = [_summary(*row) for row in store.list_reports()]
        judged = {each["run_id"] for each in runs}
        runs += [
            _imported(run_id, record)
            for run_id, _, record in store.list_side_records()
            if run_id not in judged
        ]
    runs.sort(key=lambda each: str(each["finished_at"]))
    console = create_console()
    if args.json:
        console.out(json.dumps(runs, indent=2, ensure_ascii=False))
        return 0
    if not runs:
        console.print("no run has been judged yet")
        return 0
    for each in runs:
        against = "" if each["baseline"] is None else f" against {each['baseline']}"
        console.print(
            f"{each['run_id']}  {each['finished_at']}  {each['verdict'] or 'imported':12}  "
            f"{each['suite']}: {each['candidate']}{against}",
            soft_wrap=True,
            markup=False,
        )
    return 0


def _summary(run_id: str, time: str, text: str) -> dict[str, Any]:
    report = json.loads(text)
    return {
        "run_id": run_id,
        "finished_at": time,
        "verdict": report["verdict"],
        "suite": report["suite"]["name"],
        "baseline": report["baseline"]["name"],
        "candidate": report["candidate"]["name"],
        "suite_digest": report["suite"]["digest"],
        "baseline_fingerprint": report["baseline"]["fingerprint"],
        "candidate_fingerprint": report["candidate"]["fingerprint"],
    }


def _imported(run_id: str, text: str) -> dict[str, Any]:
    """A run that was not judged here: a log has one side."""
    record = json.loads(text)
    return {
        "run_id": run_id,
        "finished_at": record["finished_at"],
        "verdict": None,
        "suite": record["suite"]["name"],
        "baseline": None,
        "candidate": record["name"],
        "suite_digest": record["suite"]["digest"],
        "baseline_fingerprint": None,
        "candidate_fingerprint": record["fingerprint"],
    }
