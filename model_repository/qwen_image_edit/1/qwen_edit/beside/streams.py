"""A thread's own CUDA streams, so that what it computes runs beside the steps and not between them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch

from qwen_edit.pipeline import Devices


class OwnStreams:
    """One on each GPU where something computes. On a CPU there are none, and nothing to do."""

    def __init__(self, devices: Devices) -> None:
        others = {devices.text_encoder, devices.vae} - {devices.transformer}
        gpus = [device for device in (*others, devices.transformer) if device.type == "cuda"]
        self._streams = [torch.cuda.Stream(device) for device in gpus]  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Around all that the thread does; the transformer's device, whose stream is the last, is then its current."""
        with contextlib.ExitStack() as entered:
            for stream in self._streams:
                entered.enter_context(torch.cuda.stream(stream))
            yield

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Waits until these are computed. Others may use them on a device's default stream, and let go of them there:
        their memory is used again only when that stream is done with it."""
        if not self._streams:
            return
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(torch.cuda.default_stream(tensor.device))
        for stream in self._streams:
            stream.synchronize()
