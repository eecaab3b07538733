"""What a proxy says about the request that it passes on."""

from __future__ import annotations

from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class TrustedProxies(ProxyHeadersMiddleware):
    """uvicorn's, which also takes X-Forwarded-Host away unless a trusted proxy has sent it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not self._is_trusted(scope["client"]):
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"x-forwarded-host"]
        await super().__call__(scope, receive, send)

    def _is_trusted(self, peer: tuple[str, int] | None) -> bool:
        return (peer and peer[0]) in self.trusted_hosts
