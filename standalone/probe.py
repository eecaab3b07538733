"""Asks a process for a sign of life, on a thread of its own: one that hangs holds up nobody who watches it."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException

from standalone.clock import Clock

ASK_SECONDS = 0.5
ANSWER_SECONDS = 2.0
# Of one that is gone, of a stranger, or of one that ends in the middle of its answer.
NO_ANSWER = OSError, HTTPException, ValueError, LookupError
_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def nothing(body: bytes) -> None:
    """For whom the sign of life is enough."""


class Probe:
    """Any answer is a sign of life. `heard` gets a good one's body, and may find it to be none by NO_ANSWER."""

    def __init__(self, url: str, heard: Callable[[bytes], None] = nothing) -> None:
        self._url = url
        self._heard = heard
        self._clock = Clock()
        self._answered_at = self._clock.now()
        self.answered = False  # at any time
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def silence(self) -> float:
        """Seconds since the last answer, or the start, without those in which we were paused."""
        return self._clock.now() - self._answered_at

    def _run(self) -> None:
        while not self._ended.wait(ASK_SECONDS):
            try:
                self._ask()
            except NO_ANSWER:
                continue
            self._answered_at, self.answered = self._clock.now(), True

    def _ask(self) -> None:
        try:
            with _no_proxy.open(self._url, timeout=ANSWER_SECONDS) as answer:
                self._heard(answer.read())
        except urllib.error.HTTPError as error:
            error.close()


def answers_200(url: str) -> bool:
    try:
        with _no_proxy.open(url, timeout=ANSWER_SECONDS) as answer:
            return bool(answer.status == 200)
    except NO_ANSWER:
        return False
