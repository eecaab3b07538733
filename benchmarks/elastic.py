"""Servers that come and go behind the chart's own HAProxy configuration, under clients that never try again.

Run: make bench-elastic ARGS=scaling   # 1 → 3 → 1 Tritons, all replaced at once, one killed, a DNS silent for a minute
     make bench-elastic ARGS=rolling   # two Tritons and two shims restarted in turn, again and again
     make bench-elastic ARGS=mixed     # the release before beside this one, rolled out and back, Tritons and then shims
     make bench-elastic ARGS=long      # a shim is stopped in the middle of a long edit

Real Tritons on 127.0.0.x are found by a DNS of our own, as pods would be; what is not there is a cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import requests

from benchmarks.clients import Clients, Edit, mix, post
from benchmarks.load import judge, until
from checkpoints.random_weights import write_checkpoint
from tests.kit.chart import LEAST, Helm
from tests.kit.cluster import Dns, Service, ingress, rendered_balancer
from tests.kit.releases import previous
from tests.kit.servers import PROJECT, Server, free_ports, serve_shim_of
from tests.kit.stacks import SUPERVISOR_PORTS, supervise_at, tritonserver
from tests.kit.tools import TOOLS

SMALL = {"REFERENCE_AREA": "4096", "DEFAULT_STEPS": "4", "SEGMENT_STEPS": "5"}
CLIENTS = 6
SETTLED_SECONDS = 3.0  # until HAProxy has seen a change of the DNS, and a check or two


class Cluster:
    def __init__(self, checkpoint: Path, folder: Path, resources: contextlib.ExitStack) -> None:
        self.folder = folder
        self._checkpoint = checkpoint
        self.resources = resources
        self._ports = free_ports(len(SUPERVISOR_PORTS))
        self._number = 10
        self._opened: dict[Server, contextlib.ExitStack] = {}
        self.dns = Dns()
        self.service = Service()
        self.tritons: list[Server] = []
        self.shims: list[Server] = []
        manifests = Helm(TOOLS / "helm" / "helm" / "helm").render(*LEAST)
        self.balancer = resources.enter_context(
            rendered_balancer(manifests, self.dns, folder, triton_port=self._ports[0], health_port=self._ports[3])
        )

    def _open(self, entering: contextlib.AbstractContextManager[Server]) -> Server:
        opened = self.resources.enter_context(contextlib.ExitStack())
        server = opened.enter_context(entering)
        self._opened[server] = opened
        return server

    async def start_triton(self, release: Path = PROJECT) -> Server:
        """In the DNS once it is healthy, as what is not is in it too, and HAProxy looks for itself."""
        self._number += 1
        address = f"127.0.0.{self._number}"
        entering = supervise_at(address, self._ports, self._checkpoint, SMALL, release)
        server = await asyncio.to_thread(self._open, entering)
        self.tritons.append(server)
        self._tell()
        return server

    async def stop_triton(self, server: Server) -> None:
        """As a pod stops: it is in the DNS until it has ended."""
        server.process.terminate()
        await until(lambda: server.process.poll() is not None, 120)
        self.tritons.remove(server)
        self._tell()
        await asyncio.to_thread(self._opened.pop(server).close)

    async def start_shim(self, release: Path = PROJECT, **more: str) -> Server:
        url = self.balancer.url
        settings = {"HEALTH_URL": f"{url}/healthz", "DRAIN_SECONDS": "300", "SEGMENT_STEPS": "5"} | more
        entering = serve_shim_of(release, url, settings, wait_for="/health")
        server = await asyncio.to_thread(self._open, entering)
        self.shims.append(server)
        self.service.ports = [shim.port for shim in self.shims]
        return server

    async def stop_shim(self, server: Server) -> None:
        """As a pod stops: the Service sends it no new connection, and it drains."""
        self.shims.remove(server)
        self.service.ports = [shim.port for shim in self.shims]
        await asyncio.sleep(1.0)
        server.process.terminate()
        await until(lambda: server.process.poll() is not None, 310)
        await asyncio.to_thread(self._opened.pop(server).close)

    def _tell(self) -> None:
        self.dns.addresses = [server.address for server in self.tritons]


async def worked(server: Server) -> float:
    """Seconds until a new server has made a step."""
    started = time.monotonic()
    await until(lambda: server.metric("qwen_edit_steps_total") > 0, 60)
    return time.monotonic() - started


def sent_again(shims: list[Server]) -> float:
    """Segments that broke off and were sent again, of the shims that run."""
    lines = [
        line
        for shim in shims
        for line in requests.get(f"{shim.url}/metrics", timeout=10).text.splitlines()
        if line.startswith("shim_segments_interrupted_total ")
    ]
    return sum(float(line.split()[1]) for line in lines)


@contextlib.asynccontextmanager
async def under_load(url: str) -> AsyncIterator[Clients]:
    clients = Clients(url, mix())
    await clients.learn()
    running = asyncio.create_task(clients.closed_loop(CLIENTS))
    try:
        yield clients
    finally:
        clients.stop.set()
        await running


async def scaling(cluster: Cluster, arguments: argparse.Namespace) -> None:
    await cluster.start_triton()
    await cluster.start_shim()
    async with cluster.service.listening():
        await until(lambda: requests.get(f"{cluster.shims[0].url}/ready", timeout=5).status_code == 200, 60)
        async with under_load(cluster.service.url) as clients:

            async def step(name: str, again_before: float) -> float:
                await asyncio.sleep(SETTLED_SECONDS)
                again = sent_again(cluster.shims)
                print(f"{name}: {clients.tally}, {again - again_before:.0f} segments sent again", flush=True)
                return again

            first = [await worked(await cluster.start_triton()) for _ in range(2)]
            again = await step(f"1 → 3, new ones at work after {max(first):.1f} s", 0.0)
            for server in cluster.tritons[1:]:
                await cluster.stop_triton(server)
            again = await step("3 → 1", again)
            old = list(cluster.tritons)
            new = [await cluster.start_triton() for _ in range(2)]
            await asyncio.gather(*(cluster.stop_triton(server) for server in old))
            again = await step("all replaced", again)
            tritonserver(new[0]).kill()
            again = await step("one killed", again)
            cluster.dns.silent = True
            await asyncio.sleep(arguments.silent)
            cluster.dns.silent = False
            again = await step(f"DNS silent for {arguments.silent:.0f} s", again)
    print(f"at the end: {clients.tally}; longest request {max(clients.tally.seconds):.1f} s")
    judge(clients.tally)


async def rolling(cluster: Cluster, arguments: argparse.Namespace) -> None:
    for _ in range(2):
        await cluster.start_triton()
        await cluster.start_shim()
    async with cluster.service.listening():
        await until(lambda: requests.get(f"{cluster.shims[0].url}/ready", timeout=5).status_code == 200, 60)
        again = 0.0
        async with under_load(cluster.service.url) as clients:
            for number in range(arguments.rounds):
                for server in list(cluster.tritons):
                    await cluster.start_triton()
                    await asyncio.sleep(SETTLED_SECONDS)
                    await cluster.stop_triton(server)
                again += sent_again(cluster.shims)
                for shim in list(cluster.shims):
                    await cluster.start_shim()
                    await cluster.stop_shim(shim)
                print(f"{number + 1}: {clients.tally}, {again:.0f} segments sent again", flush=True)
            again += sent_again(cluster.shims)
    print(f"{arguments.rounds} rolling restarts: {clients.tally}, {again:.0f} segments sent again")
    judge(clients.tally)


async def mixed(cluster: Cluster, arguments: argparse.Namespace) -> None:
    """Behind a proxy that asks for /ready: a shim of 2.0.0 that drains lets go of no client's connection."""
    old = await asyncio.to_thread(previous, cluster.folder)
    assert old, "a copy without its history"
    ports = free_ports(2)
    proxy = cluster.resources.enter_context(ingress(cluster.folder, *ports))
    triton, shim = await cluster.start_triton(old), await cluster.start_shim(PORT=str(ports[0]))
    await until(lambda: requests.get(f"{shim.url}/ready", timeout=5).status_code == 200, 60)
    await asyncio.sleep(SETTLED_SECONDS)
    async with under_load(proxy.url) as clients:

        async def together(what: str) -> None:
            await asyncio.sleep(arguments.together)
            print(f"{what}: {clients.tally}", flush=True)

        def alone(release: Path) -> str:
            return "the old one alone" if release == old else "the new one alone"

        for _ in range(arguments.rounds):
            for release in (PROJECT, old):
                leaving, triton = triton, await cluster.start_triton(release)
                await together("an old Triton and a new one")
                await cluster.stop_triton(leaving)
                await together(alone(release))
        new = await cluster.start_triton()
        await together("an old Triton and a new one")
        tritonserver(new).kill()
        await together("the new one killed, and started again")
        for _ in range(arguments.rounds):
            for release, port in ((old, ports[1]), (PROJECT, ports[0])):
                leaving, shim = shim, await cluster.start_shim(release, PORT=str(port))
                await together("an old shim and a new one")
                again = sent_again([leaving])
                await cluster.stop_shim(leaving)
                await together(f"{alone(release)}; {again:.0f} segments sent again by the other")
    judge(clients.tally)


async def long(cluster: Cluster, arguments: argparse.Namespace) -> None:
    await cluster.start_triton()
    shim = await cluster.start_shim()
    await until(lambda: requests.get(f"{shim.url}/ready", timeout=5).status_code == 200, 60)
    fields = {"prompt": "long", "size": "1024x1024", "steps": "100", "cfg": "4", "seed": "1", "n": str(arguments.n)}
    timeout = aiohttp.ClientTimeout(total=400)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        started = time.monotonic()
        edit = asyncio.create_task(post(session, shim.url, Edit(tuple(fields.items()), ("cat",))))
        await asyncio.sleep(5.0)
        shim.process.terminate()
        status, answer, _ = await edit
    seconds = time.monotonic() - started
    print(f"an edit of {seconds:.0f} s on a shim that was stopped after 5 s: {status}, {len(answer.get('data', []))}")
    assert status == 200, answer


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    scenarios = {"scaling": scaling, "rolling": rolling, "mixed": mixed, "long": long}
    parser.add_argument("scenario", choices=scenarios)
    parser.add_argument("--rounds", type=int, default=20, help="of restarts, or from one release to the other and back")
    parser.add_argument("--together", type=float, default=20.0, help="seconds in which two releases are mixed")
    parser.add_argument("--silent", type=float, default=60.0, help="seconds without an answer of the DNS")
    parser.add_argument("--n", type=int, default=8, help="outputs of the long edit")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as resources:
        checkpoint = write_checkpoint(Path(name) / "plus", "plus", sensitive=True)
        cluster = Cluster(checkpoint, Path(name), resources)
        await scenarios[arguments.scenario](cluster, arguments)


if __name__ == "__main__":
    asyncio.run(main())
