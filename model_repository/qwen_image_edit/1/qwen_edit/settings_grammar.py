"""How settings are declared and read. The same bytes in every part: each part has to be able to travel alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Group = TypeVar("Group", bound=DataclassInstance)

Declared = TypeVar("Declared")
Value = TypeVar("Value", covariant=True)

TRUE_WORDS = ("1", "true", "yes", "on")
FALSE_WORDS = ("0", "false", "no", "off")


class SettingsError(ValueError):
    """A setting's value is not allowed; the message names the setting, the value and what is allowed."""


@dataclass(frozen=True)
class Cast(Generic[Value]):
    """How one kind of value is read. `parse` raises ValueError for what is not allowed."""

    allowed: str  # in words that "is allowed" can follow; empty: anything
    parse: Callable[[str], Value]
    strips: bool = True  # spaces around a value do not belong to it


@dataclass(frozen=True)
class Setting(Generic[Value]):
    name: str
    cast: Cast[Value]
    default: Value
    says: str  # for the documents
    computed: bool  # the default depends on the machine

    def read(self, sources: tuple[Mapping[str, str], ...]) -> Value:
        """The value in the first source that has one; an empty one is none, as compose files pass `${NAME:-}`."""
        given = [source.get(self.name, "") for source in sources]
        values = [value.strip() if self.cast.strips else value for value in given]
        value = next(filter(None, values), None)
        if value is None:
            return self.default
        try:
            return self.cast.parse(value)
        except ValueError:
            raise SettingsError(f"{self.name}={value!r}: {self.cast.allowed} is allowed") from None


def setting(
    name: str, cast: Cast[Declared], default: Declared, says: str, *, secret: bool = False, computed: bool = False
) -> Declared:
    """A dataclass field that is one setting."""
    declared = Setting(name, cast, default, says, computed)
    return field(default=default, repr=not secret, metadata={"declared": declared})


def group(settings: type[Group]) -> Group:
    """A dataclass field that is a dataclass of settings."""
    return field(default_factory=settings, metadata={"declared": settings})


def read(settings: type[Group], *sources: Mapping[str, str]) -> Group:
    """The dataclass with what the sources say, earlier ones first."""
    declared = {each.name: each.metadata["declared"] for each in fields(settings)}
    return settings(
        **{
            name: read(each, *sources) if isinstance(each, type) else each.read(sources)
            for name, each in declared.items()
        }
    )


def settings_of(settings: type[DataclassInstance]) -> Iterator[Setting[Any]]:
    """In the order of their declaration, those of groups in their group's place; of any part's dataclass."""
    for each in fields(settings):
        declared = each.metadata["declared"]
        yield from settings_of(declared) if isinstance(declared, type) else (declared,)


text = Cast("", str)
verbatim = Cast("", str, strips=False)


def integer(low: int, high: int) -> Cast[int]:
    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", value) or not low <= int(value) <= high:
            raise ValueError
        return int(value)

    return Cast(f"a whole number from {low} to {high}", parse)


def decimal(value: str) -> float:
    """Without an exponent; raises ValueError."""
    if not re.fullmatch(r"-?[0-9]*\.?[0-9]+", value):
        raise ValueError
    return float(value)


def number(low: float, high: float) -> Cast[float]:
    def parse(value: str) -> float:
        if not low <= decimal(value) <= high:
            raise ValueError
        return decimal(value)

    return Cast(f"a number from {low:g} to {high:g}", parse)


def choice(*words: str) -> Cast[str]:
    by_lower_case = {word.lower(): word for word in words}

    def parse(value: str) -> str:
        if value.lower() not in by_lower_case:
            raise ValueError
        return by_lower_case[value.lower()]

    return Cast(f"one of {', '.join(words)}", parse)


_truth = choice(*TRUE_WORDS, *FALSE_WORDS)
boolean = Cast(_truth.allowed, lambda value: _truth.parse(value) in TRUE_WORDS)
