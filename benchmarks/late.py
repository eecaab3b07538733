"""Overload and order with deadlines: what becomes of edits that take a good part of the time-out, by counters.

    make bench-late ARGS=overload   # five times what the server can do, for four minutes
    make bench-late ARGS=mixed      # short and long edits at 85 % of what it can do, first come first served and not

A forward holds one edit, as one guided edit of a megapixel fills the default budget on a GPU. Clients do not retry;
each caller has a loopback address of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.clients import PHOTOS, percentile
from checkpoints.random_weights import write_checkpoint
from tests.kit.servers import Server, serve

ONE_AT_A_TIME = {"REFERENCE_AREA": "4096", "MAX_BATCH_TOKENS": "1", "CONDITIONING_CACHE_MB": "64"}
CALLERS = 20
SHORT, MIDDLE, LONG = 4, 40, 100  # steps
WEIGHTS = (8, 1, 1)
PROBE_STEPS = 60


@dataclass
class Ended:
    asked: dict[str, str]  # fields of every edit
    statuses: Counter[int] = field(default_factory=Counter)
    delivered: int = 0  # steps of the pictures that came
    seconds: dict[int, list[float]] = field(default_factory=dict)  # until the picture came, by steps
    refused: list[float] = field(default_factory=list)  # seconds until the refusal


async def edit(session: aiohttp.ClientSession, url: str, steps: int, ended: Ended) -> float:
    form = aiohttp.FormData({"prompt": "x", "num_inference_steps": str(steps), **ended.asked})
    form.add_field("image", PHOTOS["cat"], filename="cat.jpg")
    started = time.monotonic()
    async with session.post(f"{url}/v1/images/edits", data=form) as response:
        await response.read()
    seconds = time.monotonic() - started
    ended.statuses[response.status] += 1
    if response.status == 200:
        ended.delivered += steps
        ended.seconds.setdefault(steps, []).append(seconds)
    elif response.status == 429:
        ended.refused.append(seconds)
    return seconds


def sessions() -> list[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=600)
    return [
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, local_addr=(f"127.0.0.{number}", 0)), timeout=timeout
        )
        for number in range(2, 2 + CALLERS)
    ]


async def arrive(
    server: Server, arrivals: Iterable[tuple[float, int]], draw: random.Random, asked: dict[str, str]
) -> Ended:
    """Sends edits of so many steps at these moments, each from any caller, and waits for all answers."""
    ended, callers, started = Ended(asked), sessions(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for at, steps in arrivals:
            await asyncio.sleep(max(0.0, started + at - time.monotonic()))
            group.create_task(edit(draw.choice(callers), server.url, steps, ended))
    for session in callers:
        await session.close()
    return ended


def poisson(mean_gap: float, seconds: float, kinds: tuple[int, ...], draw: random.Random) -> list[tuple[float, int]]:
    at, found = 0.0, []
    while (at := at + draw.expovariate(1 / mean_gap)) < seconds:
        found.append((at, draw.choices(kinds, WEIGHTS[: len(kinds)])[0]))
    return found


async def seconds_of(server: Server, steps: int, asked: dict[str, str], times: int = 3) -> float:
    """Median of an edit that is alone."""
    async with aiohttp.ClientSession() as session:
        return statistics.median([await edit(session, server.url, steps, Ended(asked)) for _ in range(times)])


def counters(server: Server) -> dict[str, float]:
    stages = {stage: server.metric("qwen_edit_seconds_total", stage=stage) for stage in ("encode", "denoise", "decode")}
    return {"steps": server.metric("qwen_edit_steps_total"), "busy": sum(stages.values())}


async def overload(checkpoint: Path, arguments: argparse.Namespace) -> None:
    draw, asked = random.Random(arguments.seed), fields(arguments)
    settings = ONE_AT_A_TIME | {"REQUEST_TIMEOUT_SECONDS": str(arguments.timeout)}
    with serve(checkpoint, **settings) as server:
        await seconds_of(server, 4, asked)
        a_step = (await seconds_of(server, PROBE_STEPS, asked)) / PROBE_STEPS
        steps = max(4, min(100, round(arguments.timeout / 6 / a_step)))
        one = await seconds_of(server, steps, asked)
        arrivals = poisson(one / arguments.load, arguments.seconds, (steps,), draw)
        before, started = counters(server), time.monotonic()
        ended = await arrive(server, arrivals, draw, asked)
        seconds = time.monotonic() - started
        after = counters(server)
    made = after["steps"] - before["steps"]
    statuses = ", ".join(f"{count} × {status}" for status, count in sorted(ended.statuses.items()))
    print(
        f"edits of {steps} steps, {one:.1f} s alone, time-out {arguments.timeout:.0f} s, {arguments.load:g} times "
        f"what can be done for {arguments.seconds:.0f} s: {len(arrivals)} sent, {statuses}\n"
        f"steps made {made:.0f}, delivered {ended.delivered} ({100 * ended.delivered / made:.1f} %); the engine was "
        f"busy for {100 * (after['busy'] - before['busy']) / seconds:.1f} % of {seconds:.0f} s\n"
        f"refusals: median {1000 * percentile(ended.refused, 50):.0f} ms, worst "
        f"{1000 * max(ended.refused, default=0):.0f} ms"
    )


async def mixed(checkpoint: Path, arguments: argparse.Namespace) -> None:
    """Turn by turn, with the same arrivals."""
    asked = fields(arguments)
    results: dict[str, Ended] = {name: Ended(asked) for name in ("0", "3")}
    for turn in range(arguments.turns):
        gap = None
        for stretch, total in results.items():
            with serve(checkpoint, **ONE_AT_A_TIME, STRETCH=stretch) as server:
                await seconds_of(server, SHORT, asked)
                if gap is None:
                    each = [await seconds_of(server, steps, asked) for steps in (SHORT, MIDDLE, LONG)]
                    mean = sum(one * weight for one, weight in zip(each, WEIGHTS, strict=True)) / sum(WEIGHTS)
                    gap = mean / arguments.load
                    arrivals = poisson(gap, arguments.seconds, (SHORT, MIDDLE, LONG), random.Random(turn))
                add(total, await arrive(server, arrivals, random.Random(turn), asked))
    for stretch, ended in results.items():
        everything = [seconds for column in ended.seconds.values() for seconds in column]
        kinds = ", ".join(
            f"{steps} steps: mean {statistics.mean(column):.1f} s, p95 {percentile(column, 95):.1f} s of {len(column)}"
            for steps, column in sorted(ended.seconds.items())
        )
        print(f"STRETCH={stretch}: {dict(ended.statuses)}, mean {statistics.mean(everything):.2f} s; {kinds}")
    first, ours = (
        statistics.mean([seconds for column in results[name].seconds.values() for seconds in column])
        for name in ("0", "3")
    )
    late, before = (percentile(results[name].seconds[LONG], 95) for name in ("3", "0"))
    print(f"mean over first come, first served {ours / first:.2f}; p95 of the longest {late / before:.2f}")


def fields(arguments: argparse.Namespace) -> dict[str, str]:
    return {"size": arguments.size, "true_cfg_scale": arguments.guidance}


def add(total: Ended, more: Ended) -> None:
    total.statuses += more.statuses
    for steps, column in more.seconds.items():
        total.seconds.setdefault(steps, []).extend(column)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=240.0, help="of arrivals")
    parser.add_argument("--timeout", type=float, default=45.0, help="of the requests, in seconds")
    parser.add_argument("--load", type=float, default=5.0, help="times what can be done")
    parser.add_argument("--size", default="768x768")
    parser.add_argument("--guidance", default="1")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "plus", "plus")
        asyncio.run(SCENARIOS[arguments.scenario](checkpoint, arguments))


SCENARIOS: dict[str, Any] = {"overload": overload, "mixed": mixed}

if __name__ == "__main__":
    main()
