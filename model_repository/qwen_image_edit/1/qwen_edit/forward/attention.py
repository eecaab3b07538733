"""Attention of rows that lie end to end: each row's tokens see each other, and nobody else's.

A row that is long enough to keep a GPU busy is computed alone, by the fastest dense kernel, which needs no mask. Many
short ones are computed in one call, by a kernel that is told where each begins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch

from qwen_edit.pipeline import dense_attention

# Rows of at most so many tokens share a call: at 24 heads and tiles of 128 queries, one alone would leave a card of
# 132 multiprocessors idle for part of its time.
SHORT_ROW_TOKENS = 1024

VARLEN_PARAMETERS = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
Varlen = Callable[..., Any]  # its first parameters are these; it answers the output


class Span(NamedTuple):
    """Consecutive tokens of one row or more."""

    start: int  # the first row's first token
    stop: int
    longest: int  # tokens of the longest row
    starts: torch.Tensor | None  # (rows + 1,) int32, where each row begins, and the last one ends; None: it is one row


class Run(NamedTuple):
    """Consecutive rows whose attention is computed in one call."""

    queries: Span
    keys: Span


def runs_of(
    tokens: Sequence[int], device: torch.device, *, varlen: bool, asking: Sequence[int] | None = None
) -> tuple[Run, ...]:
    """The calls for rows of so many tokens each, of which so many ask: all, unless it is told."""
    short = groupby(range(len(tokens)), lambda row: varlen and tokens[row] <= SHORT_ROW_TOKENS)
    calls = [rows for together, group in short for rows in _calls(list(group), together=together)]
    keys = [_span(tokens, rows, device) for rows in calls]
    queries = keys if asking is None else [_span(asking, rows, device) for rows in calls]
    return tuple(map(Run, queries, keys))


def _span(tokens: Sequence[int], rows: Sequence[int], device: torch.device) -> Span:
    ends, (first, *_, last) = [0, *accumulate(tokens)], (*rows, rows[-1])
    starts = torch.tensor([ends[row] - ends[first] for row in range(first, last + 2)], dtype=torch.int32)
    longest = max(tokens[row] for row in rows)
    return Span(ends[first], ends[last + 1], longest, starts.to(device) if len(rows) > 1 else None)


def _calls(rows: list[int], *, together: bool) -> list[list[int]]:
    return [rows] if together else [[row] for row in rows]


def varlen_operator(device: torch.device) -> Varlen | None:
    """torch's own, where this torch has it as it is called here and the device runs it."""
    if device.type != "cuda":
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if fits(varlen_attn) else None


def fits(operator: Callable[..., Any]) -> bool:
    """Whether it takes what a call here gives it, and needs nothing more."""
    first, rest = (list(inspect.signature(operator).parameters.values())[part] for part in (slice(7), slice(7, None)))
    return tuple(each.name for each in first) == VARLEN_PARAMETERS and all(
        each.default is not inspect.Parameter.empty for each in rest
    )


def attended(
    attention: Any,  # a block's, for the kernel that was chosen for it
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    runs: Sequence[Run],
    varlen: Varlen | None,
) -> torch.Tensor:
    """(tokens, heads, width of a head), each"""
    outputs = []
    for asking, seen in runs:
        parts = queries[asking.start : asking.stop], *(states[seen.start : seen.stop] for states in (keys, values))
        if seen.starts is None or varlen is None:
            outputs.append(dense_attention(attention, *parts))
        else:
            outputs.append(varlen(*parts, asking.starts, seen.starts, asking.longest, seen.longest))
    return joined(outputs)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
