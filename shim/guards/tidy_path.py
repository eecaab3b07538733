"""Paths as people write them: a base URL that ends in a slash makes two of one, or leaves one at the end."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

SLASHES = re.compile("/{2,}")


class TidyPath:
    """Outermost: guards and routes see the path that they know."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = SLASHES.sub("/", scope["path"])
            scope["path"] = path.rstrip("/") or "/"
        await self.app(scope, receive, send)
