"""What the model behind this shim can, as it says itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from shim.settings import Settings

KNOWN_SECONDS = 10.0  # a server may come back with another checkpoint
UNKNOWN_SECONDS = 1.0  # without an answer it is asked again


@dataclass(frozen=True)
class Abilities:
    max_references: int  # of an edit
    generations: bool  # pictures of a prompt alone
    transparent_background: bool
    layers: int = 0  # most of a picture; 0: it edits pictures instead
    lora: tuple[str, ...] = ()  # names of the adapters that an edit may ask for


def within(settings: Settings, abilities: Abilities | None) -> Settings:
    """With the number of references that is taken in the end, as far as it is known."""
    if abilities is None:
        return settings
    return replace(settings, max_references=min(abilities.max_references, settings.most_references))


Ask = Callable[[], Awaitable[Abilities | None]]


def abilities_of(about: str | bytes) -> Abilities:
    """Raises ValueError, KeyError or TypeError for what is not the model's answer."""
    told = json.loads(about)
    least, most = (int(count) for count in told["references"])
    _, layers = told.get("layers", (0, 0))
    lora = tuple(str(name) for name in told.get("lora", ()))
    return Abilities(most, least == 0, bool(told["transparent"]), int(layers), lora)


class Told:
    """Asked for at most now and then, however many ask us; as long as nobody answers, what was said last holds."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._last: Abilities | None = None
        self._last_until = self._again_at = float("-inf")

    @property
    def known(self) -> Abilities | None:
        """Without asking; None where nothing was said lately."""
        return self._last if time.monotonic() < self._last_until else None

    async def abilities(self) -> Abilities | None:
        """None before the first answer."""
        async with self._lock:
            if time.monotonic() >= self._again_at:
                answer = await self._ask()
                now = time.monotonic()
                if answer:
                    self._last, self._last_until = answer, now + KNOWN_SECONDS
                self._again_at = now + (KNOWN_SECONDS if answer else UNKNOWN_SECONDS)
            return self._last
