"""Everything that can be answered instead of an edit.

ShimError
├── InvalidInput         a field or the body is not what the contract allows
├── Unauthorized
├── Forbidden            a foreign web page, or a host name that is not the server's
├── NotFound
├── ModelNotFound        the path names another model than the one that is served
├── MethodNotAllowed
├── BodyTimeout          the body came too slowly
├── PayloadTooLarge
├── UnsupportedMediaType the body is compressed
├── QueueFull            the engine refused a new edit
├── ModelNotReady        Triton is away, loading, or broke off; or there is no room for the upload
├── GenerationTimeout
├── GenerationError      the model failed
├── InternalError        a bug of ours
└── ClientGone           nobody is left to read the answer
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from shim.dialect import Dialect


class ShimError(Exception):
    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = dict(headers or {})


class InvalidInput(ShimError): ...


class Unauthorized(ShimError): ...


class Forbidden(ShimError): ...


class NotFound(ShimError): ...


class ModelNotFound(ShimError): ...


class MethodNotAllowed(ShimError): ...


class BodyTimeout(ShimError): ...


class PayloadTooLarge(ShimError): ...


class UnsupportedMediaType(ShimError): ...


class QueueFull(ShimError): ...


class ModelNotReady(ShimError): ...


class GenerationTimeout(ShimError): ...


class GenerationError(ShimError): ...


class InternalError(ShimError): ...


class ClientGone(ShimError): ...


@dataclass(frozen=True)
class Answer:
    status: int
    code: str
    type: str  # OpenAI's `error.type`
    headers: Mapping[str, str] = field(default_factory=dict)


# Retry-After stays within 1..60 seconds, where all SDKs obey it; they repeat a 5xx unless `x-should-retry` is false.
SPREAD_UP_TO = 40  # seconds: what is more is told as this, so that there is a spread below the 60 too
ANSWERS: dict[type[ShimError], Answer] = {
    InvalidInput: Answer(400, "INVALID_INPUT", "invalid_request_error"),
    Unauthorized: Answer(
        401,
        "UNAUTHORIZED",
        "authentication_error",
        {"www-authenticate": 'Basic realm="image-edit", charset="UTF-8"'},
    ),
    Forbidden: Answer(403, "FORBIDDEN", "permission_error"),
    NotFound: Answer(404, "NOT_FOUND", "not_found_error"),
    ModelNotFound: Answer(404, "model_not_found", "invalid_request_error"),  # OpenAI's own code
    MethodNotAllowed: Answer(405, "METHOD_NOT_ALLOWED", "invalid_request_error"),
    BodyTimeout: Answer(408, "BODY_TIMEOUT", "invalid_request_error", {"x-should-retry": "false"}),
    PayloadTooLarge: Answer(413, "PAYLOAD_TOO_LARGE", "invalid_request_error"),
    UnsupportedMediaType: Answer(415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request_error"),
    QueueFull: Answer(429, "QUEUE_FULL", "rate_limit_error", {"retry-after": "5"}),
    ClientGone: Answer(499, "CLIENT_GONE", "invalid_request_error"),
    GenerationError: Answer(500, "GENERATION_ERROR", "server_error", {"x-should-retry": "false"}),
    InternalError: Answer(500, "INTERNAL_ERROR", "server_error", {"x-should-retry": "false"}),
    ModelNotReady: Answer(503, "MODEL_NOT_READY", "server_error", {"retry-after": "5"}),
    GenerationTimeout: Answer(504, "GENERATION_TIMEOUT", "server_error", {"x-should-retry": "false"}),
}


def as_shim_error(error: Exception) -> ShimError:
    """The framework's own exceptions in our words; one that we do not know is a bug, and tells the client nothing."""
    match error:
        case ShimError():
            return error
        case ClientDisconnect():
            return ClientGone("The client closed the connection")
        case HTTPException(status_code=404):
            return NotFound("There is nothing at this path; pictures are edited by POST /v1/images/edits")
        case HTTPException(status_code=405):
            return MethodNotAllowed("This path does not take this method", headers=error.headers)
    return InternalError("Internal server error")


def error_body(error: ShimError, dialect: Dialect) -> dict[str, Any]:
    answer = ANSWERS[type(error)]
    if dialect == "classic":
        return {"error": answer.code, "message": error.message}
    return {"error": {"message": error.message, "type": answer.type, "param": error.param, "code": answer.code}}


def error_response(error: ShimError, dialect: Dialect) -> JSONResponse:
    answer = ANSWERS[type(error)]
    headers = {**answer.headers, **error.headers}
    if "retry-after" in headers:
        headers["retry-after"] = str(spread(int(headers["retry-after"])))
    return JSONResponse(error_body(error, dialect), answer.status, headers)


def spread(seconds: int) -> int:
    """As many or up to half as many more: those who were refused together do not come back together."""
    first = min(seconds, SPREAD_UP_TO)
    return random.randint(first, first + max(1, first // 2))
