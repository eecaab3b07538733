"""What every request has, whatever becomes of it: an id, a dialect, a count, and an answer."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any, NotRequired, TypedDict

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.dialect import Dialect, dialect_of
from shim.errors import ANSWERS, ClientGone, NotFound, ShimError, as_shim_error, error_response
from shim.log import logger, one_line
from shim.metrics import Metrics
from shim.running.drain import Drain
from shim.running.services import Services

PATH_CHARS = 200  # of a request's that the log keeps
METHOD_CHARS = 20  # likewise
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class State(TypedDict):
    services: Services
    drain: Drain
    started: int  # Unix time
    request_id: str
    body_bytes: int
    dialect: NotRequired[Dialect]  # see dialect.py
    key: NotRequired[str]  # its name
    stream: NotRequired[bool]
    ended: NotRequired[int]  # status; of a stream that fails once it has begun, its error's


class RequestContext:
    """Outermost, so that preflights and errors have an id too."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(headers)
        state["body_bytes"] = 0

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                told = MutableHeaders(scope=message)
                told["x-request-id"] = state["request_id"]
                if "drain" in state and state["drain"].started:
                    told["connection"] = "close"  # the next request is another server's
                state.setdefault("ended", message["status"])
                self._count(scope, message["status"])
            await send(message)

        started = time.monotonic()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._time(scope, time.monotonic() - started)

    def _time(self, scope: Scope, seconds: float) -> None:
        state = scope["state"]
        labels = _route(scope), state.get("ended", ANSWERS[ClientGone].status), str(state.get("stream", False)).lower()
        self.metrics.request_seconds.labels(*labels).observe(seconds)

    def _count(self, scope: Scope, status: int) -> None:
        self.metrics.requests.labels(_route(scope), dialect_of(scope), status, scope["state"].get("key", "")).inc()
        self.metrics.body_bytes.inc(scope["state"]["body_bytes"])


def _route(scope: Scope) -> str:
    return scope["route"].path.replace(":text}", "}") if "route" in scope else "none"


async def answer_error(request: Request[Any], raised: Exception) -> Response:
    error = as_shim_error(raised)
    if isinstance(error, NotFound):
        error.message = (
            f"{request.method[:METHOD_CHARS]} {one_line(request.scope['path'][:PATH_CHARS])}: {error.message}"
        )
    log_error(request, error)
    if isinstance(error, ClientGone):
        return Response(status_code=ANSWERS[ClientGone].status)
    # Of who asks for a path that does not exist, OpenAI's clients are the likelier.
    return error_response(error, "openai" if isinstance(error, NotFound) else dialect_of(request.scope))


def log_error(request: Request[Any], error: ShimError) -> None:
    """It is also what the request ended with, whatever status a stream began with."""
    answer = ANSWERS[type(error)]
    request.state["ended"] = answer.status
    logger.log(
        logging.ERROR if answer.status >= 500 else logging.INFO,
        "%s %s: %d %s: %s",
        request.method[:METHOD_CHARS],
        one_line(request.scope["path"][:PATH_CHARS]),
        answer.status,
        answer.code,
        one_line(error.message),
        extra={"fields": log_fields(request, status=answer.status)},
    )


def log_fields(request: Request[State], **more: Any) -> dict[str, Any]:
    key = request.scope["state"].get("key")
    named = {"key": key} if key else {}
    return {"request_id": request.state["request_id"], "dialect": dialect_of(request.scope), **named, **more}


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
