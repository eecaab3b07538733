"""The ASGI application: routes, middleware, and what lives as long as the process."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from anyio import CapacityLimiter
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shim.context import PATH_CHARS, RequestContext, State, answer_error
from shim.edits import edit_images, generate_images
from shim.errors import ModelNotFound, ShimError
from shim.guards.auth import authorize
from shim.guards.body_limit import BodyLimit
from shim.guards.cors import cors
from shim.guards.deadline import BodyDeadline
from shim.guards.flood import Flood
from shim.guards.internal_errors import InternalErrors
from shim.guards.keys import Keys
from shim.guards.origin import SameOrigin
from shim.guards.tidy_path import TidyPath
from shim.health import VERSION, health, ready
from shim.limits import BODIES_IN_FLIGHT, SPOOLED_BODIES
from shim.metrics import Metrics
from shim.openapi.description import describe
from shim.page import page_routes
from shim.reading.spool import Spool
from shim.running.abilities import Abilities, Told
from shim.running.drain import Drain, WaitedFor
from shim.running.readiness import Readiness
from shim.running.services import Services
from shim.running.triton import Triton
from shim.settings import Settings

EDIT_PATHS, GENERATION_PATHS = (
    (f"/v1/images/{what}", f"/images/{what}", f"/openai/deployments/{{model}}/images/{what}")
    for what in ("edits", "generations")
)


def create_app(settings: Settings, drain: Drain | None = None) -> Starlette:
    """`drain` is shared with whoever stops the server. Raises SettingsError where API_KEY_FILE cannot be used."""
    drain = drain or Drain(settings.drains_for)
    keys = Keys(settings.api_key, settings.api_key_file)
    metrics = Metrics()
    metrics.build.labels(VERSION).set(1)
    app = Starlette(
        routes=[
            *page_routes(),
            Route("/health", health),
            Route("/ready", ready),
            Route("/metrics", serve_metrics),
            Route("/openapi.json", serve_description(settings)),
            Route("/v1/models", list_models),
            Route(_of_any_model("/v1/models/{model}"), tell_model),
            *_edit_routes(drain),
        ],
        middleware=_middleware(settings, metrics),
        exception_handlers={kind: answer_error for kind in (ShimError, HTTPException, ClientDisconnect)},
        lifespan=_lifespan(settings, drain, metrics, keys),
    )
    app.router.redirect_slashes = False
    return app


def _edit_routes(drain: Drain) -> Iterator[Route]:
    waited_for = [Middleware(WaitedFor, drain=drain)]
    for paths, endpoint in ((EDIT_PATHS, edit_images), (GENERATION_PATHS, generate_images)):
        for path in paths:
            yield Route(_of_any_model(path), endpoint, methods=["POST"], middleware=waited_for)


class AnyText(StringConvertor):
    """With slashes, written as they are or as %2F, and line ends: a model's name may have any."""

    regex = r"(?s:.+)"


register_url_convertor("text", AnyText())


def _of_any_model(path: str) -> str:
    return path.replace("{model}", "{model:text}")


def _middleware(settings: Settings, metrics: Metrics) -> list[Middleware]:
    """From the outside in."""
    return [
        Middleware(TidyPath),
        Middleware(RequestContext, metrics=metrics),
        *cors(settings.cors_origins),
        Middleware(InternalErrors),
        Middleware(ExceptionMiddleware, handlers={ShimError: answer_error}),
        Middleware(SameOrigin, settings=settings),
        Middleware(BodyDeadline, seconds=settings.body_timeout_seconds),
        Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
    ]


def _lifespan(
    settings: Settings, drain: Drain, metrics: Metrics, keys: Keys
) -> Callable[[Starlette], AbstractAsyncContextManager[dict[str, Any]]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        triton = Triton(settings.triton_url, settings.asked_health_url, BODIES_IN_FLIGHT * settings.max_body_bytes)
        try:
            yield {
                "services": Services(
                    settings=settings,
                    keys=keys,
                    model=triton,
                    readiness=Readiness(triton.servers),
                    told=Told(triton.about),
                    flood=Flood(),
                    spool=Spool(SPOOLED_BODIES * settings.max_body_bytes),
                    threads=CapacityLimiter(os.cpu_count() or 1),
                    metrics=metrics,
                ),
                "drain": drain,
                "started": int(time.time()),
            }
        finally:
            await triton.close()

    return lifespan


def serve_description(settings: Settings) -> Callable[[Request[State]], Awaitable[Response]]:
    @lru_cache(maxsize=4)
    def description(abilities: Abilities | None) -> dict[str, Any]:
        return describe(settings, EDIT_PATHS, GENERATION_PATHS, abilities)

    async def serve(request: Request[State]) -> Response:
        return JSONResponse(description(await request.state["services"].told.abilities()))

    return serve


async def list_models(request: Request[State]) -> Response:
    return JSONResponse({"object": "list", "data": await _models(request)})


async def tell_model(request: Request[State]) -> Response:
    models, asked = await _models(request), request.path_params["model"]
    found = next((model for model in models if model["id"] == asked), None)
    if found is None:
        names = ", ".join(repr(model["id"]) for model in models)
        raise ModelNotFound(f"There is no model {asked[:PATH_CHARS]!r} here, only {names}", param="model")
    return JSONResponse(found)


async def _models(request: Request[State]) -> list[dict[str, object]]:
    """The loaded one, and this with each of its adapters. What it can is left out as long as it has not said so."""
    services = request.state["services"]
    request.state["key"] = authorize(request.headers, services.keys.accepted())
    abilities = await services.told.abilities()
    model = {
        "id": services.settings.served_model, "object": "model", "created": request.state["started"], "owned_by": "qwen"
    }  # fmt: skip
    if abilities is None:
        return [model]
    model |= asdict(abilities)
    return [model, *(model | {"id": f"{model['id']}:{name}"} for name in abilities.lora)]


async def serve_metrics(request: Request[State]) -> Response:
    return request.state["services"].metrics.response()
