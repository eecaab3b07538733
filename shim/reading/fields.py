"""One form field's text → one value. Every refusal names the field, its value and what is allowed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Never

from shim.errors import InvalidInput

SHOWN_CHARS = 80  # of a refused value

INTEGER = re.compile(r"([+-]?[0-9]{1,20})(\.0{0,20})?")
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
TRUE_WORDS = ("true", "1")
FALSE_WORDS = ("false", "0")


def refuse(name: str, value: str, allowed: str) -> Never:
    raise InvalidInput(f"{name} must be {allowed}, got {shown(value)}", param=name)


def shown(value: str) -> str:
    return repr(value) if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]!r}…"


def parse_integer(name: str, value: str, low: int, high: int) -> int:
    """`2` and `2.0` are integers, as form libraries of dynamic languages write both."""
    match = INTEGER.fullmatch(value)
    if not match or not low <= int(match[1]) <= high:
        refuse(name, value, f"an integer from {low} to {high}")
    return int(match[1])


def parse_number(name: str, value: str, low: float, high: float) -> float:
    parsed = float(value) if DECIMAL.fullmatch(value) else math.nan
    if not low <= parsed <= high:
        refuse(name, value, f"a number from {low:g} to {high:g}")
    return parsed


def parse_boolean(name: str, value: str) -> bool:
    word = value.lower()
    if word in TRUE_WORDS:
        return True
    if word in FALSE_WORDS:
        return False
    refuse(name, value, "true or false")


def parse_choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        refuse(name, value, f"one of {', '.join(allowed)}")
    return value


class Fields:
    """The text fields of one form, by name without `[]`. A field that was left out or left empty is None."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def spelling(self, *names: str) -> str:
        """Which of several names for one field the client used."""
        return next((name for name in names if name in self._texts), names[0])

    def raw(self, name: str) -> str | None:
        return self._texts.get(name)

    def text(self, name: str) -> str | None:
        return self._texts[name].strip() or None if name in self._texts else None

    def integer(self, *names: str, low: int, high: int) -> int | None:
        name = self.spelling(*names)
        value = self.text(name)
        return None if value is None else parse_integer(name, value, low, high)

    def number(self, *names: str, low: float, high: float) -> float | None:
        name = self.spelling(*names)
        value = self.text(name)
        return None if value is None else parse_number(name, value, low, high)

    def boolean(self, name: str) -> bool | None:
        value = self.text(name)
        return None if value is None else parse_boolean(name, value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.text(name)
        return None if value is None else parse_choice(name, value, allowed)
