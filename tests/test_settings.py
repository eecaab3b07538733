"""The settings of the three parts against each other: one grammar, and one meaning for a name that two parts read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import qwen_edit.settings
import qwen_edit.settings_grammar

import shim.settings
import shim.settings_grammar
import standalone.settings
import standalone.settings_grammar
from shim.settings_grammar import FALSE_WORDS, TRUE_WORDS, settings_of
from standalone.engines import STALL_STEPS
from standalone.launcher import SHIM_STOP_SECONDS
from standalone.tritonserver import REQUEST_OVERHEAD_BYTES

GRAMMARS = [shim.settings_grammar, standalone.settings_grammar, qwen_edit.settings_grammar]
PARTS: dict[str, list[Any]] = {
    "shim": list(settings_of(shim.settings.Settings)),
    "standalone": list(settings_of(standalone.settings.Settings)),
    "model": list(settings_of(qwen_edit.settings.Settings)),
}
DECLARED = [(part, setting) for part, settings in PARTS.items() for setting in settings]
NAMES = [f"{part} {setting.name}" for part, setting in DECLARED]
SHARED = [
    pytest.param(one, other, id=one.name)
    for (_, one), (_, other) in itertools.combinations(DECLARED, 2)
    if one.name == other.name
]


def outcome(setting: Any, value: str) -> object:
    """What a part makes of a value: the value it works with, or its refusal."""
    try:
        return setting.read(({setting.name: value},))
    except ValueError as error:
        return str(error)


def test_every_part_carries_the_same_grammar() -> None:
    first, *others = (Path(str(grammar.__file__)).read_bytes() for grammar in GRAMMARS)

    assert others == [first, first]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_declares_a_setting_once(part: str) -> None:
    names = [setting.name for setting in PARTS[part]]

    assert len(names) == len(set(names))


def test_the_settings_that_parts_share_are_found() -> None:
    assert {"MAX_SIDE", "API_KEY", "DEVICE_MAP", "LOG_LEVEL"} <= {param.id for param in SHARED}


@pytest.mark.parametrize(("one", "other"), SHARED)
def test_a_setting_that_two_parts_read_is_the_same_in_both(one: Any, other: Any) -> None:
    assert (one.cast.allowed, one.cast.strips) == (other.cast.allowed, other.cast.strips)
    assert (one.default, one.computed, one.says) == (other.default, other.computed, other.says)


@pytest.mark.parametrize("value", ["", " ", "1", "20000", "1e1", "1.5", "-1", "yes", "False", "balanced", "debug"])
@pytest.mark.parametrize(("one", "other"), SHARED)
def test_two_parts_make_the_same_of_a_value(one: Any, other: Any, value: str) -> None:
    assert outcome(one, value) == outcome(other, value)


@pytest.mark.parametrize(("part", "setting"), DECLARED, ids=NAMES)
def test_no_number_has_an_exponent_and_every_switch_knows_the_same_words(part: str, setting: Any) -> None:
    if "number" in setting.cast.allowed:
        refusal = f"{setting.name}='1e1': {setting.cast.allowed} is allowed"
        assert outcome(setting, "1e1") == refusal
    if isinstance(setting.default, bool):
        words = [*TRUE_WORDS, *(word.upper() for word in TRUE_WORDS), *FALSE_WORDS]
        assert [outcome(setting, word) for word in words] == [True] * 8 + [False] * 4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DRAIN_SECONDS", f"{SHIM_STOP_SECONDS:g} seconds"),
        ("HEALTH_URL", f"port {shim.settings.SUPERVISOR_PORT}"),
        ("MAX_BODY_BYTES", f"{REQUEST_OVERHEAD_BYTES // 2**20} MiB higher"),
        ("ONE_SERVER_PER_GPU", f"ports {standalone.settings.PORTS_APART} above"),
        ("WORKER_STALL_SECONDS", f"{STALL_STEPS} of its own steps"),
    ],
)
def test_a_number_in_what_a_setting_says_is_the_codes(name: str, words: str) -> None:
    assert words in next(setting.says for _, setting in DECLARED if setting.name == name)


def test_the_shim_looks_for_the_supervisor_where_it_is_by_default() -> None:
    assert standalone.settings.Settings().supervisor_port == shim.settings.SUPERVISOR_PORT


@pytest.mark.parametrize(("part", "setting"), DECLARED, ids=NAMES)
def test_a_setting_says_what_it_is_in_sentences(part: str, setting: Any) -> None:
    assert setting.says.endswith(".")
    assert "  " not in setting.says
