"""Is this process alive, and is there a model behind it."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from shim.context import State
from shim.errors import ModelNotReady, error_response

VERSION = "2.1.0"  # of everything in this repository: pyproject.toml reads it here


async def health(request: Request[State]) -> Response:
    return JSONResponse({"status": "healthy", "timestamp": _timestamp(), "version": VERSION})


async def ready(request: Request[State]) -> Response:
    if request.state["drain"].started:
        return error_response(ModelNotReady("The server is shutting down"), "classic")
    if not await request.state["services"].readiness.is_ready():
        return error_response(ModelNotReady("Model is not ready yet"), "classic")
    return JSONResponse({"status": "ready", "model_loaded": True, "timestamp": _timestamp()})


def _timestamp() -> str:
    """UTC without an offset, the classic service's shape."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
