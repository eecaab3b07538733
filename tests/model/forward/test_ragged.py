"""Rows of any shape in one forward: each gets what diffusers' own forward of it alone gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qwen_edit.forward import attention, block, places
from qwen_edit.pipeline import Row, Shape

from tests.kit.engines import load_pipeline
from tests.kit.rows import Drawn, four_rows, largest_difference, made_up

BOUND = 1e-4  # of the velocities' standard deviation; 2e-6 is what rounding makes
FAMILIES = ("edit", "plus", "plus-2511")


@pytest.fixture(scope="module", params=FAMILIES)
def transformer(request: pytest.FixtureRequest, sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive(request.param)).transformer


@pytest.fixture(scope="module")
def newest(sensitive: Callable[[str], Path]) -> Any:
    return load_pipeline(sensitive("plus-2511")).transformer


SIDES = st.integers(1, 9)
ROWS = st.tuples(
    st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4),  # the output and up to three references
    st.integers(1, 40),
    st.integers(1, 1000).map(lambda thousandths: thousandths / 1000),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crowd=st.lists(ROWS, min_size=1, max_size=6))
def test_each_row_of_any_crowd_gets_what_diffusers_gives_it_alone(transformer: Any, crowd: list[Drawn]) -> None:
    assert largest_difference(transformer, made_up(transformer, crowd)) <= BOUND


def test_the_parity_test_passes_on_the_rows_that_the_mutations_break(newest: Any) -> None:
    assert largest_difference(newest, four_rows(newest)) <= BOUND


# Each makes one thing wrong that a rewrite could make wrong.

Mutation = Callable[[pytest.MonkeyPatch], None]


def _rotary_positions_one_further(patch: pytest.MonkeyPatch) -> None:
    right = places.in_real_numbers
    patch.setattr(places, "in_real_numbers", lambda angles: right([each.roll(1, 0) for each in angles]))


def _rotary_positions_of_another_row(patch: pytest.MonkeyPatch) -> None:
    right = places.in_real_numbers
    patch.setattr(places, "in_real_numbers", lambda angles: right(angles).roll(len(angles[0]), 0))


def _attention_from_the_next_token_on(patch: pytest.MonkeyPatch) -> None:
    right = attention.runs_of
    patch.setattr(
        places, "runs_of", lambda tokens, *given, **named: right([tokens[0] + 1, *tokens[1:-1], tokens[-1] - 1],
                                                                  *given, **named)
    )  # fmt: skip


def _attention_to_all_rows(patch: pytest.MonkeyPatch) -> None:
    right = attention.runs_of

    def of_one_row(tokens: Sequence[int], *given: Any, asking: Sequence[int] | None = None, **named: Any) -> Any:
        return right([sum(tokens)], *given, asking=None if asking is None else [sum(asking)], **named)

    patch.setattr(places, "runs_of", of_one_row)


def _rows_in_another_order(patch: pytest.MonkeyPatch) -> None:
    right = attention.joined
    patch.setattr(block, "joined", lambda parts: right(parts[::-1]))


def _references_in_place_of_the_outputs(patch: pytest.MonkeyPatch) -> None:
    def last(image: torch.Tensor, places: places.Places) -> torch.Tensor:
        rows = image.split_with_sizes(places.image_tokens)
        return torch.cat([row[-tokens:] for row, tokens in zip(rows, places.output_tokens, strict=True)])

    patch.setattr(block, "outputs", last)


def _times_of_the_row_before(patch: pytest.MonkeyPatch) -> None:
    right = places.times
    patch.setattr(places, "times", lambda numbers, tokens: right([max(each - 1, 0) for each in numbers], tokens))


def _references_at_a_rows_time(patch: pytest.MonkeyPatch) -> None:
    right = places.times
    patch.setattr(places, "times", lambda numbers, tokens: right([each % 4 for each in numbers], tokens))


MUTATIONS: list[Mutation] = [
    _rotary_positions_one_further, _rotary_positions_of_another_row, _attention_from_the_next_token_on,
    _attention_to_all_rows, _rows_in_another_order, _references_in_place_of_the_outputs, _times_of_the_row_before,
    _references_at_a_rows_time,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutation: mutation.__name__.strip("_"))
def test_the_parity_test_fails_when_one_thing_is_wrong(
    sensitive: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, mutate: Mutation
) -> None:
    mutate(monkeypatch)
    transformer = load_pipeline(sensitive("plus-2511")).transformer
    assert largest_difference(transformer, four_rows(transformer)) > BOUND


def test_a_companys_places_are_found_once_and_few_companies_are_kept() -> None:
    asked: list[int] = []

    def angles(shapes: Sequence[Shape], text_tokens: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(text_tokens)
        image_tokens = sum(map(prod, shapes))
        return torch.ones(image_tokens, 2, dtype=torch.complex64), torch.ones(text_tokens, 2, dtype=torch.complex64)

    companies = places.PlacesOfCompanies(angles, references_at_zero=True, kept=2)
    one, two, three = (Row(torch.zeros(4, 1), ((1, 2, 2),), torch.zeros(tokens, 1), 0.5) for tokens in (1, 2, 3))
    first = companies.of([one, two], [0, 0])
    assert companies.of([one, two], [0, 0]) is first
    companies.of([two], [0])
    assert companies.of([one, two], [0, 0]) is first
    companies.of([three], [0])
    companies.of([two], [0])
    assert asked == [1, 2, 2, 3, 2]
