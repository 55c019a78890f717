"""``vlmserve export``: the samples of a kept run as a file."""

import argparse
from pathlib import Path

from vlmserve.cli.console import create_console
from vlmserve.cli.runs import add_store_argument, open_store

RUN_HELP = "a run as vlmserve runs lists it; RUN:baseline or RUN:candidate is one of its sides"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("which", metavar="RUN[:SIDE]", help=f"{RUN_HELP} (default: all sides)")
    parser.add_argument(
        "--format", required=True, choices=("jsonl", "parquet", "csv"), help="how to write it"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="where to; what is known of the run as a whole goes to FILE.run.json",
    )
    add_store_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write a run's samples, a row for each sample and side; exit status 0."""
    from vlmserve.evals.archive import load_side, load_sides, parse_run
    from vlmserve.evals.export import export_sides

    run_id, side = parse_run(args.which)
    with open_store(args.store) as store:
        sides = load_sides(store, run_id) if side is None else [load_side(store, run_id, side)]
    n_rows = export_sides(sides, args.format, args.out)
    create_console().print(f"{n_rows} rows: {args.out}", soft_wrap=True, markup=False)
    return 0
