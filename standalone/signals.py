"""The signals that end us."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def on_end(note: Callable[[int, FrameType | None], None]) -> None:
    """`note` gets those that we were not started to ignore, as nohup starts what shall outlive its terminal."""
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, note)
