from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from shim.page import FOLDER

FILES = sorted(path.name for path in FOLDER.iterdir())
TYPES = {".html": "text/html", ".css": "text/css", ".js": r"(text|application)/javascript", ".svg": r"image/svg\+xml"}


@pytest.mark.parametrize("path", ["/", *(f"/static/{name}" for name in FILES)])
def test_every_file_of_the_page_needs_no_key_and_may_load_only_its_like(
    serve: Callable[..., TestClient], path: str
) -> None:
    client = serve(API_KEY="secret")
    response = client.get(path)
    assert response.status_code == 200
    assert re.match(TYPES["." + path.rpartition(".")[2] if "." in path else ".html"], response.headers["content-type"])
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.head(path).status_code == 200


def test_the_page_names_no_other_host_and_no_address_from_the_root() -> None:
    """A proxy may serve it under a prefix."""
    for name in FILES:
        text = (FOLDER / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|(?:src|href)=\"/|from \"/|url\(\"?/", text), name


@pytest.mark.parametrize(
    "path",
    ["/static", "/static/", "/static/nothing.js", "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/static/app.js"])
def test_the_page_is_only_read(client: TestClient, path: str) -> None:
    response = client.post(path)
    assert (response.status_code, response.json()["error"]) == (405, "METHOD_NOT_ALLOWED")
    assert {method.strip() for method in response.headers["allow"].split(",")} == {"GET", "HEAD"}
