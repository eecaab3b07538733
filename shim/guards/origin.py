"""Which web pages may use the server: its own, and those of CORS_ORIGINS.

A page may send a POST to any address without asking, and its name may be bound to this machine's address after it was
loaded (DNS rebinding): the browser then takes it for the server's own page. Where there is a key, such a page lacks it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from shim.errors import Forbidden
from shim.settings import Settings

PROBES = ("/health", "/ready", "/metrics")  # asked by whatever name a balancer or Prometheus has for this server
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # change nothing, and browsers keep the answer from a foreign page
# Reserved for private networks, so that nobody can register a name there; `.svc` ends Kubernetes' names of services
# before its `.cluster.local`, and no such top-level domain exists.
PRIVATE_ENDINGS = (".internal", ".local", ".localhost", ".svc")
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
SHOWN_CHARS = 255  # of a header in an error


class SameOrigin:
    """Raises Forbidden for a foreign page, and without a key for a host name that anybody may point at this machine."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.checks_hosts = not settings.has_keys
        self.allowed_hosts = {*settings.allowed_hosts, settings.host.lower()}
        self.allowed_origins = settings.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PROBES:
            headers = Headers(scope=scope)
            hosts = list(_hosts(headers))
            self._check_hosts(hosts)
            if scope["method"] not in SAFE_METHODS:
                self._check_origin(headers.get("origin"), hosts)
        await self.app(scope, receive, send)

    def _check_hosts(self, hosts: list[str]) -> None:
        for host in hosts if self.checks_hosts else ():
            name = _without_port(host)
            if name not in self.allowed_hosts and not _is_private(name):
                raise Forbidden(
                    f"Host {host[:SHOWN_CHARS]!r}: without API_KEY an IP address, a name without a dot, one that ends "
                    f"in {', '.join(PRIVATE_ENDINGS)}, or one in ALLOWED_HOSTS is allowed"
                )

    def _check_origin(self, origin: str | None, hosts: list[str]) -> None:
        """None is no browser's: curl, or an SDK."""
        if origin is None or origin in self.allowed_origins or "*" in self.allowed_origins:
            return
        if not any(_is_of(origin, host) for host in hosts):
            raise Forbidden(
                f"Origin {origin[:SHOWN_CHARS]!r}: that of this host, {' or '.join(hosts)[:SHOWN_CHARS]!r}, or one in "
                "CORS_ORIGINS is allowed"
            )


def _hosts(headers: Headers) -> Iterator[str]:
    """By which names the server was called: the request's own, and those that trusted proxies were called by."""
    yield headers.get("host", "").lower()
    for value in headers.getlist("x-forwarded-host"):
        yield from (host.strip().lower() for host in value.split(","))


def _is_of(origin: str, host: str) -> bool:
    """The scheme alone does not count: a proxy that ends TLS need not say so."""
    scheme, _, address = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and address.removesuffix(port) == host.removesuffix(port)


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).removesuffix(".")


def _is_private(name: str) -> bool:
    return "." not in name or name.endswith(PRIVATE_ENDINGS) or _is_address(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
