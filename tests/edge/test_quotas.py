"""The gateway of docs/quotas.md, as it stands there, in front of a server that answers when it is told to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.kit.in_process import wait_until
from tests.kit.servers import PROJECT, Server, environment, free_ports, run

DOCUMENT = (PROJECT / "docs" / "quotas.md").read_text()
EDITS = "/v1/images/edits"


class Upstream(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.held = threading.Semaphore(0)
        self.go = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        self.server.held.release()
        self.server.go.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.go.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def edge(upstream: Upstream, program: Callable[[str], str], tmp_path: Path) -> Iterator[Server]:
    """With five for the key `large`."""
    (configuration,) = re.findall(r"```haproxy\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "edge.cfg").write_text(configuration)
    limits = tmp_path / "limits.map"
    limits.write_text(f"{hashlib.sha256(b'large').hexdigest().upper()} 5\n")
    (port,) = free_ports(1)
    env = environment(EDGE_ADDRESS=f"127.0.0.1:{port}", LIMITS=str(limits), SHIM=f"127.0.0.1:{upstream.server_port}")
    with run([program("haproxy"), "-db", "-f", str(tmp_path / "edge.cfg")], env, port) as server:
        server.wait_for(lambda: listens(server.url))
        yield server


def listens(url: str) -> bool:
    try:
        requests.post(f"{url}/nothing", timeout=0.05)
    except requests.ConnectionError:
        return False
    except requests.Timeout:
        pass
    return True


def test_a_key_has_as_many_edits_under_way_as_it_may_and_others_are_not_touched(
    edge: Server, upstream: Upstream
) -> None:
    def post(key: str) -> requests.Response:
        return requests.post(f"{edge.url}{EDITS}", headers={"authorization": f"Bearer {key}"}, timeout=30)

    with ThreadPoolExecutor(12) as pool:
        held = upstream.held
        while held.acquire(timeout=0.2):  # what the fixture has asked
            pass
        asked = {key: [pool.submit(post, key) for _ in range(count)] for key, count in (("small", 4), ("large", 6))}
        for _ in range(2 + 5):
            assert held.acquire(timeout=20)
        third = pool.submit(post, "third")
        assert held.acquire(timeout=20)
        upstream.go.set()
        answers = {key: [future.result() for future in futures] for key, futures in asked.items()}
        assert third.result().status_code == 200
    statuses = {key: sorted(answer.status_code for answer in each) for key, each in answers.items()}
    assert statuses == {"small": [200, 200, 429, 429], "large": [200] * 5 + [429]}
    for answer in (each for some in answers.values() for each in some if each.status_code == 429):
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


WAYS: list[tuple[str, dict[str, str]]] = [
    (EDITS, {"authorization": "Bearer small"}),
    (f"{EDITS}/", {"authorization": "bearer small"}),
    ("//v1/images//edits", {"api-key": "small"}),
    ("/v1/images/edit%73", {"authorization": f"Basic {base64.b64encode(b'anybody:small').decode()}"}),
    ("/openai/deployments/a/images/generations", {"authorization": f"BASIC {base64.b64encode(b'b:small').decode()}"}),
]


def test_a_key_is_counted_however_it_and_the_path_are_written(edge: Server, upstream: Upstream) -> None:
    def post(path: str, headers: dict[str, str]) -> int:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", edge.port, timeout=30)) as connection:
            connection.request("POST", path, headers=headers)
            return connection.getresponse().status

    with ThreadPoolExecutor(len(WAYS)) as pool:
        asked = [pool.submit(post, *way) for way in WAYS]
        wait_until(lambda: sum(future.done() for future in asked) == len(WAYS) - 2)
        upstream.go.set()
        assert sorted(future.result() for future in asked) == [200, 200, 429, 429, 429]


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong", "api-key": "small"},
        {"authorization": "Bearer  small"},
        {"authorization": "Bearer \tsmall"},
    ],
    ids=str,
)
def test_what_could_be_read_as_another_key_is_refused(edge: Server, headers: dict[str, str]) -> None:
    assert requests.post(f"{edge.url}{EDITS}", headers=headers, timeout=30).status_code == 400
