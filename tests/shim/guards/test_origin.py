"""Whose web pages may use the server, and by which names it may be called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from shim.guards.forwarded import TrustedProxies

Serve = Callable[..., TestClient]
EDITS = "/v1/images/edits"
KEY = "secret"
SDK = {"api-key": KEY}
PROXY, STRANGER = "10.0.0.1", "10.0.0.2"

OWN_NAMES = [
    *("127.0.0.1", "127.0.0.1:8000", "10.1.2.3:8000", "203.0.113.7", "[::1]:8000", "[2001:db8::1]", "[::ffff:1.2.3.4]"),
    *("localhost", "localhost:8000", "LocalHost:8000", "app.localhost:8000", "shim", "qwen_shim:8000", "gpu-box:8000"),
    *("shim.prod.svc", "shim.prod.svc.cluster.local:8000", "shim.prod.svc.cluster.local.:8000", "gpu-box.local"),
    *("host.docker.internal:8000", "ip-10-0-0-1.eu.compute.internal"),
]
STRANGE_NAMES = [
    *("evil.example", "evil.example:8000", "EVIL.example:8000", "evil.example.:8000", "localhost.evil.example"),
    *("127.0.0.1.evil.example:8000", "evil.example:80:80", "127.0.0.1:8000.evil.example", "svc.evil.example"),
    *("evillocal.example", "x.notinternal", "local.example:8000", "[::1].evil.example", "shim.prod", "999.1.1.1"),
]


def refusal(answer: Any) -> str:
    """The message of a 403, in OpenAI's shape where the path is OpenAI's alone, else in the classic one."""
    assert answer.status_code == 403, answer.text
    told = answer.json()
    if answer.request.url.path == "/v1/models":
        assert told["error"]["code"] == "FORBIDDEN"
        return str(told["error"]["message"])
    assert set(told) == {"error", "message"}
    assert told["error"] == "FORBIDDEN"
    return str(told["message"])


def behind(client: TestClient, peer: str) -> TestClient:
    """The same application, as a process serves it that trusts PROXY, to whoever comes from `peer`."""
    app: Any = client.app
    served: Any = TrustedProxies(app, PROXY)
    return TestClient(served, client=(peer, 50_000))


@pytest.mark.parametrize("host", OWN_NAMES)
@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 200), ("GET", "/v1/models", 200), ("POST", EDITS, 400)]
)
def test_without_a_key_the_server_answers_to_names_that_are_its_networks_own(
    serve: Serve, host: str, method: str, path: str, status: int
) -> None:
    assert serve().request(method, path, headers={"host": host}).status_code == status


@pytest.mark.parametrize("host", STRANGE_NAMES)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/static/app.js"), ("GET", "/v1/models"), ("POST", EDITS)]
)
def test_without_a_key_a_name_that_anybody_may_own_is_refused_and_its_cure_named(
    client: TestClient, host: str, method: str, path: str
) -> None:
    origin = {"origin": f"http://{host.lower()}"}  # that of a page whose name was bound to this machine
    said = refusal(client.request(method, path, headers={"host": host, **origin}))
    assert said.startswith(f"Host {host.lower()!r}: ")
    assert "ALLOWED_HOSTS" in said


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_a_probe_is_answered_by_any_name(client: TestClient, path: str) -> None:
    assert client.get(path, headers={"host": "evil.example"}).status_code != 403


@pytest.mark.parametrize("host", ["edits.example.org", "Edits.Example.org:8443", "edits.example.org.", "other.example"])
def test_a_name_that_is_allowed_is_answered_at_any_port(serve: Serve, host: str) -> None:
    client = serve(ALLOWED_HOSTS="EDITS.example.org, other.example")
    assert client.get("/v1/models", headers={"host": host}).status_code == 200
    refusal(client.get("/v1/models", headers={"host": f"not.{host}"}))


def test_the_name_that_the_shim_listens_on_is_allowed(serve: Serve) -> None:
    assert serve(HOST="GPU.example.org").get("/", headers={"host": "gpu.example.org:8000"}).status_code == 200


@pytest.mark.parametrize("host", STRANGE_NAMES)
def test_with_a_key_any_name_is_answered(serve: Serve, host: str) -> None:
    assert serve(API_KEY=KEY).get("/v1/models", headers={"host": host, **SDK}).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://localhost:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("Edits.example.org", "https://edits.example.org"),
        ("edits.example.org:443", "https://edits.example.org"),
        ("edits.example.org:80", "http://edits.example.org"),
        ("edits.example.org", "https://edits.example.org:443"),
        ("edits.example.org:8443", "https://edits.example.org:8443"),
    ],
)
@pytest.mark.parametrize("key", ["", KEY], ids=["open", "key"])
def test_the_servers_own_page_may_edit(serve: Serve, host: str, origin: str, key: str) -> None:
    client = serve(API_KEY=key, ALLOWED_HOSTS="edits.example.org")
    assert client.post(EDITS, headers={"host": host, "origin": origin, **SDK}).status_code == 400


FOREIGN = [
    ("127.0.0.1:8000", "https://evil.example"),
    ("127.0.0.1:8000", "http://127.0.0.1:3000"),
    ("127.0.0.1:8000", "http://127.0.0.1"),
    ("127.0.0.1:8000", "http://localhost:8000"),
    ("127.0.0.1:8000", "http://127.0.0.1:8000.evil.example"),
    ("localhost", "http://localhost:443"),
    ("localhost", "https://localhost:80"),
    ("localhost", "chrome-extension://localhost"),
    ("localhost", "file://"),
    ("localhost", "localhost"),
    ("localhost", "null"),
    ("null", "null"),
    ("", "null"),
    ("localhost", ""),
    ("localhost", "http://[::1"),
]


@pytest.mark.parametrize(("host", "origin"), FOREIGN)
@pytest.mark.parametrize("key", ["", KEY], ids=["open", "key"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_foreign_page_changes_nothing(serve: Serve, host: str, origin: str, key: str, method: str) -> None:
    answer = serve(API_KEY=key).request(method, EDITS, headers={"host": host, "origin": origin})
    said = refusal(answer)
    assert said.startswith(f"Origin {origin!r}: ")
    assert "CORS_ORIGINS" in said
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-request-id"]


def test_a_refusal_has_openais_shape_for_its_sdks(client: TestClient) -> None:
    answer = client.post(EDITS, headers={"origin": "null", "x-stainless-lang": "js"})
    assert answer.status_code == 403
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert (answer.json()["error"]["type"], answer.json()["error"]["code"]) == ("permission_error", "FORBIDDEN")


def test_a_refusal_is_one_line_of_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "image_edit_server")
    client.post(EDITS, headers={"origin": "https://evil.example"})
    client.get("/", headers={"host": "evil.example"})
    lines = [(each.levelname, each.getMessage()) for each in caplog.records if each.name == "image_edit_server"]
    assert [level for level, _ in lines] == ["INFO", "INFO"]
    assert lines[0][1].startswith(f"POST {EDITS}: 403 FORBIDDEN: Origin 'https://evil.example': ")
    assert lines[1][1].startswith("GET /: 403 FORBIDDEN: Host 'evil.example': ")


def test_a_foreign_page_is_refused_before_its_body_is_read(client: TestClient) -> None:
    form: dict[str, Any] = {"data": {"prompt": "x"}, "files": {"images": b"x"}}
    refusal(client.post(EDITS, headers={"origin": "https://evil.example"}, **form))
    assert "shim_request_body_bytes_total 0.0" in client.get("/metrics").text
    assert client.post(EDITS, **form).status_code == 400
    assert "shim_request_body_bytes_total 0.0" not in client.get("/metrics").text


@pytest.mark.parametrize("origin", ["null", "https://evil.example"])
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/v1/models", "/openapi.json"])
def test_a_foreign_page_may_link_to_what_changes_nothing(client: TestClient, path: str, origin: str) -> None:
    answer = client.get(path, headers={"origin": origin, "referer": "https://evil.example/"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("key", ["", KEY], ids=["open", "key"])
def test_what_is_no_browser_may_edit(serve: Serve, key: str) -> None:
    assert serve(API_KEY=key).post(EDITS, headers=SDK).status_code == 400


def test_pages_of_cors_origins_may_edit_and_no_others(serve: Serve) -> None:
    client = serve(CORS_ORIGINS="https://a.example,chrome-extension://abc")
    for origin in ("https://a.example", "chrome-extension://abc"):
        asked = {"origin": origin, "access-control-request-method": "POST"}
        assert client.options(EDITS, headers=asked).headers["access-control-allow-origin"] == origin
        answer = client.post(EDITS, headers={"origin": origin})
        assert answer.status_code == 400
        assert answer.headers["access-control-allow-origin"] == origin
    for origin in ("http://a.example", "https://a.example:8443", "https://b.a.example", "null"):
        refusal(client.post(EDITS, headers={"origin": origin}))


def test_pages_of_cors_origins_can_read_that_the_host_is_refused(serve: Serve) -> None:
    answer = serve(CORS_ORIGINS="https://a.example").post(
        EDITS, headers={"origin": "https://a.example", "host": "evil.example"}
    )
    assert "ALLOWED_HOSTS" in refusal(answer)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize("origin", ["null", "https://anything.example"])
def test_every_page_may_edit_where_cors_origins_is_a_star(serve: Serve, origin: str) -> None:
    assert serve(CORS_ORIGINS="*").post(EDITS, headers={"origin": origin}).status_code == 400


@pytest.mark.parametrize(
    "forwarded", ["edits.example.org", "Edits.Example.org:443", "other.example, edits.example.org"]
)
@pytest.mark.parametrize(("peer", "status"), [(PROXY, 400), (STRANGER, 403)], ids=["trusted", "stranger"])
def test_a_trusted_proxys_word_counts_for_the_page(serve: Serve, forwarded: str, peer: str, status: int) -> None:
    headers = {"host": "127.0.0.1:8000", "origin": "https://edits.example.org", "x-forwarded-host": forwarded, **SDK}
    with behind(serve(API_KEY=KEY), peer) as client:
        assert client.post(EDITS, headers=headers).status_code == status


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_the_name_that_the_proxy_was_called_by_has_to_be_allowed_as_well(serve: Serve, peer: str) -> None:
    called = {"host": "127.0.0.1:8000", "x-forwarded-host": "edits.example.org"}
    assert behind(serve(ALLOWED_HOSTS="edits.example.org"), peer).get("/", headers=called).status_code == 200
    status = behind(serve(), peer).get("/", headers=called).status_code
    assert status == (403 if peer == PROXY else 200)


@pytest.mark.parametrize("peer", [PROXY, STRANGER])
def test_no_forwarded_name_makes_a_strange_one_allowed(serve: Serve, peer: str) -> None:
    """A page whose name was bound to this machine may send what headers it likes."""
    headers = {"host": "evil.example", "x-forwarded-host": "localhost", "origin": "http://evil.example"}
    assert "Host 'evil.example'" in refusal(behind(serve(), peer).post(EDITS, headers=headers))


def test_a_long_name_is_cut(client: TestClient) -> None:
    assert len(refusal(client.get("/", headers={"host": "x." * 10_000 + "example"}))) < 600
    assert len(refusal(client.post(EDITS, headers={"origin": "x" * 10_000, "host": "y" * 10_000}))) < 800
