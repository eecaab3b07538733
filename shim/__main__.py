"""Serves the HTTP shim: `python -m shim`, configured by the environment."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn

from shim.app import create_app
from shim.guards.descriptors import ACCEPTED_AT_ONCE, OnceAWhile, raise_file_limit
from shim.guards.forwarded import TrustedProxies
from shim.guards.protocol import BoundedProtocol
from shim.log import configure_logging, logger
from shim.running.drain import Drain
from shim.settings import Settings
from shim.settings_grammar import SettingsError

# Longer than balancers keep idle connections, Google's for 600 s: so none is closed while a request is on its way.
KEEP_ALIVE_SECONDS = 620
BACKLOG = 2048  # connections that wait to be accepted
CLOSE_SECONDS = 5  # for the last answers to reach their clients once draining is over

OPEN = "HOST=%s without API_KEY: everybody who reaches port %d may edit. Set API_KEY, or let only this machine reach it"


class DrainingServer(uvicorn.Server):
    """SIGTERM first turns /ready to 503 and lets the edits in flight finish; a second one, or Ctrl-C, stops at once."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self.drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in (each for server in self.servers for each in server.sockets):
            with listening.dup() as same:
                same.listen(BACKLOG)  # asyncio accepts as many at once as it lets wait

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and not self.drain.started:
            self.drain.start()
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or self.drain.finished()


def main() -> int:
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    configure_logging(settings)
    if settings.is_open:
        logger.warning(OPEN, settings.host, settings.port)
    logging.getLogger("asyncio").addFilter(OnceAWhile("socket.accept() out of system resource"))
    raise_file_limit()
    drain = Drain(settings.drains_for)
    try:
        app: Callable[..., Awaitable[None]] = create_app(settings, drain)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        proxy_headers=False,  # TrustedProxies stands in its place
        host=settings.host,
        port=settings.port,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    config.app = TrustedProxies(app, settings.forwarded_allow_ips)
    DrainingServer(config, drain).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
