"""A check's report on a terminal and in a log."""

import io
import re

import pytest
from rich.console import Console

from vlmserve.cli.check_report import print_report
from vlmserve.doctor.finding import Evidence, Finding, Unknown
from vlmserve.doctor.report import CheckRecord

LONG = "model.layers.0.self_attn.q_proj and " * 6
DIFF = "--- its base's\n+++ served\n-" + "x" * 100


def render(width: int, *, terminal: bool) -> list[str]:
    finding = Finding(
        id="lora.match",
        title=LONG + "end",
        evidence=(
            Evidence(file="adapter_model.safetensors", key="names", value=LONG),
            Evidence(file="chat_template.jinja", key="a question", value=DIFF),
        ),
        consequence=LONG,
        remedy="copy " + "/a/long/path/to/a/file " * 6,
        source="s",
    )
    record = CheckRecord(
        checkpoint="/data/" + "run/" * 40,
        family="qwen2_vl",
        description="A full model. " * 12,
        findings=(finding,),
        unknown=(Unknown(id="lora.coverage", reason=LONG),),
        verdict="1 blocking: " + LONG,
    )
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=terminal, highlight=False)
    print_report(console, record)
    return re.sub(r"\x1b\[[0-9;]*m", "", buffer.getvalue()).splitlines()


@pytest.mark.parametrize("width", [80, 200])
def test_text_on_a_terminal_is_wrapped_between_words(width: int) -> None:
    lines = render(width, terminal=True)
    # Commands and paths are copied whole, and a diff keeps its lines.
    kept = ("/data/run/", "      remedy: copy /a/long", "        -xxx")
    assert all(line.startswith(kept) for line in lines if len(line) > width)
    assert "      remedy: copy " + "/a/long/path/to/a/file " * 6 in lines
    words = {word for line in lines for word in line.split() if word.startswith("model.")}
    assert words == {"model.layers.0.self_attn.q_proj", "model."}
    title = next(number for number, line in enumerate(lines) if line.startswith("block lora."))
    assert lines[title + 1].startswith("      ")


def test_elsewhere_each_line_is_whole() -> None:
    lines = render(80, terminal=False)
    assert f"      adapter_model.safetensors names: {LONG}" in lines
    assert f"  lora.coverage: {LONG}" in lines
    assert f"1 blocking: {LONG}" in lines
