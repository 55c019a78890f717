"""``vlmserve demo``: the tiny trained model, its fine-tunes, their held-out sets, and a tour."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlmserve.demo.recipe import TRAINED
from vlmserve.errors import ConfigError

if TYPE_CHECKING:
    from vlmserve.demo.reproduce import Progress
    from vlmserve.demo.training import Observer

_DATA = Path("evals/demo/data")
_PILOT = Path("evals/demo/pilot.json")
_CONFIG = Path("configs/cpu-demo.yaml")
_SUITE = Path("evals/demo.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of ``vlmserve demo``."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add_build(actions)
    _add_train(actions)
    _add_data(actions)
    _add_pilot(actions)
    _add_tour(actions)


def run(args: argparse.Namespace) -> int:
    """Do the chosen action and return the exit status."""
    status: int = args.act(args)
    return status


def _add_build(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "build",
        help="write the demo checkpoints, good and bad, from the shipped weights",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write them into")
    parser.add_argument(
        "--only",
        metavar="NAME,...",
        help="write these alone, and the base, which the others refer to",
    )
    parser.set_defaults(act=_build)


def _add_train(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "train",
        help="train the demo checkpoints again; tens of minutes on two cores",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write them into")
    parser.add_argument(
        "--variant",
        default="all",
        choices=(*TRAINED, "all"),
        help="which to train; a fine-tune starts from --out's base, else from the shipped one "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="of the base (default: the recipe's)"
    )
    parser.add_argument(
        "--steps", type=int, default=None, help="instead of each recipe's own, to try things out"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=2,
        choices=(1, 2),
        help="for the base; the weights are the same either way (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        help="of each task, to measure the finished weights on (default: %(default)s)",
    )
    parser.add_argument(
        "--heldout",
        action="store_true",
        help="measure the held-out split as well as validation: for weights about to be shipped, "
        "not while a recipe is being chosen",
    )
    parser.set_defaults(act=_train)


def _add_data(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "data", help="write or check the demo's held-out sets", allow_abbrev=False
    )
    parser.add_argument(
        "--out", type=Path, default=_DATA, help="folder of the Parquet files (default: %(default)s)"
    )
    parser.add_argument(
        "--pilot",
        type=Path,
        default=_PILOT,
        help="the plan that says how many samples (default: %(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare with what would be written"
    )
    parser.set_defaults(act=_data)


def _add_pilot(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "pilot",
        help="measure on the validation split how many held-out samples each task needs",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", type=Path, default=_PILOT, help="the plan to write (default: %(default)s)"
    )
    parser.add_argument(
        "--samples", type=int, default=1000, help="of each task (default: %(default)s)"
    )
    parser.add_argument(
        "--measured",
        type=Path,
        metavar="PLAN",
        help="measure nothing; compute the sizes from what this plan says was measured",
    )
    parser.set_defaults(act=_pilot)


def _add_tour(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "tour",
        help="check, serve and judge the demo checkpoints, end to end; minutes on two cores",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all it writes")
    parser.add_argument(
        "--config", type=Path, default=_CONFIG, help="how to serve (default: %(default)s)"
    )
    parser.add_argument(
        "--suite", type=Path, default=_SUITE, help="what to ask (default: %(default)s)"
    )
    parser.set_defaults(act=_tour)


def _build(args: argparse.Namespace) -> int:
    from vlmserve.demo.zoo import ZOO, build_zoo

    only = None if args.only is None else [name.strip() for name in args.only.split(",")]
    names = [folder.name for folder in build_zoo(args.out, only)]
    print(f"{args.out}: {len(names)} checkpoint{'' if len(names) == 1 else 's'}")
    width = max(map(len, names))
    for name in names:
        print(f"  {name:<{width}}  {ZOO[name].what}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from vlmserve.demo.reproduce import Settings, train_variants

    names = TRAINED if args.variant == "all" else (args.variant,)
    settings = Settings(
        seed=args.seed,
        steps=args.steps,
        processes=args.processes,
        samples=args.samples,
        heldout=args.heldout,
    )
    with _bars() as progress:
        train_variants(names, args.out, settings=settings, progress=progress)
    for name in names:
        print(args.out / name)
    return 0


def _data(args: argparse.Namespace) -> int:
    from vlmserve.demo.heldout import check_heldout, write_heldout
    from vlmserve.demo.pilot import load_sizes

    sizes = load_sizes(args.pilot)
    if not args.check:
        write_heldout(args.out, sizes)
        print(f"{args.out}: {sum(sizes.values())} samples in {len(sizes)} files")
        return 0
    faults = check_heldout(args.out, sizes)
    if faults:
        raise ConfigError("\n".join(faults), hint="write them again with: vlmserve demo data")
    print(f"{args.out}: {sum(sizes.values())} samples are what the generator draws")
    return 0


def _pilot(args: argparse.Namespace) -> int:
    from vlmserve.demo.pilot import CONFIDENCE, MARGIN, load_pairs, measure_pairs, plan_sizes
    from vlmserve.demo.power import PassRule
    from vlmserve.evals.proportions import tango_interval

    def lower_bound(regressed: int, improved: int, n: int) -> float:
        return tango_interval(regressed, improved, n, alpha=1 - CONFIDENCE)[0]

    if args.measured is None:
        pairs, samples = measure_pairs(args.samples), args.samples
    else:
        pairs, samples = load_pairs(args.measured)
    plan = plan_sizes(pairs, samples, PassRule(lower_bound, MARGIN))
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(f"{json.dumps(plan, indent=2)}\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{args.out}: {error.strerror or error}") from error
    print(f"{args.out}: {plan['total']} samples, {plan['sizes']}")
    return 0


def _tour(args: argparse.Namespace) -> int:
    from vlmserve.cli.tour import run_tour

    return run_tour(args.out, config=args.config, suite=args.suite)


@contextlib.contextmanager
def _bars() -> Iterator["Progress"]:
    """Show one progress bar for each checkpoint in training, with its running loss."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def start(name: str, steps: int) -> "Observer":
            bar = bars.add_task(name, total=steps, loss=float("nan"))
            return lambda step, loss: bars.update(bar, completed=step, loss=loss)

        yield start
