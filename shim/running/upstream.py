"""What is known of the Tritons upstream, by the /healthz of a supervisor or of a balancer in front of several."""

from __future__ import annotations

import json

import aiohttp

READY_SECONDS = 2.0
MOST_SLOTS = 1024


class Upstream:
    """Open it inside the running event loop, close it there."""

    def __init__(self, health_url: str) -> None:
        self._health_url = health_url
        # Of its own, so that the edits in flight never keep the question waiting.
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=READY_SECONDS))
        self.names: list[str] = []  # of a balancer's servers, some of which may not be there

    def has_not(self, name: str) -> None:
        """Until it is asked again."""
        self.names = [each for each in self.names if each != name]

    async def close(self) -> None:
        await self._session.close()

    async def servers(self) -> int:
        """How many serve the model; Triton itself calls a dead worker's ready."""
        try:
            async with self._session.get(self._health_url) as response:
                if response.status != 200:
                    return 0
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return 0
        self.names = names_of(body)
        return servers_of(body)


def servers_of(health: bytes) -> int:
    """Of a balancer that counts them; who does not is one."""
    return max(1, _number(health, "servers"))


def names_of(health: bytes) -> list[str]:
    """Of a balancer that says how many it has a name for: it sends a call to the one that the call names."""
    return [f"triton-{number}" for number in range(1, 1 + min(_number(health, "slots"), MOST_SLOTS))]


def _number(health: bytes, name: str) -> int:
    """0 for none."""
    try:
        return int(json.loads(health)[name])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 0
