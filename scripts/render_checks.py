#!/usr/bin/env python3
"""Write docs/checks.md: a section for each check, from the code, and what mutations tripped.

The mutations of tests/mutation are really run; it takes about a minute.

    .venv/bin/python -m scripts.render_checks [--check]
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.mutation.laboratory import Laboratory, Result
from tests.mutation.mutation import Mutation
from tests.mutation.subject import Subject
from tests.mutation.subjects import SUBJECTS
from tests.mutation.tables import HARMLESS, MUTATIONS
from vlmserve.doctor.check import Check
from vlmserve.doctor.finding import SEVERITIES, Finding
from vlmserve.doctor.run import CHECKS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "checks.md"

THEMES: dict[str, tuple[str, ...]] = {
    "Files and processor": (
        "ckpt.files",
        "ckpt.architecture",
        "proc.present",
        "proc.pixels",
        "proc.geometry",
        "proc.video",
        "gen.config-diff",
    ),
    "Template and tokenizer": (
        "template.render-diff",
        "template.sep-atomic",
        "tok.id-stability",
        "tok.rows",
    ),
    "Adapters": ("lora.match", "lora.coverage", "lora.merge-proof", "base.identity"),
    "Tensors and configuration": (
        "ckpt.tensors",
        "ckpt.zero",
        "ckpt.lost-tensors",
        "ckpt.finite",
        "cfg.two-truths",
        "cfg.rope",
        "pos.mrope",
        "code.hash",
    ),
    "Training": ("train.no-signal", "diff.components"),
    "Data": (
        "data.budget",
        "data.labels-text",
        "data.image-modes",
        "data.media",
        "data.overlap",
    ),
}
"""The ids in the order of the page."""

_INTRODUCTION = """\
# The checks of `vlmserve check`

<!-- Written by scripts/render_checks.py from the code; do not edit. -->

    vlmserve check --ckpt DIR [--base-model DIR] [--data FILE_OR_DIR] [--heldout FILE_OR_DIR]

reads a checkpoint's files, never executes them, and says what is wrong with it.
Each finding has an id, which is a section of this page.

**Severity** is the id's, and never worse; a finding may be of a milder form.

- `block`: it cannot be served, or serves nonsense.
- `warn`: it serves something other than what was trained, or there is strong evidence for it.
- `info`: worth knowing. So is whatever follows from another finding; it names that one.

**Exit status**: 0 when nothing blocks, 4 when something does, with `--strict` also when something \
warns; 2 for a usage error.
`vlmserve serve` and `vlmserve eval` make the fast part of the checks first (headers, small files \
and an adapter's own weights), and stop at a blocking finding unless `--allow ID` names it.

**Not checked is not the same as sound.** A check that lacks something says `unknown` with the \
reason and what would help, such as a base model to compare with.
Checks of training data run only with `--data`.
"""


def main() -> int:
    """Run the mutations, and write the page or compare it."""
    parser = argparse.ArgumentParser(description="Write docs/checks.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as directory:
        text = render(Laboratory(Path(directory)))
    if not args.check:
        TARGET.write_text(text, encoding="utf-8")
        print(TARGET)
        return 0
    is_fresh = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text
    print(f"{TARGET} is {'up to date' if is_fresh else 'out of date: run make docs'}")
    return 0 if is_fresh else 1


def render(laboratory: Laboratory) -> str:
    """The page with what the mutations trip in this laboratory."""
    results = {mutation.key: laboratory.mutated(mutation) for mutation in MUTATIONS}
    untouched = {name: laboratory.untouched(name) for name in SUBJECTS}
    found = [
        finding
        for result in (*results.values(), *untouched.values())
        for finding in result.full.findings
    ]
    lines = [_INTRODUCTION, *_contents()]
    checks = {check.id: check for check in CHECKS}
    for theme, ids in THEMES.items():
        lines += [f"## {theme}", ""]
        for finding_id in ids:
            lines += _section(checks[finding_id], found)
    lines += _coverage(results)
    lines += _subjects(SUBJECTS.values(), untouched)
    return "\n".join(lines).rstrip("\n") + "\n"


def _contents() -> Iterator[str]:
    yield from ("| id | severity | such as |", "|---|---|---|")
    checks = {check.id: check for check in CHECKS}
    for ids in THEMES.values():
        for finding_id in ids:
            anchor = finding_id.replace(".", "")
            title = _cell(checks[finding_id].example.splitlines()[0])
            yield f"| [`{finding_id}`](#{anchor}) | {SEVERITIES[finding_id]} | {title} |"
    yield ""


def _section(check: Check, found: Iterable[Finding]) -> list[str]:
    sources = dict.fromkeys(finding.source for finding in found if finding.id == check.id)
    lines = [
        f"### {check.id}",
        "",
        f"Severity: `{SEVERITIES[check.id]}`.",
        check.cause,
        "",
        f"**What is looked at.** {check.evidence}",
        "",
        "**Example.**",
        "",
        *(f"    {line}" for line in check.example.splitlines()),
        "",
        f"**Remedy.** {check.remedy}",
        "",
    ]
    if sources:
        lines += ["**Known from.**", "", *(f"- {_cell(source)}" for source in sources), ""]
    return lines


def _coverage(results: dict[str, Result]) -> list[str]:
    count = len({mutation.subject for mutation in MUTATIONS})
    lines = [
        "## Mutation coverage",
        "",
        f"Each of {len(MUTATIONS)} faults is put into a copy of one of {count} sound checkpoints "
        "(below). It must trip its own check, and no other above `info`.",
        f"{len(HARMLESS)} further edits that do no harm, such as weights spread over more files or "
        "what other versions of transformers write, must trip nothing.",
        "A fault is *fast* if the part that `serve` and `eval` run finds it.",
        "",
        "| fault | checkpoint | expected | found | fast |",
        "|---|---|---|---|---|",
    ]
    order = [finding_id for ids in THEMES.values() for finding_id in ids]
    mutations = sorted(MUTATIONS, key=lambda mutation: order.index(mutation.check_id))
    lines += [_row(mutation, results[mutation.key]) for mutation in mutations]
    return [*lines, ""]


def _row(mutation: Mutation, result: Result) -> str:
    before = SUBJECTS[mutation.subject].expected
    serious: dict[str, None] = {}
    following: dict[str, None] = {}
    for finding in result.full.findings:
        if finding.caused_by is not None:
            following[f"`{finding.id}` follows"] = None
        elif finding.severity != "info" and finding.id not in before:
            serious[f"`{finding.id}` {finding.severity}"] = None
    fast = any(
        finding.id == mutation.check_id and finding.severity != "info"
        for finding in result.fast.findings
    )
    cells = (
        _cell(mutation.name),
        mutation.subject,
        f"`{mutation.check_id}`",
        ", ".join([*serious, *following]) or "nothing",
        "yes" if fast else "no",
    )
    return f"| {' | '.join(cells)} |"


def _subjects(subjects: Iterable[Subject], untouched: dict[str, Result]) -> list[str]:
    lines = [
        "### The checkpoints",
        "",
        "Untouched, each must be clean above `info`, apart from families that vLLM lacks.",
        "",
        "| checkpoint | what it is | found above `info` |",
        "|---|---|---|",
    ]
    for subject in subjects:
        findings = untouched[subject.name].full.findings
        serious = dict.fromkeys(f"`{item.id}`" for item in findings if item.severity != "info")
        lines.append(f"| {subject.name} | {_cell(subject.what)} | {', '.join(serious) or '-'} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.exit(main())
