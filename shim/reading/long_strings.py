"""JSON without its long strings, for a parser to read.

A parser holds up every other thread until it is done, and lists of lists take it forty times their length in memory. A
body may have 100 MB, nearly all of it in a few strings; those are cut out before, and what is left must be small.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from shim.errors import InvalidInput

LONG_BYTES = 2**16
MAX_REST_BYTES = 2**21
MAX_QUOTES = 2**18


class LongStrings:
    """`rest` is the JSON with a word of our own in the place of each long string."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._token = secrets.token_hex(16)
        self._spans: dict[str, tuple[int, int]] = {}
        pieces = list(self._pieces())
        if sum(map(len, pieces)) > MAX_REST_BYTES:
            raise InvalidInput(f"The JSON body has more than {MAX_REST_BYTES} bytes beside its long strings")
        self.rest = b"".join(pieces)

    def original(self, field: str, value: str, max_bytes: int) -> str:
        """What the client sent in the place of a string of `rest`; only a long one can have too many bytes."""
        if value not in self._spans:
            return value
        start, end = self._spans[value]
        if end - start > max_bytes:
            raise InvalidInput(f"{field} has {end - start} bytes, at most {max_bytes} are allowed", param=field)
        raw = self._body[start:end]
        try:
            return str(json.loads(b'"%s"' % raw)) if b"\\" in raw else raw.decode()
        except ValueError as error:
            raise InvalidInput(f"{field} is not a JSON string in UTF-8", param=field) from error

    def _pieces(self) -> Iterator[memoryview | bytes]:
        body = memoryview(self._body)
        kept = 0  # how far the body has been yielded
        for start, end in self._strings():
            if end - start > LONG_BYTES:
                word = f"{self._token}:{len(self._spans)}"
                self._spans[word] = (start, end)
                yield body[kept:start]
                yield word.encode()
                kept = end
        yield body[kept:]

    def _strings(self) -> Iterator[tuple[int, int]]:
        """Where each string begins and ends, without its quotes."""
        start: int | None = None
        position = -1
        for _ in range(MAX_QUOTES):
            position = self._body.find(b'"', position + 1)
            if position < 0:
                return
            if start is None:
                start = position + 1
            elif not self._is_escaped(position):
                yield start, position
                start = None
        raise InvalidInput(f"The JSON body has more than {MAX_QUOTES} quotation marks")

    def _is_escaped(self, position: int) -> bool:
        first = position
        while self._body[first - 1] == ord("\\"):
            first -= 1
        return (position - first) % 2 == 1
