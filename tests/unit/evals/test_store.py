import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from vlmserve.chat import Completion, Usage
from vlmserve.errors import ConfigError
from vlmserve.evals.answer_tables import Answerer
from vlmserve.evals.store import AnswerStore, default_store_path
from vlmserve.evals.store_file import SCHEMA_VERSION

ONE = Answerer(checkpoint="sha256:1", settings="s")


def completion(text: str) -> Completion:
    usage = Usage(prompt_tokens=3, completion_tokens=1)
    return Completion(text=text, finish_reason="stop", usage=usage)


def test_answers_come_back_as_they_were(store: AnswerStore) -> None:
    store.keep(ONE, "r1", completion("ünï\n"), 0.5)

    kept = completion("ünï\n").model_copy(update={"latency_s": 0.5})
    assert store.find(ONE, ["r1", "r2"]) == {"r1": kept}


@pytest.mark.parametrize(
    "other", [Answerer(checkpoint="sha256:2", settings="s"), Answerer("sha256:1", settings="t")]
)
def test_another_answerer_has_other_answers(store: AnswerStore, other: Answerer) -> None:
    store.keep(ONE, "r1", completion("red"), 0.5)

    assert store.find(other, ["r1"]) == {}
    store.keep(other, "r1", completion("blue"), 0.5)
    assert store.find(ONE, ["r1"])["r1"].text == "red"


def test_the_first_answer_stays(store: AnswerStore) -> None:
    store.keep(ONE, "r1", completion("red"), 0.5)
    store.keep(ONE, "r1", completion("blue"), 0.5)

    assert store.find(ONE, ["r1"])["r1"].text == "red"


def test_reports_are_kept_by_run(store: AnswerStore) -> None:
    store.keep_report("run", '{"verdict": "pass"}')
    store.keep_report("run", '{"verdict": "regression"}')

    assert store.find_report("run") == '{"verdict": "regression"}'
    assert store.find_report("walk") is None


def test_an_answer_is_on_disk_when_keep_returns(store: AnswerStore) -> None:
    store.keep(ONE, "r1", completion("red"), 0.5)
    with sqlite3.connect(store.path) as other:
        assert other.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    other.close()


def test_two_processes_may_share_a_store(store: AnswerStore) -> None:
    with AnswerStore(store.path) as second:
        second.keep(ONE, "r1", completion("red"), 0.5)
        assert store.find(ONE, ["r1"])["r1"].text == "red"


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    AnswerStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    db.close()

    with pytest.raises(ConfigError, match=rf"schema version {SCHEMA_VERSION + 1}, .* reads"):
        AnswerStore(path)


def test_another_programs_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()

    with pytest.raises(ConfigError, match="database of another program"):
        AnswerStore(path)
    assert path.read_bytes() == before


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)

    with pytest.raises(ConfigError, match="is not a store of answers"):
        AnswerStore(path)


def test_a_store_that_is_locked_is_called_locked(store: AnswerStore) -> None:
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            ConfigError, match=r"answers\.sqlite: cannot be opened: .*locked"
        ) as one:
            AnswerStore(store.path, busy_timeout_s=0.1)
    assert "another process" in (one.value.hint or "")


def test_a_full_disk_is_said_with_the_files_name(store: AnswerStore) -> None:
    # What a process may write at most, in place of a disk: SQLite sees a write that fails.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ConfigError, match=r"answers\.sqlite: the answer cannot be kept: "):
            store.keep(ONE, "r1", completion("x" * 100_000), 0.5)
        with pytest.raises(ConfigError, match=r"answers\.sqlite: the report cannot be kept: "):
            store.keep_report("run", "x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.keep(ONE, "r1", completion("red"), 0.5)
    assert store.find(ONE, ["r1"])["r1"].text == "red"


def test_a_damaged_store_is_not_called_another_file(store: AnswerStore) -> None:
    for number in range(200):
        store.keep(ONE, f"r{number}", completion("red"), 0.5)
    store.close()
    with store.path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (store.path.stat().st_size - 4096))
    with AnswerStore(store.path) as damaged, pytest.raises(ConfigError, match="cannot be read"):
        damaged.find(ONE, ["r1"])


# Opens a new store, when a line says so, at the same moment as its siblings.
RACE = """
    import sys
    from pathlib import Path
    from vlmserve.evals.store import AnswerStore

    print("ready", flush=True)
    sys.stdin.readline()
    with AnswerStore(Path(sys.argv[1])) as store:
        store.keep_report(sys.argv[2], "{}")
"""


def test_processes_that_create_a_store_together_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new.sqlite"
    script = [sys.executable, "-c", textwrap.dedent(RACE), str(path)]
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [*script, str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(6)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        said = [racer.communicate("go\n")[1] for racer in racers]

    assert said == [""] * 6
    with AnswerStore(path) as store:
        assert [store.find_report(str(number)) for number in range(6)] == ["{}"] * 6


def test_the_switch_to_wal_waits_for_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    AnswerStore(path).close()
    with contextlib.closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as reader:
        reader.execute("PRAGMA journal_mode=DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM answers").fetchone()
        with pytest.raises(ConfigError, match=r"cannot be opened: .*locked"):
            AnswerStore(path, busy_timeout_s=0.1)
        timer = threading.Timer(0.3, reader.execute, ("COMMIT",))
        timer.start()
        AnswerStore(path).close()
        timer.join()
        # The format version in SQLite's header: 2 is WAL.
        assert path.read_bytes()[18] == 2


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be opened"):
        AnswerStore(tmp_path / "file" / "answers.sqlite")


def test_the_default_lies_in_the_users_data_directory() -> None:
    assert default_store_path({"XDG_DATA_HOME": "/data"}) == Path("/data/vlmserve/evals.sqlite")
    assert default_store_path({}) == Path("~/.local/share/vlmserve/evals.sqlite").expanduser()


# Answers three of its requests, says so, and waits to be killed while it holds the fourth.
KILLED = """
    import sys, time
    from pathlib import Path
    from vlmserve.config.suite import load_suite
    from vlmserve.engine.scripted import ScriptedEngine
    from vlmserve.evals.eval_task import load_tasks
    from vlmserve.evals.runner import Asking, SilentListener, plan_side, run_side
    from vlmserve.evals.answer_tables import Answerer
    from vlmserve.evals.store import AnswerStore

    suite, path = Path(sys.argv[1]), Path(sys.argv[2])
    answered = []

    def answer(request):
        if len(answered) == 3:
            print("three", flush=True)
            time.sleep(600)
        answered.append(request)
        return "red"

    with AnswerStore(path) as store:
        tasks = load_tasks(load_suite(suite))
        run = plan_side("candidate", Answerer("sha256:1", "s"), tasks, store)
        run_side(run, Asking(ScriptedEngine(answer), "scripted", store, SilentListener()))
"""


def test_a_killed_run_goes_on_where_it_stopped(suites: Any, colors: Any, tmp_path: Path) -> None:
    from vlmserve.engine.scripted import ScriptedEngine
    from vlmserve.evals.eval_task import load_tasks
    from vlmserve.evals.runner import Asking, SilentListener, plan_side, run_side

    suites.task("color", colors(8))
    suite, path = suites.suite("color"), tmp_path / "killed.sqlite"
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(suite), str(path)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three\n"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    tasks = load_tasks(suites.load("color"))
    engine = ScriptedEngine(lambda _: "red")
    with AnswerStore(path) as store:
        run = plan_side("candidate", ONE, tasks, store)
        assert run.n_reused == 3
        run_side(run, Asking(engine, "scripted", store, SilentListener()))

    assert engine.n_requests == run.n_requests_sent == 5
    assert len(run.answers) == 8
