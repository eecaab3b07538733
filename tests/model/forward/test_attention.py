"""Which calls attention is computed in, and that they compute the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import ragged
from qwen_edit.forward.attention import SHORT_ROW_TOKENS, VARLEN_PARAMETERS, fits, runs_of, varlen_operator
from qwen_edit.forward.block import Paths
from torch.nn.attention.varlen import varlen_attn

from tests.kit.engines import difference, load_pipeline
from tests.kit.rows import random_row

CPU = torch.device("cpu")
LONG = SHORT_ROW_TOKENS + 1


@pytest.mark.parametrize(
    ("tokens", "calls"),
    [
        ([10, 20, 30], [(0, 60, 30, [0, 10, 30, 60])]),
        ([LONG, 10, 20, LONG], [(0, LONG, LONG, None), (LONG, LONG + 30, 20, [0, 10, 30]),
                                (LONG + 30, 2 * LONG + 30, LONG, None)]),
        ([10, LONG, 20], [(0, 10, 10, None), (10, 10 + LONG, LONG, None), (10 + LONG, 30 + LONG, 20, None)]),
        ([LONG, LONG], [(0, LONG, LONG, None), (LONG, 2 * LONG, LONG, None)]),
        ([7], [(0, 7, 7, None)]),
    ],
    ids=str,
)  # fmt: skip
def test_neighbours_that_are_short_share_a_call(tokens: list[int], calls: list[Any]) -> None:
    found = runs_of(tokens, CPU, varlen=True)
    assert all(run.queries is run.keys for run in found)
    spans = [run.keys for run in found]
    assert [(*span[:3], span.starts.tolist() if span.starts is not None else None) for span in spans] == calls


def test_without_the_operator_every_row_is_a_call() -> None:
    runs = runs_of([10, 20, LONG], CPU, varlen=False)
    assert [run.keys[:2] for run in runs] == [(0, 10), (10, 30), (30, 30 + LONG)]


def test_who_asks_may_be_fewer_than_who_is_seen() -> None:
    together, alone = runs_of([10, 20, LONG], CPU, varlen=True, asking=[4, 5, 6])
    assert (together.queries[:3], together.keys[:3]) == ((0, 9, 5), (0, 30, 20))
    assert [span.starts.tolist() for span in together if span.starts is not None] == [[0, 4, 9], [0, 10, 30]]
    assert (alone.queries[:2], alone.keys[:2]) == ((9, 15), (30, 30 + LONG))


def stand_in(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
) -> torch.Tensor:
    """What torch's operator computes, which runs on GPUs alone, from the same index tensors."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (int(cu_seq_q[-1]), int(cu_seq_k[-1])) == (len(query), len(key))
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    asking, *seen = (
        states.split_with_sizes(starts.diff().tolist())
        for states, starts in ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k))
    )
    rows = [[states.transpose(0, 1)[None] for states in row] for row in zip(asking, *seen, strict=True)]
    return torch.cat([torch.nn.functional.scaled_dot_product_attention(*row)[0].transpose(0, 1) for row in rows])


@torch.inference_mode()
def test_short_rows_in_one_call_get_what_each_gets_in_its_own(sensitive: Callable[[str], Path]) -> None:
    looped, together = (load_pipeline(sensitive("plus-2511")).transformer for _ in range(2))
    calls: list[int] = []

    def counted(*states: Any) -> torch.Tensor:
        calls.append(len(states[3]) - 1)
        return stand_in(*states)

    ragged.bind(together, Paths(varlen=counted))
    sides = [(4, 4), (3, 9), (36, 36), (5, 5), (6, 6), (7, 7)]
    rows = [random_row(together, [each], text_tokens=2 + n, seed=n) for n, each in enumerate(sides)]
    for ours, reference in zip(together(rows=rows), looped(rows=rows), strict=True):
        assert difference(ours, reference) <= 1e-5
    assert calls == [2, 3] * together.config.num_layers, "the long row between them has a call of its own"


def test_the_operator_is_told_by_its_signature() -> None:
    assert fits(varlen_attn)
    assert fits(stand_in)
    assert list(inspect.signature(varlen_attn).parameters)[:7] == list(VARLEN_PARAMETERS)


def test_an_operator_that_wants_something_else_is_not_called() -> None:
    def another(
        query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int, page: Any
    ) -> Any:
        return query

    def reordered(query: Any, key: Any, value: Any, max_q: int, max_k: int, cu_seq_q: Any, cu_seq_k: Any) -> Any:
        return query

    assert not fits(another)
    assert not fits(reordered)
    assert varlen_operator(CPU) is None
