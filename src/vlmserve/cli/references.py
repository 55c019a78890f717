"""What ``--ckpt``, ``--baseline`` and ``--anchor`` name: directories, endpoints, or kept runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlmserve.checkpoint.adapter import CONFIG_NAME as ADAPTER_CONFIG
from vlmserve.cli.endpoints import endpoint_side, is_url
from vlmserve.cli.options import open_checkpoint, parse_path_maps, require_sound
from vlmserve.cli.sides import Served, checkpoint_sides
from vlmserve.config.side import DeclaredServing, load_side_config
from vlmserve.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from vlmserve.checkpoint.provenance import VisionLimits
    from vlmserve.checkpoint.source import Checkpoint
    from vlmserve.config.asking import AskingConfig
    from vlmserve.config.serve import ServeConfig
    from vlmserve.config.suite import SuiteConfig
    from vlmserve.evals.answering import Side
    from vlmserve.evals.eval_task import EvalTask
    from vlmserve.evals.forecast import TokenCounter
    from vlmserve.evals.records import SideName
    from vlmserve.evals.serving_differences import ServingDifference
    from vlmserve.evals.store import AnswerStore

_NAME_IT = "name the baseline: --baseline DIR, RUN, or http://host:8000/v1#MODEL"
_RUN = "run:"
_FLAGS: "dict[SideName, str]" = {
    "candidate": "--ckpt",
    "baseline": "--baseline",
    "anchor": "--anchor",
}


@dataclass(frozen=True, slots=True)
class SideSet:
    """All sides of a comparison, ready to be asked."""

    sides: "Mapping[SideName, Side]"
    differences: "Mapping[SideName, Sequence[ServingDifference]]"
    """Of baseline and anchor, from the candidate."""


class References:
    """What the arguments name, found and checked; nothing is hashed or asked yet.

    Args:
        args: The parsed arguments.
        suite: What is asked.
        config: What all sides are served with.
        store: Where runs are kept.
        run_id: The run that is about to be.

    Raises:
        ConfigError: Something is named that is not there, or that nothing can be compared with.
        CheckpointError: A checkpoint cannot be served.
        EngineError: An endpoint cannot be reached.
    """

    def __init__(
        self,
        args: "argparse.Namespace",
        suite: "SuiteConfig",
        config: "ServeConfig",
        store: "AnswerStore",
        run_id: str,
    ) -> None:
        from vlmserve.checkpoint.provenance import parse_train_env

        self._args, self._suite, self._config = args, suite, config
        self._store, self._run_id = store, run_id
        self._train_env = parse_train_env(args.train_env) if args.train_env else None
        self._serving: dict[SideName, DeclaredServing] = {
            "candidate": load_side_config(args.candidate_config, config),
            "baseline": load_side_config(args.baseline_config, config),
            "anchor": DeclaredServing(config, frozenset()),
        }
        self._served: dict[SideName, Served] = {}
        self._endpoints: dict[SideName, Side] = {}
        self._runs: dict[SideName, str] = {}
        self._find()

    def _find(self) -> None:
        args = self._args
        self._place("candidate", args.ckpt)
        if args.baseline is not None:
            self._place("baseline", args.baseline)
        elif "candidate" in self._served:
            self._serve("baseline", self._default_baseline(self._served["candidate"].checkpoint))
        else:
            raise ConfigError(
                f"{args.ckpt}: what an endpoint or a run is compared with must be said",
                hint=_NAME_IT,
            )
        if args.anchor is not None:
            self._place("anchor", args.anchor)
        if self._train_env is not None and not self._served:
            raise ConfigError(
                "--train-env: no side is a checkpoint, and endpoints and runs have their own "
                "settings"
            )

    def _place(self, side: "SideName", reference: str) -> None:
        if is_url(reference):
            key = os.environ.get(self._args.api_key_env)
            self._refuse_settings(side, reference)
            self._endpoints[side] = endpoint_side(
                reference,
                api_key=key,
                concurrency=self._args.concurrency,
                run_id=self._run_id,
            )
        elif (run := self._find_run(reference)) is not None:
            self._refuse_settings(side, reference)
            self._runs[side] = run
        else:
            self._serve(side, self._open(side, reference))

    def _find_run(self, reference: str) -> str | None:
        """The run that a reference names: a directory of that name comes first."""
        if reference.startswith(_RUN):
            return reference.removeprefix(_RUN)
        if Path(reference).exists():
            return None
        from vlmserve.evals.archive import parse_run

        run_id, _ = parse_run(reference)
        is_kept = self._store.list_sides(run_id) or self._store.find_report(run_id)
        return reference if is_kept else None

    def _refuse_settings(self, side: "SideName", reference: str) -> None:
        sets = self._serving[side].sets
        if sets:
            raise ConfigError(
                f"--{side}-config: {sets[0]} cannot be set for {reference}, which is served "
                "already, or was",
                hint="say that it differs: differs: [" + ", ".join(sets) + "]",
            )

    def _open(self, side: "SideName", reference: str) -> "Checkpoint":
        self._require_there(side, reference)
        if side == "candidate":
            return open_checkpoint(self._args)
        from vlmserve.checkpoint.source import load_checkpoint

        path_map = parse_path_maps(self._args.path_map)
        # What adapters lie on is given once for all of them.
        is_adapter = (Path(reference) / ADAPTER_CONFIG).is_file()
        base = self._args.base_model if is_adapter else None
        return load_checkpoint(reference, base_model=base, path_map=path_map)

    def _require_there(self, side: "SideName", reference: str) -> None:
        """Tell a checkpoint that is missing from a word that names nothing at all."""
        from vlmserve.checkpoint.references import resolve
        from vlmserve.evals.archive import known_runs

        try:
            resolve(reference, reference)
        except CheckpointError as error:
            if os.path.lexists(Path(reference).expanduser()):
                raise
            flag = _FLAGS[side]
            if "/" in reference:
                # A directory that is not there may have been meant for a run.
                error.hint = error.hint or f"{flag} takes a run, too; vlmserve runs lists them"
                raise
            raise ConfigError(
                f"{flag} {reference}: {self._store.path} has no run of this name, and there is no "
                "such checkpoint",
                hint=known_runs(self._store),
            ) from error

    def _serve(self, side: "SideName", checkpoint: "Checkpoint") -> None:
        config = self._serving[side].config
        # The base of an adapter is served as that, and its own training is of no account.
        env: VisionLimits | None = self._train_env if side == "candidate" else None
        require_sound(checkpoint, self._args.allow, serve=config, train_env=env)
        self._served[side] = Served(checkpoint, config, self._args.engine)

    def _default_baseline(self, candidate: "Checkpoint") -> "Checkpoint":
        if candidate.base is not None:
            return candidate.base
        known = "nothing says what it was trained from"
        if candidate.base_ref is not None:
            known = f"it was trained from {candidate.base_ref}, which is not on this machine"
        raise ConfigError(f"{candidate.path}: {known}, so there is no baseline", hint=_NAME_IT)

    def count_tokens(self) -> "TokenCounter":
        """How prompt tokens are told: by the candidate where it is at hand, else by another."""
        from vlmserve.evals.forecast import token_counter

        for served in self._served.values():
            return token_counter(served.checkpoint, served.config, self._train_env)
        return token_counter(None, self._config)

    def create_sides(self, tasks: "Sequence[EvalTask]") -> SideSet:
        """Set up all sides; checkpoints are hashed, which takes minutes.

        Args:
            tasks: The suite's tasks, loaded.

        Raises:
            ConfigError: A run was asked something else, or sides differ in what nobody declared.
            CheckpointError: A checkpoint cannot be read.
        """
        from vlmserve.evals.kept_side import load_kept_side

        found = checkpoint_sides(self._served, train_env=self._train_env)
        for name, side in {**found, **self._endpoints}.items():
            found[name] = side.asked_as(self._asking(name, tasks))
        for name, run in self._runs.items():
            found[name] = load_kept_side(self._store, run, self._suite, tasks, self._args.limit)
        sides = {name: found[name] for name in _FLAGS if name in found}
        return SideSet(sides, self._differences(sides))

    def _asking(self, side: "SideName", tasks: "Sequence[EvalTask]") -> "AskingConfig":
        from vlmserve.config.asking import AskingConfig
        from vlmserve.evals.asking import sample_as

        role: Literal["baseline", "candidate"] = "baseline" if side == "baseline" else "candidate"
        asking = self._suite.sides.of(role)
        if side in self._endpoints and asking.reasoning_parser is not None:
            raise ConfigError(
                f"{self._suite.file or self._suite.name}: sides: reasoning_parser: "
                f"{asking.reasoning_parser}: {self._endpoints[side].name} separates reasoning by "
                "itself",
                hint="start it so: vlmserve serve --set server.reasoning_parser="
                + asking.reasoning_parser,
            )
        parser = self._serving[side].config.server.reasoning_parser
        if side in self._served and parser is not None:
            asking = asking.over(AskingConfig(reasoning_parser=parser))
        sampled = [sample_as(sample.params, asking) for task in tasks for sample in task.samples]
        is_random = any(params.temperature > 0 and params.seed is None for params in sampled)
        if self._args.seed is not None and is_random:
            seeded = AskingConfig.model_validate({"sampling": {"seed": self._args.seed}})
            asking = asking.over(seeded)
        return asking

    def _differences(
        self, sides: "Mapping[SideName, Side]"
    ) -> "dict[SideName, Sequence[ServingDifference]]":
        from vlmserve.evals.serving_differences import find_serving_differences, named_differences

        declared = frozenset().union(*(each.declared for each in self._serving.values()))
        by_suite = named_differences(
            {"asking": self._suite.sides.of("baseline").as_settings()},
            {"asking": self._suite.sides.of("candidate").as_settings()},
        )
        return {
            name: find_serving_differences(
                side, sides["candidate"], declared=declared, by_suite=by_suite
            )
            for name, side in sides.items()
            if name != "candidate"
        }
