#!/usr/bin/env python3
"""Write docs/schema/*.json: what programs may rely on in vlmserve's own JSON.

Run by ``make docs``; with ``--check`` it writes nothing and fails where a file is stale.
"""

import argparse
import json
import sys
from pathlib import Path

from vlmserve.chat import Value
from vlmserve.doctor.report import CheckRecord
from vlmserve.evals.report.eval_report import EvalReport
from vlmserve.evals.run_record import SideRecord

TARGET = Path(__file__).resolve().parent.parent / "docs" / "schema"
SCHEMAS: dict[str, type[Value]] = {
    "check-report.schema.json": CheckRecord,
    "eval-report.schema.json": EvalReport,
    "run-side.schema.json": SideRecord,
}


def render(model: type[Value]) -> str:
    """The JSON schema of what a model is written as."""
    schema = model.model_json_schema(mode="serialization")
    # Later versions may add keys: who validates by this file must not refuse them.
    for part in (schema, *schema.get("$defs", {}).values()):
        part.pop("additionalProperties", None)
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**dialect, **schema}, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail where a file is stale")
    args = parser.parse_args()
    stale = []
    for name, model in SCHEMAS.items():
        path, text = TARGET / name, render(model)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not args.check:
            TARGET.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'stale' if args.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
