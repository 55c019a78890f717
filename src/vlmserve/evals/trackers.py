"""Where a training's own curves are: Weights & Biases, or MLflow, when their packages are there.

Written against wandb 0.31 (``init``, ``Run.define_metric``, ``Run.log``, ``Run.finish``) and mlflow
3.17 (``MlflowClient``). Neither is a dependency.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol

from vlmserve.errors import ConfigError
from vlmserve.evals.report.eval_report import EvalReport

_STEP = "checkpoint_step"
_PROJECT = "vlmserve"


class Tracker(Protocol):
    """Takes the numbers of one checkpoint after another."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a checkpoint; one whose step is there already is left as it is."""
        ...

    def close(self) -> None:
        """Send what is left; safe to call twice."""
        ...


def tracked_values(report: EvalReport) -> dict[str, float]:
    """The numbers of a report that make curves, by name such as ``TASK/METRIC``."""
    values: dict[str, float] = {}
    for task in report.tasks:
        numbers = {
            task.metric: task.candidate,
            "baseline": task.baseline,
            "difference": task.difference,
            "difference_lower": task.lower,
            "difference_upper": task.upper,
            "failed": float(task.n_failed_candidate),
        }
        if task.nll is not None and task.nll.per_token is not None:
            numbers |= {
                "nll": task.nll.per_token.candidate,
                "nll_baseline": task.nll.per_token.baseline,
                "nll_difference": task.nll.per_token.difference,
            }
        for name, number in numbers.items():
            if number is not None:
                values[f"{task.task}/{name}"] = number
    return values


def create_tracker(kind: str, name: str) -> Tracker:
    """Connect to a tracker, as its own environment variables say.

    Args:
        kind: ``wandb`` or ``mlflow``.
        name: Of the watch: a run of this name is gone on with.

    Raises:
        ConfigError: The package is not installed, or the tracker refuses.
    """
    if kind == "wandb":
        return WandbTracker(_imported("wandb", "wandb"), name)
    return MlflowTracker(_imported("mlflow", "mlflow or mlflow-skinny"), name)


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--log-to {module}: {module} is not installed ({error})", hint=f"pip install {package}"
        ) from error


class WandbTracker:
    """A run of Weights & Biases; ``WANDB_PROJECT``, ``WANDB_MODE`` and the like are honoured.

    Args:
        wandb: The module.
        name: The run's name, and its id.
    """

    def __init__(self, wandb: Any, name: str) -> None:
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                id=name,
                name=name,
                resume="allow",
            )
        except Exception as error:
            raise ConfigError(f"--log-to wandb: {error}") from error
        # W&B's own step only grows; checkpoints of a resumed watch need not.
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        # Offline, nothing is known of what an earlier process wrote.
        self._logged = set(self._run.summary.get("checkpoint_steps") or ())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a checkpoint."""
        if step in self._logged:
            return
        self._run.log({**values, _STEP: step})
        self._logged.add(step)
        self._run.summary["checkpoint_steps"] = sorted(self._logged)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MlflowTracker:
    """A run of MLflow; ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` are honoured.

    Args:
        mlflow: The module.
        name: The run's name; one of that name in the experiment is gone on with.
    """

    def __init__(self, mlflow: Any, name: str) -> None:
        try:
            self._client = mlflow.MlflowClient()
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(experiment)
            place = (
                self._client.create_experiment(experiment) if found is None else found.experiment_id
            )
            runs = self._client.search_runs([place], f"attributes.run_name = '{name}'")
            run = runs[0] if runs else self._client.create_run(place, run_name=name)
        except Exception as error:
            raise ConfigError(f"--log-to mlflow: {error}") from error
        self._run_id = run.info.run_id
        self._is_open = True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a checkpoint."""
        for name, value in values.items():
            history = self._client.get_metric_history(self._run_id, name)
            if all(metric.step != step for metric in history):
                self._client.log_metric(self._run_id, name, value, step=step)

    def close(self) -> None:
        """Mark the run as ended."""
        if self._is_open:
            self._client.set_terminated(self._run_id)
            self._is_open = False
