"""A thread's own CUDA stream, so that what it computes runs beside the steps and not between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch


class OwnStream:
    """On a CPU there is none, and nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Around all that the thread does."""
        if self._stream is None:
            yield
            return
        torch.cuda.set_device(self._device)
        with torch.cuda.stream(self._stream):
            yield

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Waits until these are computed. Others may use them on the device's default stream, and let go of them there:
        their memory is used again only when that stream is done with it."""
        if self._stream is None:
            return
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.default_stream(tensor.device))
        self._stream.synchronize()
