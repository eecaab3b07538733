"""Which browser pages may call: those of CORS_ORIGINS, with the headers that OpenAI's SDKs send."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

ALLOWED_HEADERS = (
    "authorization",
    "api-key",
    "content-type",
    "openai-organization",
    "openai-project",
    "user-agent",  # which browsers but Chromium let an SDK set
    "x-request-id",
    "x-stainless-arch",
    "x-stainless-async",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-raw-response",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)
EXPOSED_HEADERS = ("x-request-id", "retry-after", "x-should-retry")


def cors(origins: Sequence[str]) -> list[Middleware]:
    """Nothing where no origin is allowed."""
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            allow_private_network=True,
        )
    ]
