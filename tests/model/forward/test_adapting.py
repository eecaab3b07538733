"""Adapters of single rows: each row gets what the transformer with its adapters added to the weights gives it alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen_edit.forward import adapting, modulations, ragged
from qwen_edit.forward.block import Halves, Paths
from qwen_edit.forward.lora_store import Adapters, Lora, LoraStore
from qwen_edit.forward.ragged import RaggedForward
from qwen_edit.loading.assembly import pipeline_of
from qwen_edit.pipeline import Loras, LowRank, Pipeline, Row

from tests.kit import loras
from tests.kit.engines import difference, load_pipeline
from tests.kit.rows import four_rows

BOUND = 1e-4


@pytest.fixture(scope="module")
def pipeline(sensitive: Callable[[str], Path]) -> Pipeline:
    return pipeline_of(load_pipeline(sensitive("plus-2511")))


@pytest.fixture(scope="module")
def adapters(pipeline: Pipeline) -> list[Adapters]:
    """Of four rows: of every layer, none, of every layer with a weight and another, and the first again."""
    first, second = (
        Lora(f"digest {seed}", {
            name: LowRank(*both) for name, both in loras.pairs(pipeline.parts.transformer, [""], seed=seed).items()
        })
        for seed in range(2)
    )  # fmt: skip
    return [((first, 1.0),), (), ((first, -0.5), (second, 0.75)), ((first, 1.0),)]


def alone(pipeline: Pipeline, row: Row, adapters: Adapters) -> torch.Tensor:
    """By diffusers, with the adapters in the weights."""
    transformer = copy.deepcopy(pipeline.parts.transformer)
    for lora, weight in adapters:
        for name, (down, up) in lora.layers.items():
            transformer.get_submodule(name).weight.data += weight * up @ down
    for module in (transformer, *transformer.transformer_blocks):
        del module.forward
    return ragged.alone(transformer, row)


@torch.inference_mode()
def largest_difference(
    pipeline: Pipeline, adapters: Sequence[Adapters], forward: Any = None, expected: Sequence[torch.Tensor] = ()
) -> float:
    transformer, store = pipeline.parts.transformer, LoraStore(pipeline, 2**24)
    rows = four_rows(transformer)
    adapted = [Row(*row[:4], store.weighed(each)) for row, each in zip(rows, adapters, strict=True)]
    made = (forward or transformer)(rows=adapted)
    expected = expected or [alone(pipeline, row, each) for row, each in zip(rows, adapters, strict=True)]
    if any(each.shape != right.shape for each, right in zip(made, expected, strict=True)):
        return float("inf")
    return max(map(difference, made, expected))


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline, adapters: list[Adapters]) -> list[torch.Tensor]:
    with torch.inference_mode():
        rows = four_rows(pipeline.parts.transformer)
        return [alone(pipeline, row, each) for row, each in zip(rows, adapters, strict=True)]


def test_each_row_gets_what_it_gets_alone_with_its_adapters_in_the_weights(
    pipeline: Pipeline, adapters: list[Adapters], expected: list[torch.Tensor]
) -> None:
    assert largest_difference(pipeline, adapters, expected=expected) <= BOUND
    assert largest_difference(pipeline, adapters[::-1]) <= BOUND, "whatever was kept of the first"


def test_so_it_does_where_rows_share_no_forward(
    pipeline: Pipeline, adapters: list[Adapters], expected: list[torch.Tensor]
) -> None:
    """On a server whose self-check failed."""
    apart = RaggedForward(pipeline.parts.transformer, Paths(together=False))
    assert largest_difference(pipeline, adapters, apart, expected) <= BOUND


def test_beside_the_weights_lies_what_was_used_last_within_its_bytes(pipeline: Pipeline) -> None:
    pairs = loras.pairs(pipeline.parts.transformer, ["0.attn.to_q"], seed=0)
    one, two, three = (Lora(name, {layer: LowRank(*both) for layer, both in pairs.items()}) for name in "abc")
    store = LoraStore(pipeline, 2 * one.bytes)

    def used(lora: Lora) -> object:
        store.make_room([lora])
        (weighed,) = store.weighed(((lora, 1.0),))
        assert store.bytes <= store.max_bytes
        return weighed.layers

    first, second = used(one), used(two)
    assert used(one) is first
    used(three)
    assert used(one) is first
    assert used(two) is not second
    store.give_back()
    assert store.bytes == 0


def test_no_hook_is_left_nor_by_a_forward_that_failed(pipeline: Pipeline, adapters: list[Adapters]) -> None:
    transformer = pipeline.parts.transformer
    row, *_ = four_rows(transformer)
    loras_of_row = LoraStore(pipeline, 2**24).weighed(adapters[0])
    broken = Row(row.tokens, row.shapes, row.text[:, 1:], row.time, loras_of_row)
    with pytest.raises(RuntimeError):
        transformer(rows=[broken])
    assert not any(hooks for module in transformer.modules() for name, hooks in vars(module).items() if "hooks" in name)


def test_only_rows_with_adapters_go_past_what_is_compiled(
    sensitive: Callable[[str], Path], adapters: list[Adapters], expected: list[torch.Tensor]
) -> None:
    calls: list[str] = []
    plain = Halves()

    def before(*given: Any) -> Any:
        calls.append("before")
        return plain.before(*given)

    pipeline = pipeline_of(load_pipeline(sensitive("plus-2511")))
    transformer, store = pipeline.parts.transformer, LoraStore(pipeline, 2**24)
    del transformer.forward
    for block in transformer.transformer_blocks:
        del block.forward
    ragged.bind(transformer, Paths(halves=Halves(before, plain.after)))
    row, *_ = four_rows(transformer)
    with torch.inference_mode():
        transformer(rows=[Row(*row[:4], store.weighed(adapters[0]))])
        assert calls == []
        transformer(rows=[row])
        assert len(calls) == 2 * len(transformer.transformer_blocks)
        calls.clear()
        rows = [Row(*each[:4], store.weighed(of)) for each, of in zip(four_rows(transformer), adapters, strict=True)]
        made = transformer(rows=rows)
        assert len(calls) == 2 * len(transformer.transformer_blocks), "the one without, in a forward of its own"
        assert max(map(difference, made, expected)) <= BOUND


# Each makes one thing wrong that a rewrite could make wrong.

Mutation = Callable[[pytest.MonkeyPatch], None]


def _rows_one_token_further(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adapting, "accumulate", lambda tokens: (end + 1 for end in accumulate(tokens)))


def _no_weights(patch: pytest.MonkeyPatch) -> None:
    right = adapting.add
    patch.setattr(adapting, "add", lambda low_rank, weight, *states: right(low_rank, 1.0, *states))


def _only_the_first_adapter(patch: pytest.MonkeyPatch) -> None:
    right = adapting.Adapting.__init__
    patch.setattr(adapting.Adapting, "__init__", lambda self, rows: right(self, [row[:1] for row in rows]))


def _rows_not_put_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(adapting, "dict", lambda made: {row: each for row, (_, each) in enumerate(made)}, raising=False)


def _times_of_any_adapter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(modulations, "identity", lambda loras: ())


def _one_time_zero(patch: pytest.MonkeyPatch) -> None:
    right = adapting.Adapting.__init__

    def init(self: adapting.Adapting, rows: Sequence[Loras]) -> None:
        right(self, rows)
        self.zero_of_row = [0] * len(rows)

    patch.setattr(adapting.Adapting, "__init__", init)


MUTATIONS: list[Mutation] = [
    _rows_one_token_further, _no_weights, _only_the_first_adapter, _rows_not_put_back, _times_of_any_adapter,
    _one_time_zero,
]  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutation: mutation.__name__.strip("_"))
def test_the_parity_test_fails_when_one_thing_is_wrong(
    sensitive: Callable[[str], Path],
    adapters: list[Adapters],
    expected: list[torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    mutate: Mutation,
) -> None:
    mutate(monkeypatch)
    mutated = pipeline_of(load_pipeline(sensitive("plus-2511")))
    assert largest_difference(mutated, adapters, expected=expected) > BOUND
