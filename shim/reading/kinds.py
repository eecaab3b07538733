"""The kinds of text field: how one is read, how the API's description has it, and what the documents call its values.

Every refusal names the field, its value and what is allowed.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal, Never, TypeVar

from shim.errors import InvalidInput
from shim.limits import MIN_SIDE, SOURCE_SIZE
from shim.settings import Settings

SHOWN_CHARS = 80  # of a refused value

INTEGER = re.compile(r"([+-]?[0-9]{1,20})(\.0{0,20})?")
DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
SIZE = re.compile(r"([0-9]{1,6})[xX*×]([0-9]{1,6})")
TRUE_WORDS = ("true", "1")
FALSE_WORDS = ("false", "0")

Schema = dict[str, object]  # JSON Schema
Json = Literal["string", "number", "boolean", "structure"]

T_co = TypeVar("T_co", covariant=True)


def refuse(name: str, value: str, allowed: str) -> Never:
    raise InvalidInput(f"{name} must be {allowed}, got {shown(value)}", param=name)


def shown(value: str) -> str:
    return repr(value) if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]!r}…"


@dataclass(frozen=True)
class Limit:
    """A bound that the operator sets."""

    variable: str
    of: Callable[[Settings], int]

    def __str__(self) -> str:
        return f"`{self.variable}`"


MAX_SIDE = Limit("MAX_SIDE", lambda settings: settings.max_side)
MAX_PIXELS = Limit("MAX_PIXELS", lambda settings: settings.max_pixels)


def in_force(bound: int | Limit, settings: Settings) -> int:
    return bound.of(settings) if isinstance(bound, Limit) else bound


class Kind(ABC, Generic[T_co]):
    json: ClassVar[Json] = "string"  # what a JSON body has for it

    @abstractmethod
    def read(self, name: str, value: str, settings: Settings) -> T_co:
        """What the text says; InvalidInput under the client's own `name` for what is not allowed."""

    @abstractmethod
    def schema(self, settings: Settings) -> Schema: ...

    @abstractmethod
    def values(self) -> str:
        """For the documents."""


@dataclass(frozen=True)
class Integer(Kind[int]):
    """`2` and `2.0` are integers, as form libraries of dynamic languages write both."""

    low: int
    high: int | Limit
    json: ClassVar[Json] = "number"

    def read(self, name: str, value: str, settings: Settings) -> int:
        match, high = INTEGER.fullmatch(value), in_force(self.high, settings)
        if not match or not self.low <= int(match[1]) <= high:
            refuse(name, value, f"an integer from {self.low} to {high}")
        return int(match[1])

    def schema(self, settings: Settings) -> Schema:
        return {"type": "integer", "minimum": self.low, "maximum": in_force(self.high, settings)}

    def values(self) -> str:
        return f"{self.low} to {self.high}"


@dataclass(frozen=True)
class Steps(Integer):
    """One step, with which benchmarks warm up, has no schedule: two are made."""

    def read(self, name: str, value: str, settings: Settings) -> int:
        match = INTEGER.fullmatch(value)
        return self.low if match and int(match[1]) == 1 else super().read(name, value, settings)

    def schema(self, settings: Settings) -> Schema:
        return {**super().schema(settings), "minimum": 1}


@dataclass(frozen=True)
class Seed(Kind[int | None]):
    """-1 is what many programs write for a random one."""

    high: int
    json: ClassVar[Json] = "number"

    def read(self, name: str, value: str, settings: Settings) -> int | None:
        found = Integer(-1, self.high).read(name, value, settings)
        return None if found < 0 else found

    def schema(self, settings: Settings) -> Schema:
        return {"type": "integer", "minimum": -1, "maximum": self.high}

    def values(self) -> str:
        return f"0 to {self.high}, or -1 for a random one"


@dataclass(frozen=True)
class OneOf(Kind[int]):
    """A few integers, in order."""

    allowed: tuple[int, ...]
    json: ClassVar[Json] = "number"

    def read(self, name: str, value: str, settings: Settings) -> int:
        match = INTEGER.fullmatch(value)
        if not match or int(match[1]) not in self.allowed:
            refuse(name, value, " or ".join(map(str, self.allowed)))
        return int(match[1])

    def schema(self, settings: Settings) -> Schema:
        bounds = {"minimum": self.allowed[0], "maximum": self.allowed[-1]}
        return {"type": "integer", "enum": list(self.allowed), **bounds}

    def values(self) -> str:
        return ", ".join(map(str, self.allowed))


@dataclass(frozen=True)
class Number(Kind[float]):
    low: float
    high: float
    json: ClassVar[Json] = "number"

    def read(self, name: str, value: str, settings: Settings) -> float:
        parsed = float(value) if DECIMAL.fullmatch(value) else math.nan
        if not self.low <= parsed <= self.high:
            refuse(name, value, f"a number from {self.low:g} to {self.high:g}")
        return parsed

    def schema(self, settings: Settings) -> Schema:
        return {"type": "number", "minimum": self.low, "maximum": self.high}

    def values(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Boolean(Kind[bool]):
    json: ClassVar[Json] = "boolean"

    def read(self, name: str, value: str, settings: Settings) -> bool:
        word = value.lower()
        if word not in TRUE_WORDS + FALSE_WORDS:
            refuse(name, value, "true or false")
        return word in TRUE_WORDS

    def schema(self, settings: Settings) -> Schema:
        return {"type": "boolean"}

    def values(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Choice(Kind[str]):
    allowed: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)  # words that deserve an explanation
    also: Mapping[str, str] = field(default_factory=dict)  # other words for the same

    def read(self, name: str, value: str, settings: Settings) -> str:
        value = self.also.get(value.lower(), value.lower())
        if value in self.refused:
            raise InvalidInput(f"{name}={value} is not supported: {self.refused[value]}", param=name)
        if value not in self.allowed:
            refuse(name, value, f"one of {', '.join(self.allowed)}")
        return value

    def schema(self, settings: Settings) -> Schema:
        return {"type": "string", "enum": list(self.allowed)}

    def values(self) -> str:
        return ", ".join(f"`{word}`" for word in self.allowed)


@dataclass(frozen=True)
class Quality(Choice):
    """Where this server has no presets any word will do, and is the first: whoever never noticed keeps sending it."""

    def read(self, name: str, value: str, settings: Settings) -> str:
        return super().read(name, value, settings) if settings.quality_presets else self.allowed[0]

    def schema(self, settings: Settings) -> Schema:
        if not settings.quality_presets:
            return {"type": "string", "description": "Changes nothing on this server."}
        return {**super().schema(settings), "description": "Steps and step cache, where none are named."}


@dataclass(frozen=True)
class Text(Kind[str]):
    """Line ends are normalised, as browsers and Node rewrite them in forms."""

    low: int  # characters
    high: int

    def read(self, name: str, value: str, settings: Settings) -> str:
        text = value.replace("\r\n", "\n")
        if len(text) > self.high:
            raise InvalidInput(f"{name} must be at most {self.high} characters, got {len(text)}", param=name)
        return text

    def schema(self, settings: Settings) -> Schema:
        least: Schema = {"minLength": self.low} if self.low else {}
        return {"type": "string", **least, "maxLength": self.high}

    def values(self) -> str:
        return f"{self.low} to {self.high} characters" if self.low else f"up to {self.high} characters"


@dataclass(frozen=True)
class Adapters(Text):
    """Read by the model, which knows them. A JSON body may have an object or a list for it."""

    json: ClassVar[Json] = "structure"

    def values(self) -> str:
        return "names with commas, each with its weight after a colon where that is not 1"


@dataclass(frozen=True)
class Size(Kind[tuple[int, int] | None]):
    """`auto` is None: the model's own; `source` is SOURCE_SIZE."""

    def read(self, name: str, value: str, settings: Settings) -> tuple[int, int] | None:
        if value.lower() == "auto":
            return None
        if value.lower() == "source":
            return SOURCE_SIZE
        match = SIZE.fullmatch(value)
        if not match:
            refuse(name, value, "WIDTHxHEIGHT, auto or source")
        width, height = int(match[1]), int(match[2])
        if not all(MIN_SIDE <= side <= settings.max_side for side in (width, height)):
            refuse(name, value, f"WIDTHxHEIGHT with sides from {MIN_SIDE} to {settings.max_side}, auto or source")
        if width * height > settings.max_pixels:
            refuse(name, value, f"at most {settings.max_pixels} pixels")
        return width, height

    def schema(self, settings: Settings) -> Schema:
        """What the pattern cannot say is said in words, and to the page in numbers."""
        return {
            "type": "string",
            "pattern": "^([0-9]+[xX*×][0-9]+|[aA][uU][tT][oO]|[sS][oO][uU][rR][cC][eE])$",
            "description": f"WIDTHxHEIGHT, auto or source; sides from {MIN_SIDE} to {settings.max_side}, at most "
            f"{settings.max_pixels} pixels.",
            "x-sides": {"minimum": MIN_SIDE, "maximum": settings.max_side},
            "x-pixels": {"maximum": settings.max_pixels},
        }

    def values(self) -> str:
        return f"`WIDTHxHEIGHT`, {MIN_SIDE} to {MAX_SIDE} a side, at most {MAX_PIXELS}; `auto` or `source`"


@dataclass(frozen=True)
class Anything(Kind[str]):
    def read(self, name: str, value: str, settings: Settings) -> str:
        return value

    def schema(self, settings: Settings) -> Schema:
        return {"type": "string"}

    def values(self) -> str:
        return "accepted"
