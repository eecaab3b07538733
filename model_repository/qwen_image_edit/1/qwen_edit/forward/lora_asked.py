"""Which LoRA adapters a request asks for, and how much of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from qwen_edit.errors import BadRequest, shown

MAX_ADAPTERS = 4  # of an edit
MAX_WEIGHT = 10.0  # absolute
MAX_CHARACTERS = 1000
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
WEIGHT = re.compile(r"-?[0-9]{0,9}\.?[0-9]{1,9}")

Asked = tuple[tuple[str, float], ...]  # names and weights

ALLOWED = (
    "names with commas, each with its weight after a colon where that is not 1, "
    'or JSON such as {"name": 0.8} are allowed'
)


def adapters_asked_for(text: str) -> Asked:
    """`name:weight,name`, or JSON: an object of weights by name, or a list of such texts; raises BadRequest."""
    if len(text) > MAX_CHARACTERS:
        raise BadRequest("lora", f"{len(text)} characters: at most {MAX_CHARACTERS} are allowed")
    asked = tuple(_pairs(text.strip()))
    if len(asked) > MAX_ADAPTERS:
        raise BadRequest("lora", f"{len(asked)} adapters: at most {MAX_ADAPTERS} are allowed")
    names = [name for name, _ in asked]
    for name in names:
        if names.count(name) > 1:
            raise BadRequest("lora", f"{name!r} twice: each name is allowed once")
    return asked


def _pairs(text: str) -> Iterator[tuple[str, float]]:
    if not text.startswith(("[", "{")):
        parts = text.split(",") if text else []
        yield from map(_pair, parts)
        return
    try:
        asked = json.loads(text, object_pairs_hook=tuple)  # a name that is there twice is to be seen
    except (ValueError, RecursionError):
        raise BadRequest("lora", f"{shown(text)}: {ALLOWED}") from None
    if isinstance(asked, list):
        yield from map(_pair, asked)
    else:
        for name, weight in asked:
            yield _named(name, text), _weight(weight, text)


def _pair(part: object) -> tuple[str, float]:
    if not isinstance(part, str):
        raise BadRequest("lora", f"{shown(part)}: {ALLOWED}")
    name, colon, weight = part.strip().partition(":")
    if not colon:
        return _named(name, part), 1.0
    if not WEIGHT.fullmatch(weight.strip()):
        raise BadRequest("lora", f"{shown(part)}: a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g} after the colon")
    return _named(name, part), _weight(float(weight), part)


def _named(name: str, whole: str) -> str:
    name = name.strip()
    if not NAME.fullmatch(name):
        raise BadRequest("lora", f"{shown(whole)}: {ALLOWED}; a name has letters, digits, '.', '_' and '-'")
    return name


def _weight(weight: object, whole: str) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not -MAX_WEIGHT <= weight <= MAX_WEIGHT:
        raise BadRequest("lora", f"{shown(whole)}: a weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g} is allowed")
    return float(weight)
