"""Where the tokens of each row lie in a forward whose rows lie end to end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import torch

from qwen_edit.forward.attention import Run, runs_of
from qwen_edit.pipeline import Row, Shape

Key = tuple[tuple[tuple[Shape, ...], int, int], ...]  # each row's shapes, text tokens, and which time 0 is its own


class Places(NamedTuple):
    """Of one company of rows, on the transformer's device. Tensors and numbers alone: hooks move these with a block."""

    output_tokens: tuple[int, ...]  # of each row
    image_tokens: tuple[int, ...]  # the output's and the references'
    text_tokens: tuple[int, ...]
    image_times: torch.Tensor  # (image tokens,) which of the forward's times modulates each token
    text_times: torch.Tensor
    image_angles: torch.Tensor  # (image tokens, pairs, [cosine, sine]) rotary positions, each row's own
    text_angles: torch.Tensor
    runs: tuple[Run, ...]  # of attention
    output_runs: tuple[Run, ...]  # of attention where only the outputs' tokens ask


# (shapes, text tokens, device) → the angles of a row's image tokens and of its text, as complex numbers
Angles = Callable[[Sequence[Shape], int, torch.device], tuple[torch.Tensor, torch.Tensor]]


class PlacesOfCompanies:
    """Those of the last few companies: a company's are the same in each of its steps.

    The forward has a time for each row and, after them, time 0, at which `references_at_zero` modulates references: as
    often as adapters make something else of it.
    """

    def __init__(self, angles: Angles, *, references_at_zero: bool, kept: int = 4) -> None:
        self._angles = angles
        self._references_at_zero = references_at_zero
        self._kept = kept
        self._companies: OrderedDict[tuple[Key, bool], Places] = OrderedDict()

    def of(self, rows: Sequence[Row], zeros: Sequence[int], *, varlen: bool = False) -> Places:
        """`zeros`: which time 0 is each row's own; `varlen`: short rows share calls of attention."""
        key = tuple((row.shapes, len(row.text), zero) for row, zero in zip(rows, zeros, strict=True)), varlen
        if key not in self._companies:
            self._companies[key] = self._found(*key, rows[0].tokens.device)
            if len(self._companies) > self._kept:
                self._companies.popitem(last=False)
        self._companies.move_to_end(key)
        return self._companies[key]

    def _found(self, key: Key, varlen: bool, device: torch.device) -> Places:
        angles = [self._angles(shapes, text_tokens, device) for shapes, text_tokens, _ in key]
        outputs = tuple(prod(shapes[0]) for shapes, *_ in key)
        images = tuple(sum(map(prod, shapes)) for shapes, *_ in key)
        texts = tuple(text_tokens for _, text_tokens, _ in key)
        tokens = [sum(each) for each in zip(texts, images, strict=True)]
        return Places(
            outputs,
            images,
            texts,
            self._image_times(outputs, images, [zero for *_, zero in key]).to(device),
            times(range(len(key)), texts).to(device),
            in_real_numbers([image for image, _ in angles]),
            in_real_numbers([text for _, text in angles]),
            runs_of(tokens, device, varlen=varlen),
            runs_of(tokens, device, varlen=varlen, asking=outputs),
        )

    def _image_times(self, outputs: Sequence[int], images: Sequence[int], zeros: Sequence[int]) -> torch.Tensor:
        numbers, tokens = [], []
        for row, (output, image, zero) in enumerate(zip(outputs, images, zeros, strict=True)):
            numbers += [row, len(outputs) + zero if self._references_at_zero else row]
            tokens += [output, image - output]
        return times(numbers, tokens)


def times(numbers: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """Each number as often as it has tokens."""
    return torch.repeat_interleave(torch.tensor(numbers), torch.tensor(tokens))


def in_real_numbers(angles: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.view_as_real(torch.cat(list(angles)))
