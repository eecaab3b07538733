"""A time's modulations are made once."""

from __future__ import annotations

import torch
from qwen_edit.forward.adapting import Adapting
from qwen_edit.forward.modulations import Modulations, Times


class Counted(torch.nn.Module):
    """Its own input, and how many times it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[int] = []

    def forward(self, embedded: torch.Tensor) -> torch.Tensor:
        self.given.append(len(embedded))
        return embedded


def times(*values: float) -> Times:
    return Times(values, ((),) * len(values), torch.tensor(values)[:, None])


def of(modulations: Modulations, *values: float) -> torch.Tensor:
    return modulations.of(times(*values), Adapting([()]))


def test_a_time_that_was_seen_is_not_made_again_and_one_that_two_rows_share_is_made_once() -> None:
    layer = Counted()
    modulations = Modulations(layer)
    for values in ((0.9, 0.9, 0.0), (0.9, 0.5, 0.0), (0.5, 0.9, 0.0)):
        assert of(modulations, *values).flatten().tolist() == torch.tensor(values).tolist()
    assert layer.given == [1, 1, 1]


def test_where_an_edit_begins_does_not_change_what_a_time_is_made_with() -> None:
    layer = Counted()
    for values in ((0.9, 0.0), (0.5, 0.0)):
        of(Modulations(layer), *values)
    modulations = Modulations(layer)
    of(modulations, 0.9, 0.0)
    of(modulations, 0.5, 0.0)
    assert set(layer.given) == {1}


def test_only_the_times_used_last_are_kept_and_a_forward_of_more_is_whole() -> None:
    layer = Counted()
    modulations = Modulations(layer, kept=2)
    assert of(modulations, 0.1, 0.2, 0.3, 0.4).flatten().tolist() == torch.tensor([0.1, 0.2, 0.3, 0.4]).tolist()
    of(modulations, 0.3)
    of(modulations, 0.5)
    of(modulations, 0.3, 0.4)
    assert layer.given == [4, 1, 1], "0.4 was the oldest of three"
