"""Finds the files of a suite's tasks by the names they define."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from vlmserve.config.suite import SuiteConfig
from vlmserve.errors import ConfigError

# A name this near to one of the suite's own tasks is taken for a slip of the pen, not for a task
# of lm-eval's library, whose index takes half a minute.
_LIKENESS = 0.75


@dataclass(slots=True)
class TaskFiles:
    """The task files that a suite brings along."""

    by_name: dict[str, list[Path]] = field(default_factory=dict)
    """Files that define each task; more than one is an error once the task is asked for."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    """Names of the tasks and groups that each group lists."""

    broken: dict[Path, str] = field(default_factory=dict)
    """Files that are not YAML, and where they are at fault."""

    def find(self, name: str) -> Path | None:
        """Return the file of a task; ``None`` if the suite's files do not define it.

        Raises:
            ConfigError: Two files define it, or it resembles one that exists.
        """
        files = self.by_name.get(name, [])
        if len(files) > 1:
            raise ConfigError(
                f"task {name!r} is defined twice: {', '.join(str(file) for file in files)}"
            )
        if files:
            return files[0]
        if near := difflib.get_close_matches(name, (*self.by_name, *self.groups), cutoff=_LIKENESS):
            raise ConfigError(f"no task {name!r}", hint=f"did you mean {near[0]!r}?")
        return None

    def members(self, group: str) -> list[str]:
        """Names of the tasks of one of the suite's groups, those of its groups among them.

        Raises:
            ConfigError: It lists no names, or one twice, or itself.
        """
        found: list[str] = []
        self._collect(group, found, ())
        twice = sorted({name for name in found if found.count(name) > 1})
        if twice:
            raise ConfigError(f"group {group!r} has {', '.join(twice)} more than once")
        return found

    def _collect(self, group: str, found: list[str], around: tuple[str, ...]) -> None:
        if group in around:
            raise ConfigError(f"group {group!r} is among its own members")
        if not self.groups[group]:
            raise ConfigError(
                f"group {group!r} lists no names under `task:`; members that change their tasks' "
                "settings are files of their own"
            )
        for name in self.groups[group]:
            if name in self.groups:
                self._collect(name, found, (*around, group))
            else:
                found.append(name)


def find_task_files(suite: SuiteConfig) -> TaskFiles:
    """Index the task files of a suite without loading data or code.

    Raises:
        ConfigError: A file listed in ``task_files`` cannot be read or defines no task.
    """
    found = TaskFiles()
    if suite.include_path is not None:
        _index(sorted(suite.include_path.rglob("*.yaml")), found)
    _index(suite.task_files, found)
    defined = {file for files in found.by_name.values() for file in files}
    for file in suite.task_files:
        if file in found.broken:
            raise ConfigError(found.broken[file])
        if file not in defined and "group" not in _top_level(file):
            raise ConfigError(f"{file}: defines no task: a `task:` key with its name is missing")
    return found


def _index(files: Iterable[Path], found: TaskFiles) -> None:
    for file in files:
        try:
            keys = _top_level(file)
        except yaml.MarkedYAMLError as error:
            line = 1 if error.problem_mark is None else error.problem_mark.line + 1
            found.broken[file] = f"{file}:{line}: {error.problem}"
            continue
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            found.broken[file] = f"{file}: {error}"
            continue
        if "group" in keys:
            members = keys.get("task", [])
            found.groups[str(keys["group"])] = members if isinstance(members, list) else [members]
        elif isinstance(keys.get("task"), str):
            found.by_name.setdefault(str(keys["task"]), []).append(file)


def _top_level(file: Path) -> dict[str, str | list[str]]:
    # Composed, not loaded: lm-eval's files name Python functions with a tag of their own.
    root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return {}
    found: dict[str, str | list[str]] = {}
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode):
            found[str(key.value)] = str(value.value)
        elif isinstance(value, yaml.SequenceNode):
            named = all(isinstance(each, yaml.ScalarNode) for each in value.value)
            found[str(key.value)] = [str(each.value) for each in value.value] if named else []
    return found
