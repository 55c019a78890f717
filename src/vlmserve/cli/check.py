"""``vlmserve check``: what is wrong with a checkpoint, from its files."""

import argparse
import json
import sys
from pathlib import Path

from vlmserve.cli.check_report import ScanProgress, print_report
from vlmserve.cli.console import create_console
from vlmserve.cli.options import (
    add_checkpoint_arguments,
    add_setting_argument,
    add_train_env_argument,
    open_checkpoint,
)
from vlmserve.cli.output_files import require_writable
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.report import CheckRecord, create_record, render_markdown
from vlmserve.doctor.run import run_checks
from vlmserve.errors import CheckpointError, ConfigError

_REPORTS = ("json", "markdown")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add_checkpoint_arguments(parser)
    data = parser.add_argument_group("training data")
    data.add_argument(
        "--data",
        metavar="PATH",
        help="what it was trained on, as the framework took it: a file, a directory, or DIR:NAME "
        "for an entry of its dataset_info.json",
    )
    data.add_argument("--heldout", metavar="PATH", help="what it will be judged on")
    data.add_argument(
        "--media-root", type=Path, metavar="DIR", help="what relative paths of media start from"
    )
    data.add_argument(
        "--max-length",
        type=int,
        metavar="TOKENS",
        help="longest sample of the training (default: what its files say)",
    )
    add_train_env_argument(data)
    serving = parser.add_argument_group("serving")
    serving.add_argument(
        "--serve-config",
        type=Path,
        dest="config",
        metavar="FILE",
        help="how it will be served: a file such as configs/*.yaml",
    )
    add_setting_argument(serving)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - is standard output"
    )
    output.add_argument(
        "--markdown", metavar="FILE", help="write the report as Markdown; - is standard output"
    )
    output.add_argument(
        "--strict", action="store_true", help="let warnings decide the exit status, too"
    )
    output.add_argument(
        "--fast", action="store_true", help="leave out the checks that read every weight"
    )


def run(args: argparse.Namespace) -> int:
    """Check a checkpoint and print what was found.

    Returns:
        0, or 4 when something blocks serving (with ``--strict``, also when something warns).
    """
    if args.json == args.markdown == "-":
        raise ConfigError("--json and --markdown: only one of them can go to standard output")
    for name in _REPORTS:
        if getattr(args, name) not in (None, "-"):
            require_writable(name, Path(getattr(args, name)), makes_directories=False)
    with ScanProgress(create_console(stderr=True)) as progress:
        exam = _examination(args, progress)
        report = run_checks(exam)
    record = create_record(exam.checkpoint, report)
    texts = {"json": _as_json(record), "markdown": render_markdown(record)}
    for name, text in texts.items():
        _write(name, getattr(args, name), text)
    if "-" not in (args.json, args.markdown):
        print_report(create_console(), record)
    is_bad = bool(report.blocking or (args.strict and report.warnings))
    return CheckpointError.exit_code if is_bad else 0


def _examination(args: argparse.Namespace, progress: ScanProgress) -> Examination:
    from vlmserve.checkpoint.provenance import parse_train_env
    from vlmserve.cli.options import load_serve_config

    if args.max_length is not None and args.max_length <= 0:
        raise ConfigError(
            f"--max-length {args.max_length}: a positive number of tokens is expected"
        )
    if args.data is None and args.max_length is not None:
        raise ConfigError("--max-length: it is samples that it limits; give them with --data")
    if args.data is None and args.heldout is None and args.media_root is not None:
        raise ConfigError("--media-root: no samples to look for their media; give --data")
    if args.media_root is not None and not args.media_root.is_dir():
        raise ConfigError(f"--media-root {args.media_root}: no such directory")
    train_env = parse_train_env(args.train_env) if args.train_env else None
    serve = load_serve_config(args)
    checkpoint = open_checkpoint(args, leftovers=True)
    data, heldout = None, None
    if args.data is not None or args.heldout is not None:
        from vlmserve.datasets.read import load_dataset

        data, heldout = (
            None if path is None else load_dataset(path, media_root=args.media_root)
            for path in (args.data, args.heldout)
        )
    return Examination(
        checkpoint,
        fast=args.fast,
        data=data,
        heldout=heldout,
        max_length=args.max_length,
        train_env=train_env,
        serve=serve,
        progress=progress.show,
    )


def _as_json(record: CheckRecord) -> str:
    return record.model_dump_json(indent=2) + "\n"


def _write(option: str, target: str | None, text: str) -> None:
    if target is None:
        return
    if target == "-":
        if option == "json" and "utf" not in sys.stdout.encoding.lower():
            text = json.dumps(json.loads(text), indent=2) + "\n"
        # The reader may leave (``| head``), which does not change the exit status.
        create_console().out(text, end="")
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--{option} {target}: {error.strerror or error}") from error
