"""``vlmserve suite lint``: look a suite over before a request is paid for."""

import argparse
import sys
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from vlmserve.cli.check_report import ScanProgress
from vlmserve.cli.console import create_console
from vlmserve.cli.options import require_eval_extra
from vlmserve.cli.output_files import require_writable
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from vlmserve.doctor.examination import Examination
    from vlmserve.evals.lint_report import Level, LintReport, Power, Spread, TaskLint

_STYLES: "dict[Level, str]" = {
    "error": "bold red",
    "warning": "bold yellow",
    "note": "bold cyan",
}
_LOG_COLUMNS = 140
_MOST_VALUES = 6
_VALUE_CHARS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    about = "say what a suite holds, what is wrong with it, and what it can decide"
    lint = actions.add_parser("lint", help=about, allow_abbrev=False)
    lint.description = f"{about[0].upper()}{about[1:]}. Nothing is asked."
    lint.add_argument("file", type=Path, metavar="FILE", help="the suite, a YAML file")
    lint.add_argument(
        "--train",
        metavar="PATH",
        help="what a model was trained on, to be looked for in the suite: a file, a directory, or "
        "DIR:NAME for an entry of its dataset_info.json",
    )
    lint.add_argument(
        "--media-root",
        type=Path,
        metavar="DIR",
        help="what relative paths of the media in --train start from",
    )
    lint.add_argument(
        "--ckpt",
        metavar="DIR",
        help="a checkpoint, to count the tokens of prompts as they are served: its files are read",
    )
    lint.add_argument(
        "--base-model",
        metavar="DIR",
        help="what an adapter in --ckpt was trained on (default: what its own files name)",
    )
    lint.add_argument(
        "--json", metavar="FILE", help="write what was found as JSON; - is standard output"
    )
    lint.add_argument(
        "--strict", action="store_true", help="let warnings decide the exit status, too"
    )


def run(args: argparse.Namespace) -> int:
    """Look a suite over and print what was found.

    Returns:
        0, or 2 where something is wrong (with ``--strict``, also where something is doubtful).
    """
    require_eval_extra()
    from vlmserve.config.suite import load_suite
    from vlmserve.datasets.read import load_dataset
    from vlmserve.evals.lint import lint_suite

    if args.json not in (None, "-"):
        require_writable("json", Path(args.json), makes_directories=False)
    suite = load_suite(args.file)
    train = None
    if args.train is not None:
        train = load_dataset(args.train, media_root=args.media_root)
    with ScanProgress(create_console(stderr=True)) as progress:
        report = lint_suite(suite, train, progress.show, _examination(args))
    _write(args.json, report)
    if args.json != "-":
        print_lint(report, create_console(width=None if sys.stdout.isatty() else _LOG_COLUMNS))
    is_bad = report.count("error") or (args.strict and report.count("warning"))
    return ConfigError.exit_code if is_bad else 0


def _examination(args: argparse.Namespace) -> "Examination | None":
    if args.ckpt is None:
        if args.base_model is not None:
            raise ConfigError("--base-model: it is the base of --ckpt, which is not given")
        return None
    from vlmserve.checkpoint.source import load_checkpoint
    from vlmserve.doctor.examination import Examination

    return Examination(load_checkpoint(args.ckpt, base_model=args.base_model))


def print_lint(report: "LintReport", console: "Console") -> None:
    """Print what was found: each task, then the remarks, then how many there are."""
    from vlmserve.evals.lint_report import counted

    for task in report.tasks:
        console.print(task.name, style="bold", end="  ", markup=False)
        console.print(f"{task.metric}, {_margin(task)}", markup=False)
        for name, text in _lines(task):
            console.print(f"  {name:<14}{text}", markup=False, soft_wrap=True)
    for remark in report.remarks:
        console.print(f"{remark.level}:", style=_STYLES[remark.level], end=" ")
        place = "" if remark.task is None else f"{remark.task}: "
        console.print(f"{place}{remark.text}", markup=False, soft_wrap=True)
    found = ", ".join(counted(report.count(level), level) for level in _STYLES)
    console.print(f"{counted(len(report.tasks), 'task')} looked over: {found}")


def _margin(task: "TaskLint") -> str:
    if task.improve:
        return "must improve"
    return "only reported" if task.margin is None else f"margin {task.margin:g}"


def _lines(task: "TaskLint") -> list[tuple[str, str]]:
    media = ", ".join(f"{count:,} {kind}" for kind, count in sorted(task.media.items()))
    subjects = "image, video or text" if task.n_clusters == 1 else "images, videos or texts"
    lines = [
        ("samples", f"{task.n_samples:,}, about {task.n_clusters:,} {subjects}"),
        ("media", f"{media or 'none'}; {_spread(task.media_per_sample)} a sample"),
    ]
    if task.longest_side_px is not None:
        lines.append(("longest side", f"{_spread(task.longest_side_px)} px"))
    lines += [
        ("question", _measured(task.question_chars, "character")),
        ("target", _measured(task.target_chars, "character")),
    ]
    if task.prompt_tokens is not None:
        lines.append(("prompt", _measured(task.prompt_tokens, "token")))
    lines += [("slices by", f"{name}: {_values(values)}") for name, values in task.fields.items()]
    if task.power:
        lines.append(("detectable", "; ".join(map(_power, task.power))))
    return lines


def _values(counts: "Mapping[str, int]") -> str:
    shown = [
        f"{shorten(value, _VALUE_CHARS, placeholder='...')} {count:,}"
        for value, count in list(counts.items())[:_MOST_VALUES]
    ]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, f"{rest} more"] if rest else shown)


def _measured(spread: "Spread", unit: str) -> str:
    return f"{_spread(spread)} {unit}{'' if spread.smallest == spread.largest == 1 else 's'}"


def _spread(spread: "Spread") -> str:
    if spread.smallest == spread.largest:
        return f"{spread.smallest:,.0f}"
    return (
        f"{spread.smallest:,.0f} to {spread.largest:,.0f} (median {spread.median:,.0f}, "
        f"95 % up to {spread.percentile_95:,.0f})"
    )


def _power(power: "Power") -> str:
    return f"{power.detectable:.3f} at {power.discordance * 100:g} % discordance"


def _write(target: str | None, report: "LintReport") -> None:
    if target is None:
        return
    text = report.model_dump_json(indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--json {target}: {error.strerror or error}") from error
