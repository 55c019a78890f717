"""Findings, their severities, and what becomes of a check that fails."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from vlmserve.checkpoint.source import load_checkpoint
from vlmserve.doctor import run
from vlmserve.doctor.describe import describe_checkpoint
from vlmserve.doctor.examination import Examination
from vlmserve.doctor.finding import SEVERITIES, Evidence, Finding, Unknown, enumerate_names
from vlmserve.doctor.report import DoctorReport, create_record, render_markdown
from vlmserve.doctor.run import run_checks


def finding(**fields: Any) -> Finding:
    usual = {"title": "t", "evidence": (), "consequence": "c", "remedy": "r", "source": "s"}
    return Finding(**{**usual, **fields})


def test_severity_is_the_ids() -> None:
    assert finding(id="ckpt.files").severity == "block"
    assert finding(id="train.no-signal").severity == "warn"


def test_severity_may_be_milder_but_not_worse() -> None:
    assert finding(id="ckpt.files", severity="warn").severity == "warn"
    with pytest.raises(ValidationError, match=r"train\.no-signal is warn"):
        finding(id="train.no-signal", severity="block")


def test_unknown_id_is_refused() -> None:
    with pytest.raises(ValidationError, match="no severity"):
        finding(id="no.such")


def test_every_id_has_a_check_that_says_it() -> None:
    """Mutation coverage shows that each is said; here, that none is left over or misspelt."""
    source = Path(run.__file__).parent
    texts = [
        path.read_text()
        for path in source.rglob("*.py")
        if path.name not in ("finding.py", "run.py")
    ]
    named = {found for text in texts for found in re.findall(r'"([a-z]+\.[a-z-]+)"', text)}
    made = {found for text in texts for found in re.findall(r'\bid="([^"]*)"', text)}
    assert made <= set(SEVERITIES) <= named
    assert set(SEVERITIES) == {check.id for check in run.CHECKS}


def test_names_are_cut_with_a_count() -> None:
    assert enumerate_names(["a"]) == "a"
    assert enumerate_names("abcde", 2) == "a, b and 3 more"


def test_a_check_that_fails_does_not_hide_the_others(
    write: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    checks = [
        replace(check, run=broken) if check.id == "ckpt.zero" else check for check in run.CHECKS
    ]
    monkeypatch.setattr(run, "CHECKS", checks)
    directory = write.model()
    (directory / "preprocessor_config.json").unlink()
    report = run_checks(Examination(load_checkpoint(directory)))
    assert [found.id for found in report.findings] == ["proc.present"]
    assert "ZeroDivisionError" in {u.id: u.reason for u in report.unknown}["ckpt.zero"]
    assert "ckpt.zero" in caplog.text


def test_most_serious_first(write: Any) -> None:
    directory = write.model()
    (directory / "trainer_state.json").write_text('{"log_history": [{"loss": 0.0}]}')
    (directory / "preprocessor_config.json").unlink()
    report = run_checks(Examination(load_checkpoint(directory)))
    assert [found.severity for found in report.findings] == ["block", "warn"]
    assert [found.id for found in report.blocking] == ["proc.present"]
    assert [found.id for found in report.warnings] == ["train.no-signal"]


def test_record(write: Any) -> None:
    checkpoint = load_checkpoint(write.model())
    evidence = (Evidence(file="f", key="k", value="v"),)
    found = finding(id="ckpt.files", evidence=evidence)
    unknown = Unknown(id="ckpt.finite", reason="fast")
    record = create_record(checkpoint, DoctorReport(findings=(found,), unknown=(unknown,)))
    written = json.loads(record.model_dump_json())
    assert written == {
        "schema_version": 1,
        "checkpoint": str(checkpoint.path),
        "family": "qwen2_vl",
        "description": describe_checkpoint(checkpoint),
        "verdict": "1 blocking: t",
        "findings": [
            {
                "id": "ckpt.files",
                "severity": "block",
                "title": "t",
                "evidence": [{"file": "f", "key": "k", "value": "v"}],
                "consequence": "c",
                "remedy": "r",
                "source": "s",
                "caused_by": None,
            }
        ],
        "unknown": [{"id": "ckpt.finite", "reason": "fast"}],
    }
    published = Path(__file__).parents[3] / "docs" / "schema" / "check-report.schema.json"
    schema = json.loads(published.read_text())
    jsonschema.validate(written, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**written, "findings": [{"id": "ckpt.files"}]}, schema)


@pytest.mark.parametrize(
    ("ids", "verdict"),
    [
        ([], "nothing found that keeps it from being served as it was trained"),
        (["train.no-signal"], "1 warning: t"),
        (["ckpt.files", "ckpt.zero", "pos.mrope"], "2 blocking, 1 warning: t"),
        (["pos.mrope", "train.no-signal"], "2 warnings: t"),
    ],
)
def test_verdict(ids: list[str], verdict: str) -> None:
    found = tuple(finding(id=each) for each in ids)
    assert DoctorReport(findings=found, unknown=()).verdict == verdict


def test_info_does_not_count_in_the_verdict() -> None:
    found = (finding(id="ckpt.files", severity="info"),)
    assert DoctorReport(findings=found, unknown=()).verdict.startswith("nothing found")


def test_markdown_keeps_tokens_and_diffs(write: Any) -> None:
    evidence = (
        Evidence(file="chat_template.jinja", key="system", value="-<image>\n+``` <|im_end|>"),
        Evidence(file="tokenizer.json", key="", value="<image> moved"),
    )
    found = finding(id="template.render-diff", title="a_b <s>", evidence=evidence)
    report = DoctorReport(findings=(found,), unknown=(Unknown(id="tok.rows", reason="r"),))
    text = render_markdown(create_record(load_checkpoint(write.model()), report))
    assert "### warn: `template.render-diff` a\\_b \\<s\\>" in text
    assert "`````\n-<image>\n+``` <|im_end|>\n`````" in text
    assert "- `tokenizer.json`: \\<image\\> moved" in text
    assert "- `tok.rows`: r" in text


def test_description_of_a_model(write: Any) -> None:
    directory = write.shard(write.model(), 2)
    text = describe_checkpoint(load_checkpoint(directory))
    assert "A full Qwen2-VL (Qwen2VLForConditionalGeneration) model" in text
    assert "F32, in 2 files, saved by transformers 4.49.0" in text
    assert "Nothing tells how it was trained." in text


def test_description_of_an_adapter(write: Any) -> None:
    base = write.model("base")
    adapter = write.adapter(base, {"visual.blocks.0.attn.qkv": (48, 16)})
    arguments = '{"model": "Qwen/Qwen2-VL", "swift_version": "3.1", "max_length": 2048}'
    (adapter / "args.json").write_text(arguments)
    text = describe_checkpoint(load_checkpoint(adapter))
    assert "A LoRA adapter of rank 2 (alpha 4; 1 module, vision tower included)" in text
    assert f"{base}, named by adapter_config.json: base_model_name_or_path" in text
    assert "Trained with ms-swift 3.1 from Qwen/Qwen2-VL (max_length 2048)." in text


def test_description_of_what_cannot_be_read(write: Any) -> None:
    adapter = write.adapter(write.model())
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert "its weights cannot be read" in describe_checkpoint(load_checkpoint(adapter))
