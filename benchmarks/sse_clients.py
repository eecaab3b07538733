"""Many streamed edits that wait, each with a photograph of its own: what they cost the shim.

The model is kept busy with large edits, so that nearly all of them only wait. Prints the latency of /health, the shim's
memory, and the longest silence that any client saw.

Run: make bench-sse_clients
"""

from __future__ import annotations

import argparse
import asyncio
import io
import itertools
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
from PIL import Image

from checkpoints.random_weights import write_checkpoint
from tests.kit.servers import Server, serve, serve_shim

EDIT = {"prompt": "x", "size": "512x512", "num_inference_steps": "100", "stream": "true"}
PROBE_SECONDS = 0.05
MIB = 2**20


@dataclass
class Client:
    heard: list[float] = field(default_factory=list)  # times of everything that came, the headers first
    status: int = 0


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_checkpoint(Path(folder) / "plus", "plus")
        jobs = str(arguments.clients + 1)
        with (
            serve(checkpoint, MAX_JOBS=jobs, REFERENCE_AREA="4096") as stack,
            serve_shim(f"http://{stack.triton_http}", LOG_LEVEL="WARNING") as shim,
        ):
            asyncio.run(measure(shim, arguments.clients, arguments.seconds, photograph(arguments.megabytes)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0, help="of waiting, after the uploads")
    parser.add_argument("--megabytes", type=float, default=5.0)
    return parser.parse_args()


def photograph(megabytes: float) -> bytes:
    """A PNG of noise, which does not compress."""
    side = int((megabytes * MIB / 3) ** 0.5)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


async def measure(shim: Server, count: int, seconds: float, photo: bytes) -> None:
    clients = [Client() for _ in range(count)]
    before = memory(shim)["VmRSS"]
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:
        started = time.monotonic()
        reading = [
            asyncio.create_task(read(session, shim, client, own(photo, number)))
            for number, client in enumerate(clients)
        ]
        while not all(client.status for client in clients):
            await asyncio.sleep(0.1)
        uploaded = time.monotonic() - started
        latencies = await probe(session, shim, seconds)
        now = memory(shim)
        silences = [longest_silence(client, time.monotonic()) for client in clients]
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    ordered = [1000 * latency for latency in sorted(latencies)]
    p99 = ordered[len(ordered) * 99 // 100]
    print(
        f"{count} clients with {len(photo) / MIB:.1f} MiB each; answers {dict(Counter(c.status for c in clients))}\n"
        f"uploaded in {uploaded:.1f} s; then for {seconds:.0f} s:\n"
        f"/health: median {statistics.median(ordered):.1f} ms, p99 {p99:.1f} ms, worst {ordered[-1]:.1f} ms of "
        f"{len(ordered)}\n"
        f"shim's resident memory: {before} MiB before, {now['VmRSS']} MiB while they wait, {now['VmHWM']} MiB at most\n"
        f"longest silence of any client: {max(silences):.1f} s"
    )


def own(photo: bytes, number: int) -> bytes:
    """What follows a PNG's end is not read, and makes it another file."""
    return photo + number.to_bytes(16, "big")


async def read(session: aiohttp.ClientSession, shim: Server, client: Client, photo: bytes) -> None:
    form = aiohttp.FormData(EDIT)
    form.add_field("image", photo, filename="photo.png")
    async with session.post(f"{shim.url}/v1/images/edits", data=form) as response:
        client.status = response.status
        client.heard.append(time.monotonic())
        async for _ in response.content.iter_any():
            client.heard.append(time.monotonic())


async def probe(session: aiohttp.ClientSession, shim: Server, seconds: float) -> list[float]:
    """Latencies of /health."""
    latencies, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        async with session.get(f"{shim.url}/health") as response:
            await response.read()
        latencies.append(time.monotonic() - started)
        await asyncio.sleep(PROBE_SECONDS)
    return latencies


def longest_silence(client: Client, now: float) -> float:
    times = [*client.heard, now]
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def memory(server: Server) -> dict[str, int]:
    """MiB by the kernel's names: VmRSS is what is resident, VmHWM the most that was."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    pairs = [line.split() for line in lines if line.startswith(("VmRSS", "VmHWM"))]
    return {name.rstrip(":"): int(kilobytes) // 1024 for name, kilobytes, _ in pairs}


if __name__ == "__main__":
    main()
