"""Every sample of a run, kept beside its report: what was asked, answered and scored."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.evals.test_session import Lab, always, wrong_below
from vlmserve.engine.base import GenerationRequest
from vlmserve.errors import ConfigError, ContextLengthError
from vlmserve.evals.archive import RecordedSide, load_side
from vlmserve.evals.eval_task import load_tasks
from vlmserve.evals.records import Failed, Scored, SideName
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.session import Session
from vlmserve.evals.store import AnswerStore
from vlmserve.evals.store_file import SCHEMA_VERSION
from vlmserve.evals.verdict import TaskRun, find_verdict

VERSION_1 = Path(__file__).parent / "data" / "store_v1.sqlite"


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def session(suites: Any, colors: Callable[[int], Any], store: AnswerStore) -> Session:
    rows = colors(40)
    path = suites.parquet("color.parquet", rows)
    kinds = pa.array([("warm", "cold")[index % 2] for index in range(len(rows))])
    pq.write_table(pq.read_table(path).append_column("kind", kinds), path)
    suites.task("color")
    suite = suites.load("color", gate={"margin": 0.3})
    return Session(suite, load_tasks(suite), store, "run-1")


def refuse_first(request: GenerationRequest) -> str:
    if request.messages[0].parts[0].data.endswith(b"never"):  # type: ignore[union-attr]
        return "red"
    raise ContextLengthError("too long")


def judge_again(session: Session, baseline: RecordedSide, candidate: RecordedSide) -> Any:
    """What ``find_verdict`` makes of two sides as they lie in the store."""
    margin = session.suite.gate.margin
    runs = []
    for old, new in zip(baseline.tasks, candidate.tasks, strict=True):
        asked = [sample.sample_id for sample in new.samples if sample.sample_id in new.records]
        if new.kept.is_sequential:
            asked = list(new.records)
        by_id = {sample.sample_id: sample for sample in new.samples}
        sides: dict[SideName, Any] = {
            "baseline": [old.records[each] for each in asked],
            "candidate": [new.records[each] for each in asked],
        }
        order = [by_id[each] for each in asked] if new.kept.is_sequential else None
        runs.append(TaskRun(task=new, margin=margin, records=sides, asked=order))
    return find_verdict(runs, session.suite.gate)


@pytest.mark.parametrize("sequential", [False, True])
def test_a_report_can_be_computed_again_from_what_is_kept(
    session: Session, lab: Lab, sequential: bool
) -> None:
    session = replace(session, sequential=sequential)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", wrong_below(19)))
    found = judge_again(
        session, load_side(session.store, "run-1", "baseline"), load_side(session.store, "run-1")
    )

    assert found.tasks == report.tasks
    assert found.slices == report.slices
    assert (found.verdict, report.verdict) == ("regression", "regression")
    if not sequential:
        assert any("longest side in pixels" in each.name for each in found.slices)


def test_a_sample_is_kept_whole(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))
    side = load_side(session.store, "run-1")
    (task,) = side.tasks
    kept, asked = task.kept_samples[1], session.tasks[0].samples[1]

    assert len(task.samples) == len(task.records) == 40
    assert (kept.sample_id, kept.request_digest) == (asked.sample_id, asked.request_digest)
    assert (kept.target, kept.fields) == ("red", {"kind": "cold"})
    (medium,) = (part for part in kept.turns[0].parts if not isinstance(part, str))
    assert (medium.sha256, medium.size_px) == (asked.media[0].sha256, (9, 9))
    assert kept.params == asked.params
    record = task.records[kept.sample_id]
    assert record.outcome == Scored(answer="blue", score=0.0)
    assert record.completion is not None
    assert record.completion.text == "blue"
    assert record.completion.finish_reason == "stop"
    assert record.completion.usage.completion_tokens == 1
    with pytest.raises(Exception, match="not at hand"):
        task.samples[1].media[0].part()


def test_a_side_says_what_it_was(session: Session, lab: Lab) -> None:
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    record = load_side(session.store, "run-1", "baseline").record

    assert (record.name, record.fingerprint) == ("old", "sha256:old")
    assert record.settings == {"engine": "scripted"}
    assert record.suite.digest == report.suite.digest
    assert record.suite.config["gate"]["margin"] == 0.3
    assert record.versions["vlmserve"]
    assert record.hardware["cores"] == os.cpu_count()
    assert record.media_policy
    assert record.tasks[0].recipe["metric"] == "exact_match"


def test_failures_stay_failures(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", refuse_first))
    records = load_side(session.store, "run-1").tasks[0].records

    assert {type(record.outcome) for record in records.values()} == {Failed}
    assert all(record.completion is None for record in records.values())


def test_samples_that_were_not_asked_are_known_as_such(session: Session, lab: Lab) -> None:
    session = replace(session, sequential=True)
    report = session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))
    task = load_side(session.store, "run-1").tasks[0]

    assert task.kept.is_sequential
    assert len(task.samples) == 40
    assert len(task.records) == report.tasks[0].n_samples < 40


def test_runs_of_one_suite_share_their_samples(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))
    replace(session, run_id="run-2").evaluate(
        lab.side("old", always("red")), lab.side("newer", always("red"))
    )
    with sqlite3.connect(session.store.path) as db:
        assert db.execute("SELECT count(*) FROM samples").fetchone() == (40,)
        assert db.execute("SELECT count(*) FROM outcomes").fetchone() == (160,)
    db.close()


def test_a_run_that_is_judged_again_is_replaced(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))

    assert session.store.list_sides("run-1") == ["baseline", "candidate"]
    assert len(load_side(session.store, "run-1").tasks[0].records) == 40


def test_a_run_is_kept_whole_or_not_at_all(session: Session, lab: Lab) -> None:
    """The report is the last thing written, and in the same transaction as the samples."""
    with sqlite3.connect(session.store.path) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    db.close()
    with pytest.raises(ConfigError, match="the run cannot be kept"):
        session.evaluate(lab.side("old", always("red")), lab.side("new", always("blue")))

    assert session.store.list_sides("run-1") == []
    assert session.store.find_report("run-1") is None


def test_a_store_of_version_1_is_taken_over(
    suites: Any, lab: Lab, colors: Callable[[int], Any], tmp_path: Path
) -> None:
    path = tmp_path / "old.sqlite"
    shutil.copy(VERSION_1, path)
    suites.task("color", colors(6))
    suite = suites.load("color", gate={"margin": 0.5})
    with AnswerStore(path) as store:
        text = store.find_report("before")
        assert text is not None
        old = EvalReport.model_validate_json(text)
        with pytest.raises(ConfigError, match="kept no samples") as error:
            load_side(store, "before")
        assert "--run-id before" in (error.value.hint or "")

        again = Session(suite, load_tasks(suite), store, "before").evaluate(
            lab.side("old", always("red")), lab.side("new", always("blue"))
        )
        # Nothing is paid for twice, and now the samples are there.
        assert (again.n_requests_sent, again.n_reused) == (0, 12)
        # What version 1 called the p-value is that of flips of signs.
        (was,), (task,) = old.tasks, again.tasks
        assert task.sign_flip_p == was.p_value
        shown = {"p_value": task.p_value, "sign_flip_p": task.sign_flip_p}
        assert task == was.model_copy(update=shown)
        assert len(load_side(store, "before").tasks[0].records) == 6
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()


def test_what_is_not_there_is_said(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    with pytest.raises(ConfigError, match="no run walk") as error:
        load_side(session.store, "walk")
    assert "run-1" in (error.value.hint or "")
    with pytest.raises(ConfigError, match="has no side repeat") as error:
        load_side(session.store, "run-1", "repeat")
    assert "baseline, candidate" in (error.value.hint or "")


def test_a_record_of_another_version_is_said(session: Session, lab: Lab) -> None:
    session.evaluate(lab.side("old", always("red")), lab.side("new", always("red")))
    with sqlite3.connect(session.store.path) as db:
        db.execute("UPDATE sides SET record = json_set(record, '$.schema_version', 9)")
    db.close()
    with pytest.raises(ConfigError, match="not readable by this version"):
        load_side(session.store, "run-1")
