"""Strategies for what is no request, or a request that no client of ours sends."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.faults.calls import Call, Raw

PATHS = (
    *(
        "/",
        "/v1/images/edits/",
        "//",
        "/%00",
        "/%ff%fe",
        "/v1/images/edits?" + "a=b&" * 5000,
        "*",
        "/..%2f..%2fetc/passwd",
    ),
    *("http://x/v1/images/edits", "/openai/deployments//images/edits", "/openai/deployments/%0d%0a/images/edits"),
    *("/v1/images/edits", "/images/edits", "/health", "/ready", "/v1/models", "/metrics", "/" + "a" * 70_000),
)
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "X" * 1000, "")
LINES = (
    *(b"host: x", b"host: y", b"content-length: 5", b"content-length: -1", b"content-length: 99999999999999999999"),
    *(
        b"content-length: 5, 5",
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked",
        b"expect: 100-continue",
    ),
    *(
        b"connection: close",
        b"connection: upgrade",
        b"upgrade: websocket",
        b"upgrade: h2c",
        b"no colon",
        b": x",
        b" folded",
    ),
    *(
        b"x: " + b"y" * 70_000,
        b"\xff: \xff",
        b"x: \0",
        b"content-type: multipart/form-data; boundary=b",
        b"te: trailers",
    ),
    *(b"content-type: application/json", b"authorization: Basic !!!", b"range: bytes=0-", b"accept-encoding: \x7f"),
    *(b"x-request-id: \xff" + b"z" * 1000, b"cookie: " + b"a=b; " * 1000, b"origin: null", b"forwarded: for=x"),
)
BODIES = (
    *(
        b"",
        b"hello",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"zz\r\n",
        b"5;x=" + b"y" * 70_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
    ),
    *(
        b"1\r\nx\r\n" * 2000 + b"0\r\n\r\n",
        b"0\r\ntrailer: x\r\n\r\n",
        b"ffffffffffffffffffff\r\n",
        b"{}",
        b"GET / HTTP/1.1",
    ),
    *(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * 20, b"\0" * 1000, b"5\nhello\n0\n\n", b"--b\r\n\r\n"),
)
VERSIONS = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTP", "")


@st.composite
def bad_http(draw: st.DrawFn) -> Call:
    line = " ".join(draw(st.sampled_from(options)) for options in (METHODS, PATHS, VERSIONS))
    lines = draw(st.lists(st.sampled_from(LINES), max_size=6))
    head = b"\r\n".join([line.encode("latin-1"), b"host: a", *lines, b"", b""])
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(st.sampled_from((b"\0", b"\r", b"\n", b"\xff" * 9, b" "))) + head[at:]
    if draw(st.integers(0, 9)) == 0:
        head = head[: draw(st.integers(0, len(head)))]
    return Raw("http", (head, draw(st.sampled_from(BODIES))))
