"""Which metrics the alerts and the dashboard ask for."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import yaml


def metric_names(root: Path) -> set[str]:
    """Names in every expression of the deployment's files."""
    names: set[str] = set()
    for expression in _expressions(root):
        plain = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        _collect(promql_parser.parse(plain), names)
    return names


def _expressions(root: Path) -> list[str]:
    alerts = yaml.safe_load((root / "deploy" / "prometheus" / "alerts.yml").read_text())
    path = root / "deploy" / "grafana" / "dashboards" / "vlmserve.json"
    dashboard = json.loads(path.read_text())
    found = [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    for panel in dashboard["panels"]:
        found += [target["expr"] for target in panel.get("targets", ())]
    for variable in dashboard["templating"]["list"]:
        query = variable["query"]
        if isinstance(query, dict):
            found += re.findall(r"label_values\((.*), \w+\)", query["query"])
    return found


def _collect(expression: Any, names: set[str]) -> None:
    if isinstance(expression, promql_parser.VectorSelector):
        names.add(expression.name or "a selector without a name")
        return
    for child in ("expr", "lhs", "rhs", "vector_selector"):
        if (part := getattr(expression, child, None)) is not None:
            _collect(part, names)
    for argument in getattr(expression, "args", ()):
        _collect(argument, names)
