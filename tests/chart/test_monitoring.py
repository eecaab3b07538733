"""Alerts and the autoscaler's query, run by promtool on series that are written by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.kit.chart import CHART, Manifest, one

ALERTS = CHART / "files" / "alerts.yaml"
TESTS = Path(__file__).with_name("alerts.test.yaml")
Promtool = Callable[..., str]


def test_every_alert_fires_when_it_should_and_else_is_silent(promtool: Promtool, tmp_path: Path) -> None:
    for path in (ALERTS, TESTS):
        shutil.copy(path, tmp_path)
    promtool("check", "rules", tmp_path / ALERTS.name)
    promtool("test", "rules", tmp_path / TESTS.name)


def test_every_alert_has_a_test_that_fires_and_one_that_is_silent() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
    tests = [each for test in yaml.safe_load(TESTS.read_text())["tests"] for each in test["alert_rule_test"]]
    assert {test["alertname"] for test in tests if "exp_alerts" in test} == alerts
    assert {test["alertname"] for test in tests if "exp_alerts" not in test} == alerts


def test_the_rules_of_the_chart_are_those_of_the_file(everything: list[Manifest]) -> None:
    assert one(everything, "PrometheusRule")["spec"] == yaml.safe_load(ALERTS.read_text())


def test_the_autoscaler_counts_edits_that_wait_and_those_that_run(
    everything: list[Manifest], promtool: Promtool, tmp_path: Path
) -> None:
    """KEDA's target is the query's value over the threshold, rounded up, and never less than the least."""
    (trigger,) = one(everything, "ScaledObject")["spec"]["triggers"]
    query = trigger["metadata"]["query"]

    def jobs(pod: str, state: str, values: str, namespace: str = "prod") -> dict[str, str]:
        labels = f'namespace="{namespace}", pod="{pod}", state="{state}"'
        return {"series": f"qwen_edit_jobs{{{labels}}}", "values": values}

    def case(value: float | None, *series: dict[str, str]) -> dict[str, object]:
        expected = [] if value is None else [{"labels": "{}", "value": value}]
        other = jobs("x", "running", "50x20", namespace="elsewhere")
        tests = [{"expr": query, "eval_time": "5m", "exp_samples": expected}]
        return {"interval": "15s", "input_series": [*series, other], "promql_expr_test": tests}

    idle = [jobs(pod, state, "0x20") for pod in "ab" for state in ("waiting", "running")]
    busy = [jobs(pod, state, values) for pod in "ab" for state, values in (("waiting", "0x20"), ("running", "8x20"))]
    queue = [*busy, jobs("c", "waiting", "24x20")]
    tests = [case(0, *idle), case(16, *busy), case(40, *queue), case(None)]
    written = tmp_path / "query.test.yaml"
    written.write_text(yaml.safe_dump({"tests": tests}))
    promtool("test", "rules", written)
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert trigger["metadata"]["threshold"] == "8"
