"""Load and faults on a whole server of this machine: what was sent, answered, refused, lost.

Run: make bench-load ARGS=kills      # workers and servers killed under load
     make bench-load ARGS=balancer   # two Tritons behind HAProxy, one killed
     make bench-load ARGS=overload   # ten times what it can do
     make bench-load ARGS=soak       # full load for a long time

Everything is bounded in count and time, and talks to 127.0.0.1 only. `--help` lists the sizes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.clients import Clients, Edit, Tally, mix, percentile
from benchmarks.resources import Resources
from checkpoints.random_weights import write_checkpoint
from tests.kit.servers import Server, answers_200, serve
from tests.kit.stacks import Balanced, balanced, tritonserver, worker

SMALL = {"REFERENCE_AREA": "4096", "DEFAULT_STEPS": "4"}
UNLIMITED = {"MAX_FAILURES": "1000"}
PROBE_SECONDS = 0.02


def main() -> None:
    arguments = parse_arguments()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "plus", "plus", sensitive=True)
        asyncio.run(SCENARIOS[arguments.scenario](checkpoint, arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--server-kills", type=int, default=5)
    parser.add_argument("--balancer-kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the storm")
    parser.add_argument("--minutes", type=float, default=20.0, help="of the soak")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def kills(checkpoint: Path, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    with serve(checkpoint, **SMALL, **UNLIMITED) as server:
        load_seconds = time.monotonic() - started
        clients = Clients(server.url, mix(), arguments.seed)
        await clients.learn()
        victims = [worker] * arguments.worker_kills + [tritonserver] * arguments.server_kills
        random.shuffle(victims)
        running = asyncio.create_task(clients.closed_loop(arguments.clients))
        noticed, recovered = [], []
        for victim in victims:
            await asyncio.sleep(random.uniform(1.0, 5.0))
            unready, ready = await killed(server, victim)
            noticed.append(unready)
            recovered.append(ready)
        clients.stop.set()
        await running
        await until(lambda: server.metric("qwen_edit_jobs") == 0, 30)
        print(
            f"{arguments.clients} clients, {arguments.worker_kills} workers, {arguments.server_kills} servers killed:\n"
            f"{clients.tally}\n"
            f"/ready was 503 after {max(noticed):.1f} s at most, 200 again after {statistics.median(recovered):.1f} s "
            f"(median), {max(recovered):.1f} s (worst); the first start took {load_seconds:.1f} s\n"
            f"longest request {max(clients.tally.seconds):.1f} s; at the end the engine has "
            f"{server.metric('qwen_edit_jobs'):.0f} jobs and {server.metric('qwen_edit_cache_bytes'):.0f} bytes cached"
        )
        judge(clients.tally)


async def killed(server: Server, victim: Callable[[Server], Any]) -> tuple[float, float]:
    """Seconds until /ready said so, and until it was well again."""
    victim(server).kill()
    at = time.monotonic()
    await until(lambda: not answers_200(f"{server.url}/ready"), 10)
    unready = time.monotonic() - at
    await until(lambda: answers_200(f"{server.url}/ready"), 120)
    return unready, time.monotonic() - at


async def balancer(checkpoint: Path, arguments: argparse.Namespace) -> None:
    with balanced(checkpoint, **SMALL, **UNLIMITED) as stack:
        clients = Clients(stack.shim.url, mix(), arguments.seed)
        await clients.learn()
        running = asyncio.create_task(clients.closed_loop(arguments.clients))
        for number in range(arguments.balancer_kills):
            await asyncio.sleep(random.uniform(1.0, 4.0))
            await killed_of_two(stack, number)
        clients.stop.set()
        await running
        print(
            f"two Tritons behind HAProxy, {arguments.clients} clients, one of the two killed "
            f"{arguments.balancer_kills} times\n{clients.tally}\nlongest request {max(clients.tally.seconds):.1f} s"
        )
        judge(clients.tally)


async def killed_of_two(stack: Balanced, number: int) -> None:
    server = stack.tritons[number % 2]
    (worker if number % 4 < 2 else tritonserver)(server).kill()
    await until(lambda: not answers_200(server.healthz), 10)
    await until(lambda: answers_200(server.healthz), 120)
    await asyncio.sleep(1.0)  # until HAProxy has seen it


async def overload(checkpoint: Path, arguments: argparse.Namespace) -> None:
    edits = [edit for edit in mix() if len(edit.images) == 1]
    with serve(checkpoint, **SMALL, MAX_JOBS="16") as server:
        clients = Clients(server.url, edits, arguments.seed)
        await clients.learn()
        before = await latencies(clients, edits)
        capacity = await throughput(clients, 10.0)
        storm = Clients(server.url, edits, arguments.seed)
        storm.expected = clients.expected
        with probing(server.port) as probe:
            await open_loop(storm, 10 * capacity, arguments.seconds)
            health = probe()
        after = await latencies(clients, edits)
        refused = storm.tally.refused_seconds
        print(
            f"{capacity:.1f} edits/s are what it can do; {10 * capacity:.0f} a second for {arguments.seconds:.0f} s\n"
            f"{storm.tally}\n"
            f"refusals after the last byte: median {1000 * statistics.median(refused):.0f} ms, "
            f"p99 {1000 * percentile(refused, 99):.0f} ms, worst {1000 * max(refused):.0f} ms of {len(refused)}\n"
            f"/health: median {1000 * statistics.median(health):.1f} ms, p99 {1000 * percentile(health, 99):.1f} ms of "
            f"{len(health)}\nlatency of one edit at a time, after over before: {after / before:.2f} "
            f"({before:.3f} s, {after:.3f} s)"
        )
        judge(storm.tally)


async def latencies(clients: Clients, edits: list[Edit], rounds: int = 3) -> float:
    """Median over the rounds of the time that all edits take, one after the other."""
    totals = []
    async with clients.session() as session:
        for _ in range(rounds):
            started = time.monotonic()
            for edit in edits:
                await clients.one(session, edit)
            totals.append(time.monotonic() - started)
    return statistics.median(totals)


async def throughput(clients: Clients, seconds: float) -> float:
    """Edits a second of eight clients in a closed loop."""
    before = clients.tally.statuses[200]
    started = time.monotonic()
    running = asyncio.create_task(clients.closed_loop(8))
    await asyncio.sleep(seconds)
    clients.stop.set()
    await running
    return (clients.tally.statuses[200] - before) / (time.monotonic() - started)


async def open_loop(storm: Clients, rate: float, seconds: float) -> None:
    """Requests arrive at random moments, whether those before were answered or not."""
    async with storm.traced_session() as session, asyncio.TaskGroup() as group:
        until = time.monotonic() + seconds
        due = time.monotonic()
        while due < until:
            due += random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(storm.one(session, random.choice(storm.edits)))


async def soak(checkpoint: Path, arguments: argparse.Namespace) -> None:
    with serve(checkpoint, **SMALL) as server:
        clients = Clients(server.url, mix(), arguments.seed)
        await clients.learn()
        resources = Resources(server)
        running = asyncio.create_task(clients.closed_loop(arguments.clients, leaving=0.1))
        until_end = time.monotonic() + 60 * arguments.minutes
        while time.monotonic() < until_end:
            await asyncio.sleep(5.0)
            resources.look()
        clients.stop.set()
        await running
        print(f"{arguments.clients} clients for {arguments.minutes:.0f} minutes\n{clients.tally}\n{resources}")
        judge(clients.tally)


@contextlib.contextmanager
def probing(port: int) -> Iterator[Callable[[], list[float]]]:
    """A process of its own asks /health again and again; the callable ends it and tells how long each answer took."""
    ended, (ours, its) = multiprocessing.Event(), multiprocessing.Pipe()
    process = multiprocessing.Process(target=_probe, args=(port, ended, its), daemon=True)
    process.start()

    def result() -> list[float]:
        ended.set()
        seconds: list[float] = ours.recv()
        return seconds

    try:
        yield result
    finally:
        ended.set()
        process.join(10)


def _probe(port: int, ended: Event, answer: Any) -> None:
    seconds = []
    while not ended.wait(PROBE_SECONDS):
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200
        seconds.append(time.monotonic() - started)
        connection.close()
    answer.send(seconds)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        await asyncio.sleep(0.05)


def judge(tally: Tally) -> None:
    """Ends with a failure where anything was lost or wrong."""
    for line in tally.lost[:20]:
        print("lost:", line)
    if tally.lost or tally.wrong:
        sys.exit(1)


SCENARIOS = {"kills": kills, "balancer": balancer, "overload": overload, "soak": soak}

if __name__ == "__main__":
    main()
