"""Resident memory, file descriptors and threads of a server's processes, looked at again and again."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field

import psutil

from tests.kit.servers import Server
from tests.kit.stacks import processes

WARM_UP_SHARE = 0.1  # of the looks, left out
WINDOW_SHARE = 0.2  # of the looks after that, at either end


@dataclass
class Series:
    memory: list[int] = field(default_factory=list)  # bytes
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


class Resources:
    def __init__(self, server: Server) -> None:
        self._processes = processes(server)
        self.series = {part: Series() for part in self._processes}

    def look(self) -> None:
        for part, process in self._processes.items():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                self.series[part].memory.append(process.memory_info().rss)
                self.series[part].descriptors.append(process.num_fds())
                self.series[part].threads.append(process.num_threads())

    def __str__(self) -> str:
        return "\n".join(self._line(part, series) for part, series in self.series.items())

    def _line(self, part: str, series: Series) -> str:
        start, end = (value / 2**20 for value in _ends(series.memory))
        figures = [
            f"{part}: {start:.0f} MiB after the warm-up, {end:.0f} MiB at the end ({100 * (end / start - 1):+.1f} %)"
        ]
        for name, values in (("descriptors", series.descriptors), ("threads", series.threads)):
            first, last = _ends(values)
            figures.append(f"{name} {first:.0f} → {last:.0f}")
        return ", ".join(figures)


def _ends(values: list[int]) -> tuple[float, float]:
    warm = values[int(len(values) * WARM_UP_SHARE) :]
    window = max(1, int(len(warm) * WINDOW_SHARE))
    return statistics.median(warm[:window]), statistics.median(warm[-window:])
