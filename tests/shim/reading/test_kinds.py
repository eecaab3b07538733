from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidInput
from shim.reading.kinds import Boolean, Integer, Number
from shim.settings import Settings

SETTINGS = Settings()


def parse_integer(name: str, value: str, low: int, high: int) -> int:
    return Integer(low, high).read(name, value, SETTINGS)


def parse_number(name: str, value: str, low: float, high: float) -> float:
    return Number(low, high).read(name, value, SETTINGS)


def parse_boolean(name: str, value: str) -> bool:
    return Boolean().read(name, value, SETTINGS)


@pytest.mark.parametrize("value", ["2", "+2", "02", "2.0", "2.", "2.000"])
def test_an_integer_may_be_written_with_a_zero_fraction(value: str) -> None:
    assert parse_integer("n", value, 1, 10) == 2


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0",
        "11",
        "-1",
        "2.5",
        "1e1",
        "NaN",
        "inf",
        "1e400",
        "None",
        "true",
        "0x2",
        "2 2",
        "１",
        "²",
        "1_0",
        "9" * 99,
    ],
    ids=lambda value: value[:10] or "empty",
)
def test_what_is_no_integer_in_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match=r"^n must be an integer from 1 to 10, got '") as caught:
        parse_integer("n", value, 1, 10)
    assert caught.value.param == "n"
    assert len(caught.value.message) < 150


@given(st.integers(0, 2**63 - 1))
def test_every_seed_survives(seed: int) -> None:
    assert parse_integer("seed", str(seed), 0, 2**63 - 1) == seed


@given(st.text())
def test_any_text_is_an_integer_in_range_or_a_refusal(text: str) -> None:
    with suppress(InvalidInput):
        assert 1 <= parse_integer("n", text, 1, 10) <= 10


@given(st.text() | st.floats().map(str) | st.from_regex(r"[0-9.eE+-]{1,12}", fullmatch=True))
def test_any_text_is_a_finite_number_in_range_or_a_refusal(text: str) -> None:
    with suppress(InvalidInput):
        parsed = parse_number("cfg", text, 0, 20)
        assert math.isfinite(parsed)
        assert 0 <= parsed <= 20


@given(st.floats(0, 20))
def test_every_number_in_range_survives(number: float) -> None:
    assert parse_number("cfg", repr(number), 0, 20) == number


@pytest.mark.parametrize("value", ["NaN", "inf", "-inf", "1e400", "20.1", "-0.1", "1,5", "４", "0x1", "1_0"])
def test_what_is_no_number_in_range_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_number("cfg", value, 0, 20)
    assert caught.value.message == f"cfg must be a number from 0 to 20, got {value!r}"


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_booleans_are_read_and_not_guessed(value: str, expected: bool) -> None:
    assert parse_boolean("stream", value) is expected


@pytest.mark.parametrize("value", ["yes", "2", "None", "tru"])
def test_other_booleans_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="stream must be true or false"):
        parse_boolean("stream", value)
