"""Request parameters → what a caller says of an edit's place among the others.

Parameters and not tensors: a model that does not know one ignores it, where an undeclared tensor is an error. All times
are relative, so that the clocks of two machines need not agree.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen_edit.errors import BadRequest, shown
from qwen_edit.families.layering import ASKED
from qwen_edit.families.quality import checked
from qwen_edit.settings import AUTO, STEP_CACHES

MAX_SECONDS = 3600.0  # an edit counts as no older, and a caller as waiting no longer
MAX_ORDER_SECONDS = 86_400.0
MAX_CALLER = 64  # characters
MAX_SIBLINGS = 160  # the shim's own limit of outputs
PICTURES = re.compile(r"[0-9a-f]{64}(,[0-9a-f]{64}){0,15}")


@dataclass(frozen=True)
class Hints:
    """Times are in seconds, from now."""

    age: float | None = None  # since the edit's request arrived; None: not said
    time_left: float | None = None  # that the caller will still wait; None: as long as it takes
    order: float | None = None  # its place, as an earlier answer told it; None: the edit has none yet
    caller: str = ""  # empty: like nobody else
    pictures: tuple[bytes, ...] = ()  # SHA-256 of the reference images of a continued edit, instead of their bytes
    siblings: int = 1  # edits of the same request, this one included, that are taken or refused together
    transparent: bool = False  # the background that is asked for
    cache: str | None = None  # preset of the step cache; None: the quality's, or the server's
    quality: str = AUTO  # see families/quality.py
    history: str = ""  # what an earlier answer said of its `history`
    adapters: str | None = None  # likewise of its adapters; None: not told
    layering: Mapping[str, object] = field(default_factory=dict)  # what was given of these, see families/layering.py


NO_HINTS = Hints()


def hints(parameters: str, *, instances: int = 1) -> Hints:
    """`parameters`: a JSON object, as Triton hands it over; raises BadRequest naming the parameter and the value.

    Siblings are those of them that come to one of so many instances.
    """
    given: Mapping[str, object] = json.loads(parameters or "{}")
    return Hints(
        age=_seconds(given, "age", 0.0, MAX_SECONDS),
        time_left=_seconds(given, "time_left", 0.0, MAX_SECONDS),
        order=_seconds(given, "order", -MAX_ORDER_SECONDS, MAX_ORDER_SECONDS),
        caller=_caller(given),
        pictures=_pictures(given),
        siblings=math.ceil(_siblings(given) / instances),
        transparent=_background(given) == "transparent",
        cache=_cache(given),
        quality=checked(given.get("quality", AUTO)),
        history=str(given.get("history", "")),
        adapters=str(given["adapters"]) if "adapters" in given else None,
        layering={name: given[name] for name in ASKED if name in given},
    )


def asks_about(parameters: str) -> bool:
    """Whether a call is no edit, but asks what this model can."""
    return json.loads(parameters or "{}").get("about") is True


def age_of(arrival: float, unix_now: float) -> float:
    """By the tensor of callers from before there were parameters; raises BadRequest."""
    if not math.isfinite(arrival):
        raise BadRequest("arrival", f"{arrival}: a finite Unix time in seconds is allowed")
    return min(max(unix_now - arrival, 0.0), MAX_SECONDS)


def _seconds(given: Mapping[str, object], name: str, low: float, high: float) -> float | None:
    """Brought into the range: what is further off makes no difference. A string is taken too: not every client of
    Triton can send a floating-point parameter."""
    if name not in given:
        return None
    value = given[name]
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if math.isnan(seconds):
        raise BadRequest(name, f"{shown(value)}: a number of seconds is allowed")
    return min(max(seconds, low), high)


def _caller(given: Mapping[str, object]) -> str:
    caller = given.get("caller", "")
    if not isinstance(caller, str) or len(caller) > MAX_CALLER:
        raise BadRequest("caller", f"{shown(caller)}: a text of at most {MAX_CALLER} characters is allowed")
    return caller


def _pictures(given: Mapping[str, object]) -> tuple[bytes, ...]:
    if "pictures" not in given:
        return ()
    names = given["pictures"]
    if not isinstance(names, str) or not PICTURES.fullmatch(names):
        raise BadRequest("pictures", f"{shown(names)}: SHA-256 sums in hexadecimal digits, with commas, are allowed")
    return tuple(bytes.fromhex(name) for name in names.split(","))


def _background(given: Mapping[str, object]) -> object:
    background = given.get("background", "auto")
    if background not in ("auto", "transparent"):
        raise BadRequest("background", f"{shown(background)}: auto or transparent is allowed")
    return background


def _cache(given: Mapping[str, object]) -> str | None:
    cache = given.get("cache")
    if cache is not None and cache not in STEP_CACHES:
        raise BadRequest("cache", f"{shown(cache)}: {' or '.join(STEP_CACHES)} is allowed")
    return None if cache is None else str(cache)


def _siblings(given: Mapping[str, object]) -> int:
    siblings = given.get("siblings", 1)
    if not isinstance(siblings, int) or isinstance(siblings, bool) or not 1 <= siblings <= MAX_SIBLINGS:
        raise BadRequest("siblings", f"{shown(siblings)}: a whole number from 1 to {MAX_SIBLINGS} is allowed")
    return siblings
