"""The border to lm-eval, and the only file that imports it: task files in, lm-eval's tasks out.

lm-eval owns what a task is: prompts, few-shot examples, filters and metrics. What it knows of
requests, media and caches is not used.
"""

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from typing_extensions import override

from vlmserve.errors import ConfigError, VlmserveError
from vlmserve.evals.media_columns import keep_files
from vlmserve.evals.task_checks import check_shapes, resolve_data_files
from vlmserve.evals.task_files import TaskFiles
from vlmserve.platform import cure_torch_extensions

cure_torch_extensions()

# After the cure: lm-eval imports torchvision where it finds it.
import datasets  # noqa: E402
import lm_eval.api.metrics  # noqa: E402, F401 - fills the registry
from lm_eval.api.registry import metric_registry  # noqa: E402
from lm_eval.api.task import ConfigurableTask  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def as_config_error() -> Iterator[None]:
    """Turn whatever lm-eval raises over a task's file or data into the user's error."""
    try:
        yield
    except VlmserveError:
        raise
    except Exception as error:
        raise ConfigError(error_reason(error)) from error


def error_reason(error: BaseException) -> str:
    """Give an error of third-party code one line."""
    # datasets wraps the reason in an error that says only that something went wrong.
    root = error.__cause__ if isinstance(error, datasets.exceptions.DatasetsError) else None
    lines = str(root or error).strip().splitlines() or ["no reason given"]
    return f"{type(root or error).__name__}: {lines[0]}"


class TaskSource:
    """Builds tasks by name, from the suite's own files or from lm-eval's library.

    Args:
        found: The suite's files.
        files: By the name of each task, its file; ``None`` for tasks, groups and tags of the
            library.
        groups: By the name of each of the suite's own groups, its tasks.
        scratch: An empty directory.

    Raises:
        ConfigError: A name is nowhere to be found.
    """

    def __init__(
        self,
        found: TaskFiles,
        files: Mapping[str, Path | None],
        groups: Mapping[str, Sequence[str]],
        scratch: Path,
    ) -> None:
        self._files = files
        self._groups = groups
        for index, (name, file) in enumerate(files.items()):
            if file is not None:
                # TaskManager indexes directories; a stub each keeps it from reading other files.
                stub = {"include": str(file), "task": name}
                (scratch / f"{index}.yaml").write_text(yaml.safe_dump(stub), encoding="utf-8")
        with as_config_error():
            self._own = TaskManager(include_path=str(scratch), include_defaults=False)
        self._library = self._own
        foreign = [name for name, file in files.items() if file is None]
        if foreign:
            _LOG.info("indexing lm-eval's library of tasks: this takes half a minute")
            self._library = TaskManager()
            _check_known(foreign, self._library, found)

    def file(self, name: str) -> Path | None:
        """Return the suite's file of a task; ``None`` for one of the library, and for groups."""
        return self._files.get(name)

    def place(self, name: str) -> str:
        """Say where a task or a group is defined, for messages."""
        if name in self._groups:
            return "a group of the suite's files"
        return str(self.file(name) or "lm-eval's library")

    def is_group(self, name: str) -> bool:
        """Whether a name stands for several tasks: a group, or a tag of the library."""
        if name in self._groups:
            return True
        return self._files[name] is None and name not in self._library.all_subtasks

    def folder(self, name: str) -> Path:
        """Return the directory that a task's paths are relative to."""
        file = self.file(name)
        return Path.cwd() if file is None else file.parent

    def build(self, name: str) -> Any:
        """Load a task with its data.

        Raises:
            ConfigError: lm-eval or datasets cannot make it, for whatever reason.
        """
        file = self._files[name]
        manager = self._library if file is None else self._own
        entry = manager.task_index.get(name)
        if entry is None:
            raise ConfigError("lm-eval cannot read the file; is an included file missing?")
        with as_config_error():
            if file is None or "class" in (entry.cfg or {}):
                return manager.load([name])["tasks"][name]
            task_class = type(_HeldOutTask.__name__, (_HeldOutTask,), {"folder": file.parent})
            # A group's members may override what their files say; that is how lm-eval lets us
            # choose the class.
            member = {"task": name, "class": task_class}
            return manager.load([{"group": "suite", "task": [member]}])["tasks"][name]

    def build_group(self, name: str) -> dict[str, Any]:
        """Load the tasks of a group or a tag with their data.

        Returns:
            lm-eval's tasks by name.

        Raises:
            ConfigError: One of them cannot be made.
        """
        if name in self._groups:
            return {member: self._build_member(member) for member in self._groups[name]}
        with as_config_error():
            loaded = self._library.load([name])
        tasks: dict[str, Any] = loaded["tasks"]
        for group in loaded["groups"].values():
            _warn_of_weights(group, len(tasks))
        return tasks

    def _build_member(self, member: str) -> Any:
        try:
            return self.build(member)
        except ConfigError as error:
            place = self.place(member)
            raise ConfigError(f"{member} ({place}): {error.message}", hint=error.hint) from error


def _warn_of_weights(group: Any, n_tasks: int) -> None:
    for metric in group.aggregate_metric_list or []:
        if n_tasks > 1 and not metric.weight_by_size:
            _LOG.warning(
                "warning: lm-eval gives each task of %s the same weight; here each sample has it",
                group.name,
            )
            return


def _check_known(names: Sequence[str], library: TaskManager, found: TaskFiles) -> None:
    for name in names:
        if name in library.all_tasks:
            continue
        broken = "".join(f"\n  {fault}" for fault in found.broken.values())
        near = difflib.get_close_matches(name, (*found.by_name, *library.all_tasks), n=1)
        defined = f"the suite's files define: {', '.join(sorted(found.by_name)) or 'none'}"
        raise ConfigError(
            f"no task {name!r}, neither in the suite's files nor in lm-eval's library{broken}",
            hint=f"did you mean {near[0]!r}?" if near else defined,
        )


class _HeldOutTask(ConfigurableTask):  # type: ignore[misc]
    """A task whose data files lie beside it and whose media stay the files they are."""

    folder: Path

    def __init__(self, config: Mapping[str, Any]) -> None:
        check_shapes(config)
        _check_metrics(config)
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    @override
    def download(self, dataset_kwargs: Mapping[str, Any] | None = None, **_: object) -> None:
        """Load the data set, with relative paths taken from the task's file."""
        config = self.config
        try:
            if callable(config.custom_dataset):
                # As lm-eval does it, without its advertisement for --metadata.
                settings = {**(config.metadata or {}), **(config.dataset_kwargs or {})}
                self.dataset = config.custom_dataset(**settings)
            else:
                files = resolve_data_files(
                    str(config.dataset_path), dataset_kwargs or {}, self.folder
                )
                super().download(files)
        except datasets.exceptions.DatasetGenerationError as error:
            # The Parquet reader takes the size of the first row group for its batches.
            if "BatchSize must be greater than 0" in str(error.__cause__):
                raise ConfigError("the data set has no rows") from error
            raise
        if not isinstance(self.dataset, Mapping):
            raise ConfigError("dataset_kwargs: the data set must keep its splits; drop `split`")
        splits = list(self.dataset)
        for field in ("training_split", "validation_split", "test_split", "fewshot_split"):
            split = getattr(config, field)
            if split is not None and split not in splits:
                raise ConfigError(f"{field}: no split {split!r}; it has: {', '.join(splits)}")

    @override
    def test_docs(self) -> Any:
        """Return the rows to ask about."""
        return self._as_files(super().test_docs())

    @override
    def validation_docs(self) -> Any:
        """Return the rows to ask about where there is no test split."""
        return self._as_files(super().validation_docs())

    def _as_files(self, docs: Any) -> Any:
        if docs is not None and len(docs) == 0:
            raise ConfigError("the data set has no rows")
        if not isinstance(docs, datasets.Dataset):
            return docs
        names = self.config.doc_to_image
        listed = names if isinstance(names, list) else [names]
        # A column that is named is sent as it is stored; functions get decoded images.
        return keep_files(docs, [name for name in listed if isinstance(name, str)])


def _check_metrics(config: Mapping[str, Any]) -> None:
    # lm-eval looks for a metric that it does not know on the internet.
    if config.get("process_results") is not None:
        return
    for metric in config.get("metric_list") or []:
        name = metric.get("metric")
        known = name in metric_registry or metric.get("hf_evaluate")
        if isinstance(name, str) and not known:
            raise ConfigError(f"metric_list: lm-eval knows no metric {name!r}")
