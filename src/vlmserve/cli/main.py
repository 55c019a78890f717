"""The ``vlmserve`` command: picks the verb, sets up logging, turns errors into exit statuses."""

import argparse
import errno
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from vlmserve.cli.console import create_console
from vlmserve.cli.termination import INTERRUPTED, interrupt_at_sigterm
from vlmserve.errors import ConfigError, VlmserveError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Verb:
    """A subcommand: its module offers ``add_arguments(parser)`` and ``run(args) -> int``.

    The module is imported only when its verb is asked for, and must itself import anything heavy
    inside ``run``.
    """

    module: str
    help: str
    passes_on: bool = False
    """Whether what stands behind ``--`` is for another command: ``args.passed_on``."""


_VERBS = {
    "check": _Verb("vlmserve.cli.check", "say what is wrong with a checkpoint, from its files"),
    "serve": _Verb("vlmserve.cli.serve", "serve a checkpoint behind the OpenAI API"),
    "eval": _Verb("vlmserve.cli.evaluate", "judge a checkpoint against the one before it"),
    "compare": _Verb("vlmserve.cli.compare", "judge one kept run against another"),
    "watch": _Verb(
        "vlmserve.cli.watch", "evaluate a training's checkpoints as they appear", passes_on=True
    ),
    "runs": _Verb("vlmserve.cli.runs", "list what has been judged"),
    "report": _Verb("vlmserve.cli.report", "show or write the report of a run again"),
    "export": _Verb("vlmserve.cli.export", "write the samples of a run as a file"),
    "import": _Verb("vlmserve.cli.import_logs", "keep sample logs of other harnesses as a run"),
    "suite": _Verb("vlmserve.cli.suite", "look a suite over before it is paid for"),
    "demo": _Verb("vlmserve.cli.demo", "build, train or tour the demo checkpoints"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; the process's own when ``None``.

    Returns:
        The exit status: 0 done or gate passed, 1 regression, 2 usage or configuration,
        3 inconclusive, 4 checkpoint, 5 engine or endpoint, 70 a bug of ours, 130 interrupted.
    """
    arguments, passed_on = _split(list(sys.argv[1:] if argv is None else argv))
    parser = _parser(arguments)
    args = parser.parse_args(arguments, argparse.Namespace(passed_on=passed_on))
    _set_up_logging()
    _set_up_streams()
    interrupt_at_sigterm()
    try:
        status: int = args.run(args)
    except VlmserveError as error:
        _print_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        create_console(stderr=True).print("interrupted", style="yellow")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (``| head``); keep Python from complaining at exit.
        _discard_output()
        return 0
    except Exception as error:  # noqa: BLE001 - the last catch
        return _status_of(error)
    return status


def _status_of(error: Exception) -> int:
    """Say what nothing else caught: a full disk, or else a bug of ours."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        _discard_output()
        _print_error(ConfigError(f"{error.filename or 'standard output'}: {error.strerror}"))
        return ConfigError.exit_code
    _LOG.exception("this is a bug in vlmserve; please report it")
    return VlmserveError.exit_code


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _set_up_streams() -> None:
    """Show what a terminal's encoding lacks as an escape instead of failing at it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _set_up_logging() -> None:
    # A handler of our own: the libraries below reconfigure the root logger as they are imported.
    logger = logging.getLogger("vlmserve")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    # Anew at each call: stderr may be another one by now.
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Take off what a verb passes on; argparse would look for it between the verb's own words."""
    verb = _VERBS.get(_asked(arguments) or "")
    if verb is None or not verb.passes_on or "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _asked(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmserve",
        description="Serve fine-tuned vision-language checkpoints and tell whether they got worse.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = _asked(arguments)
    for name, verb in _VERBS.items():
        subparser = subparsers.add_parser(name, help=verb.help, allow_abbrev=False)
        subparser.description = f"{verb.help[0].upper()}{verb.help[1:]}."
        if name == asked:
            module = importlib.import_module(verb.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


class _Version(argparse.Action):
    """Reads the version only when asked: importlib.metadata is slow to import."""

    @override
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from vlmserve import __version__

        print(f"vlmserve {__version__}")
        parser.exit()


def _print_error(error: VlmserveError) -> None:
    console = create_console(stderr=True)
    console.print("error:", style="bold red", end=" ")
    console.print(error.message, markup=False, soft_wrap=True)
    if error.hint is not None:
        console.print("hint:", style="bold", end=" ")
        console.print(error.hint, markup=False, soft_wrap=True)
