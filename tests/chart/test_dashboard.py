"""The dashboard's queries, asked of a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.kit.chart import CHART, Manifest, one
from tests.kit.cluster import Dns, rendered_balancer
from tests.kit.servers import Server, environment, free_ports, run, serve_shim

DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SCRAPE_SECONDS = 1


@pytest.fixture(scope="module")
def prometheus(
    stack: Server,
    everything: list[Manifest],
    tool: Callable[..., Path],
    photo: Callable[[str], bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Its address, once an edit was made behind the chart's balancer between two of its scrapes."""
    folder = tmp_path_factory.mktemp("prometheus")
    dns = Dns()
    dns.addresses = ["127.0.0.1"]
    at = {"triton_port": stack.triton_http_port, "health_port": stack.supervisor_port}
    with (
        rendered_balancer(everything, dns, folder, **at) as balancer,
        serve_shim(balancer.url, HEALTH_URL=f"{balancer.url}/healthz") as shim,
    ):
        targets = [stack.triton_metrics_port, shim.port, balancer.balancer_port]
        scraped = [{"targets": [f"127.0.0.1:{port}" for port in targets]}]
        configuration = {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [{"job_name": "qwen", "static_configs": scraped}],
            "rule_files": [str(CHART / "files" / "alerts.yaml")],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        (port,) = free_ports(1)
        command = [
            tool("prometheus", "usr", "bin", "prometheus"), f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        with run([str(word) for word in command], environment(), port) as server:
            server.wait_ready(path="/-/ready")
            edit(shim, photo("cat"))
            server.wait_for(lambda: len(asked(server.url, "shim_edit_seconds_count")) > 0)
            edit(shim, photo("cat"))
            server.wait_for(lambda: sum(asked(server.url, "increase(shim_edit_seconds_count[1m])")) > 0)
            # A rate needs two samples, and each target is scraped at a moment of its own.
            twice = "count(count_over_time(qwen_edit_edits_total[1m]) >= 2)"
            server.wait_for(lambda: len(asked(server.url, twice)) > 0)
            yield server.url
    dns.close()


def edit(shim: Server, picture: bytes) -> None:
    fields = {"prompt": "make it blue", "size": "64x64"}
    answer = requests.post(f"{shim.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=60)
    assert answer.status_code == 200


def asked(url: str, query: str) -> list[float]:
    answer: dict[str, Any] = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
    assert answer["status"] == "success", answer
    return [float(series["value"][1]) for series in answer["data"]["result"]]


def test_every_panels_query_has_data(prometheus: str) -> None:
    empty = [query for query in QUERIES if not asked(prometheus, query.replace("$__rate_interval", "1m"))]
    assert empty == []


def test_no_alert_fires_at_a_healthy_server_and_none_is_an_error(prometheus: str) -> None:
    groups = requests.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 8
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] == "err"} == {}
    assert asked(prometheus, 'ALERTS{alertstate="firing"}') == []


def test_our_labels_keep_their_names(prometheus: str) -> None:
    series = requests.get(f"{prometheus}/api/v1/series", params={"match[]": '{__name__=~"qwen_edit_.*"}'}, timeout=10)
    labels = [each for each in series.json()["data"]]
    assert {each["engine"] for each in labels} == {"qwen_image_edit_0_0"}
    assert not any(name.startswith("exported_") for each in labels for name in each)


def test_the_panels_do_not_overlap_and_the_chart_carries_the_file(everything: list[Manifest]) -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    carried = one(everything, "ConfigMap", "dashboard")["data"]["qwen-image-edit.json"]
    assert json.loads(carried) == DASHBOARD
    assert not [query for query in QUERIES if re.search(r"\[\d", query)]
