"""Mutation coverage: sound subjects are clean, and each fault trips its own check alone."""

from collections import Counter

import pytest

from scripts.render_checks import TARGET, render
from tests.mutation.laboratory import Laboratory
from tests.mutation.mutation import Harmless, Mutation
from tests.mutation.subjects import SUBJECTS
from tests.mutation.tables import HARMLESS, MUTATIONS
from vlmserve.doctor.finding import SEVERITIES
from vlmserve.doctor.report import DoctorReport

_MIN_MUTATIONS = 40


def serious(report: DoctorReport) -> set[str]:
    """Ids above ``info``."""
    return {finding.id for finding in report.findings if finding.severity != "info"}


def shown(report: DoctorReport) -> str:
    """The whole report, for a failure's message."""
    lines = [report.verdict]
    for finding in report.findings:
        cause = "" if finding.caused_by is None else f" (follows from {finding.caused_by})"
        lines.append(f"{finding.severity} {finding.id}{cause}: {finding.title}")
        lines += [f"    {item.file} {item.key}: {item.value}" for item in finding.evidence]
    lines += [f"unknown {unknown.id}: {unknown.reason}" for unknown in report.unknown]
    return "\n".join(lines)


def assert_ran(report: DoctorReport) -> None:
    """No check fell over: that is reported as unknown, too."""
    failed = [
        unknown for unknown in report.unknown if unknown.reason.startswith("the check failed")
    ]
    assert not failed, shown(report)


@pytest.mark.parametrize("name", SUBJECTS)
def test_untouched_subjects_are_clean(name: str, laboratory: Laboratory) -> None:
    result = laboratory.untouched(name)
    for report in (result.fast, result.full):
        assert_ran(report)
        assert serious(report) == SUBJECTS[name].expected, shown(report)


@pytest.mark.parametrize("edit", HARMLESS, ids=[edit.key for edit in HARMLESS])
def test_harmless_edits_trip_nothing(edit: Harmless, laboratory: Laboratory) -> None:
    result = laboratory.mutated(edit)
    for report in (result.fast, result.full):
        assert_ran(report)
        assert serious(report) == SUBJECTS[edit.subject].expected, shown(report)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.key for mutation in MUTATIONS])
def test_mutation_trips_its_own_check_alone(mutation: Mutation, laboratory: Laboratory) -> None:
    result = laboratory.mutated(mutation)
    before = SUBJECTS[mutation.subject].expected
    assert_ran(result.full)
    assert_ran(result.fast)
    assert serious(result.full) - before == {mutation.check_id}, shown(result.full)
    assert serious(result.fast) - before <= {mutation.check_id}, shown(result.fast)
    if mutation.fast:
        assert mutation.check_id in serious(result.fast), shown(result.fast)


def test_every_id_has_a_mutation() -> None:
    assert set(SEVERITIES) == {mutation.check_id for mutation in MUTATIONS}


def test_table_is_large_and_names_no_mutation_twice() -> None:
    assert len(MUTATIONS) >= _MIN_MUTATIONS
    assert [key for key, count in Counter(m.key for m in MUTATIONS).items() if count > 1] == []


def test_page_is_fresh(laboratory: Laboratory) -> None:
    """The texts are those of the code, the table what this session's mutations tripped."""
    assert TARGET.read_text(encoding="utf-8") == render(laboratory), "run make docs"
