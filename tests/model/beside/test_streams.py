"""Streams of whoever computes beside the steps: one on each of its GPUs, for which others stand in here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from qwen_edit.beside.streams import OwnStreams
from qwen_edit.pipeline import Devices

FIRST, SECOND, THIRD = (torch.device("cuda", number) for number in range(3))
CPU = torch.device("cpu")


class Stream:
    """What was entered, and waited for, in this order."""

    log: list[tuple[str, torch.device]]

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def synchronize(self) -> None:
        self.log.append(("waited", self.device))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.device]]:
    @contextlib.contextmanager
    def entered(stream: Stream) -> Iterator[None]:
        stream.log.append(("entered", stream.device))
        yield

    Stream.log = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    return Stream.log


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [
        (Devices.all(FIRST), {FIRST}),
        (Devices(FIRST, SECOND, SECOND), {FIRST, SECOND}),
        (Devices(FIRST, FIRST, SECOND), {FIRST, SECOND}),
        (Devices(SECOND, FIRST, THIRD), {FIRST, SECOND, THIRD}),
        (Devices(FIRST, CPU, FIRST), {FIRST}),
        (Devices.all(CPU), set()),
    ],
    ids=str,
)
def test_each_gpu_where_something_computes_has_one_and_the_transformers_is_current(
    log: list[tuple[str, torch.device]], devices: Devices, gpus: set[torch.device]
) -> None:
    streams = OwnStreams(devices)
    with streams.entered():
        assert sorted(map(str, gpus)) == sorted(str(device) for _, device in log)
        assert not gpus or log[-1] == ("entered", devices.transformer), "which makes its device the thread's own"
        log.clear()
        streams.hand_over([torch.zeros(1)])
        assert {device for word, device in log if word == "waited"} == gpus
