from __future__ import annotations

import json

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from shim import errors
from shim.dialect import Dialect
from shim.errors import ANSWERS, ShimError, as_shim_error, error_response

TABLE = [
    (errors.InvalidInput, 400, "INVALID_INPUT", "invalid_request_error"),
    (errors.Unauthorized, 401, "UNAUTHORIZED", "authentication_error"),
    (errors.Forbidden, 403, "FORBIDDEN", "permission_error"),
    (errors.NotFound, 404, "NOT_FOUND", "not_found_error"),
    (errors.ModelNotFound, 404, "model_not_found", "invalid_request_error"),
    (errors.MethodNotAllowed, 405, "METHOD_NOT_ALLOWED", "invalid_request_error"),
    (errors.BodyTimeout, 408, "BODY_TIMEOUT", "invalid_request_error"),
    (errors.PayloadTooLarge, 413, "PAYLOAD_TOO_LARGE", "invalid_request_error"),
    (errors.UnsupportedMediaType, 415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request_error"),
    (errors.QueueFull, 429, "QUEUE_FULL", "rate_limit_error"),
    (errors.GenerationError, 500, "GENERATION_ERROR", "server_error"),
    (errors.InternalError, 500, "INTERNAL_ERROR", "server_error"),
    (errors.ModelNotReady, 503, "MODEL_NOT_READY", "server_error"),
    (errors.GenerationTimeout, 504, "GENERATION_TIMEOUT", "server_error"),
]
SDK_RETRIES = (408, 409, 429, *range(500, 600))


@pytest.mark.parametrize(("kind", "status", "code", "openai_type"), TABLE, ids=[row[2] for row in TABLE])
def test_each_error_answers_in_both_dialects(kind: type[ShimError], status: int, code: str, openai_type: str) -> None:
    error = kind("what happened", param="size")
    classic, openai = error_response(error, "classic"), error_response(error, "openai")
    assert classic.status_code == openai.status_code == status
    assert json.loads(bytes(classic.body)) == {"error": code, "message": "what happened"}
    expected = {"message": "what happened", "type": openai_type, "param": "size", "code": code}
    assert json.loads(bytes(openai.body)) == {"error": expected}


def test_an_openai_error_has_all_four_keys_without_a_param() -> None:
    body = json.loads(bytes(error_response(errors.QueueFull("busy"), "openai").body))
    assert body["error"]["param"] is None
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_every_error_has_an_answer() -> None:
    assert set(ANSWERS) == set(ShimError.__subclasses__())


@pytest.mark.parametrize("kind", [errors.QueueFull, errors.ModelNotReady])
def test_what_may_be_tried_again_says_when(kind: type[ShimError]) -> None:
    assert 1 <= int(ANSWERS[kind].headers["retry-after"]) <= 60


@pytest.mark.parametrize(
    ("told", "low", "high"), [("1", 1, 2), ("5", 5, 7), ("39", 39, 58), ("40", 40, 60), ("60", 40, 60)]
)
def test_those_who_were_refused_together_do_not_come_back_together(told: str, low: int, high: int) -> None:
    error = errors.QueueFull("full", headers={"retry-after": told})
    waits = {int(error_response(error, "classic").headers["retry-after"]) for _ in range(1000)}
    assert (min(waits), max(waits)) == (low, high)


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_a_permanent_failure_is_never_retried_by_an_sdk(kind: type[ShimError]) -> None:
    answer = ANSWERS[kind]
    if answer.status in SDK_RETRIES and "retry-after" not in answer.headers:
        assert answer.headers["x-should-retry"] == "false"


def test_unauthorized_names_the_scheme() -> None:
    assert ANSWERS[errors.Unauthorized].headers["www-authenticate"].startswith('Basic realm="')


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (HTTPException(404), errors.NotFound),
        (HTTPException(405, headers={"Allow": "POST"}), errors.MethodNotAllowed),
        (ClientDisconnect(), errors.ClientGone),
        (errors.QueueFull("x"), errors.QueueFull),
        (ZeroDivisionError("/srv/secret/path"), errors.InternalError),
    ],
    ids=["404", "405", "disconnect", "ours", "bug"],
)
@pytest.mark.parametrize("dialect", ["classic", "openai"])
def test_foreign_exceptions_become_ours(raised: Exception, kind: type[ShimError], dialect: Dialect) -> None:
    error = as_shim_error(raised)
    assert type(error) is kind
    assert b"secret" not in bytes(error_response(error, dialect).body)


def test_the_frameworks_headers_are_kept() -> None:
    error = as_shim_error(HTTPException(405, headers={"Allow": "POST"}))
    assert error_response(error, "classic").headers["allow"] == "POST"
