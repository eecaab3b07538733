"""How much a request may carry: the constants, and the middleware that stops a large body while it streams."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shim.errors import PayloadTooLarge

HEADER_BYTES = 2**16  # of a request's head
MIN_BODY_RATE = 2**16  # bytes a second, once BODY_TIMEOUT_SECONDS have passed
MAX_BATCH_IMAGES = 16  # files named `images`
MAX_FILES = 64  # file parts of any name
MAX_FIELDS = 256  # text parts
MAX_TEXT_PART_BYTES = 2**20
MAX_TEXTS_BYTES = 2**22  # of all text parts but addresses: they are kept in memory
MAX_URL_CHARS = 20 * 2**20  # of one address, data: URLs included; OpenAI's own limit
SPOOL_BYTES = 2**20  # of one file in memory, the rest is on disk
MAX_FETCHED_BYTES = 50 * 10**6  # of one picture that is fetched; OpenAI's limit for uploaded ones
MAX_REDIRECTS = 3
FETCH_SECONDS = 20.0  # for one picture, redirects included
MAX_PROMPT_CHARS = 32_000
MIN_SIDE = 64  # pixels
MAX_ASPECT = 8  # longer side over shorter side of an input picture
MAX_SEED = 2**63 - 1
MAX_RANDOM_SEED = 2**32 - 1
BODYLESS = ("GET", "HEAD")  # methods of which no body is read
MAX_VARIANTS = 10  # the field `n`


class BodyLimit:
    """Reading a body that is too large raises: at once if Content-Length says so, else when the count is over."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope.get("method") in BODYLESS:
            return await self.app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")

        answered = False

        async def noting(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        async def limited() -> Message:
            if answered:
                return await receive()  # by a stream, to hear whether its client goes away
            self._check(int(declared) if declared.isdecimal() else 0)
            message = await receive()
            scope["state"]["body_bytes"] += len(message.get("body", b""))
            self._check(scope["state"]["body_bytes"])
            return message

        return await self.app(scope, limited, noting)

    def _check(self, size: int) -> None:
        if size > self.max_bytes:
            raise PayloadTooLarge(f"The request body is larger than {self.max_bytes} bytes")
