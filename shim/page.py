"""The page at `/`: plain files, which a browser lets load nothing but each other."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from shim.context import State

FOLDER = Path(__file__).with_name("static")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked for each time, and answered 304: a new version is seen at once
}


class PageFiles(StaticFiles):
    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers.update(HEADERS)
        return response


def page_routes() -> list[BaseRoute]:
    files = PageFiles(directory=FOLDER)
    return [Route("/", serve_index(files)), Mount("/static", files)]


def serve_index(files: StaticFiles) -> Callable[[Request[State]], Awaitable[Response]]:
    async def serve(request: Request[State]) -> Response:
        return await files.get_response("index.html", request.scope)

    return serve
