"""What the application itself did not answer: a bug of ours, or a request that the server's stop cut off."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.dialect import dialect_of
from shim.errors import ModelNotReady, as_shim_error, error_response
from shim.log import logger


class InternalErrors:
    """Below CORS, so that a browser may read a 500; the exception ends here, as nobody above knows more."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def noting_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noting_start)
        except asyncio.CancelledError:  # only the server's stop cancels a request
            if started:
                raise
            error = ModelNotReady("The server is shutting down")
            await error_response(error, dialect_of(scope))(scope, receive, send)
        except Exception as error:
            logger.exception("Unhandled exception", extra={"fields": {"request_id": scope["state"]["request_id"]}})
            if started:
                raise
            await error_response(as_shim_error(error), dialect_of(scope))(scope, receive, send)
