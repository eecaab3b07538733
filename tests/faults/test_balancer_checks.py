"""What the shipped haproxy.cfg makes of what Tritons and their supervisors answer."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import requests

from tests.faults.stand_ins import StandIn, stand_ins
from tests.kit.cluster import Dns
from tests.kit.haproxy import balancer, resolving_balancer
from tests.kit.servers import PROJECT, Server, free_ports

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("haproxy")]


@pytest.fixture(scope="module")
def haproxy(program: Callable[[str], str]) -> str:
    return program("haproxy")


def post(proxy: Server, edit_id: str | None = None, server: str | None = None) -> requests.Response:
    named = {"x-edit-id": edit_id, "x-triton": server}
    headers = {name: value for name, value in named.items() if value}
    return requests.post(f"{proxy.url}/v2/models/qwen_image_edit/infer", b"x", headers=headers, timeout=20)


def servers_of(proxy: Server, *edit_ids: str) -> dict[str, int]:
    """The ports of those who answered."""
    answers = {edit_id: post(proxy, edit_id) for edit_id in edit_ids}
    assert {answer.status_code for answer in answers.values()} == {200}
    return {edit_id: int(answer.text) for edit_id, answer in answers.items()}


def become(proxy: Server, number: int, state: str) -> None:
    """Waits until HAProxy says so of a server."""
    said = re.compile(rf"Server tritons/triton-{number} is (UP|DOWN|stopping)")
    proxy.wait_for(lambda: said.findall(proxy.log)[-1:] == [state], seconds=5)


def refuse_new_edits(proxy: Server) -> None:
    for answer in (post(proxy), post(proxy, "a new one")):
        assert (answer.status_code, answer.json().keys()) == (503, {"error"})
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert requests.get(f"{proxy.url}/healthz", timeout=5).status_code == 503


def test_a_draining_server_keeps_its_edits_and_gets_no_new_ones_until_it_is_started_again() -> None:
    under_way = [f"edit-{number}" for number in range(6)]
    with stand_ins(2) as (one, other), balancer(one, other) as proxy:
        before = servers_of(proxy, *under_way)
        assert set(before.values()) == {one.server_port, other.server_port}

        one.health = 404
        become(proxy, 1, "stopping")
        assert servers_of(proxy, *under_way) == before
        assert set(servers_of(proxy, "new-1", "new-2", "new-3").values()) == {other.server_port}

        other.health = 404
        become(proxy, 2, "stopping")
        assert servers_of(proxy, *under_way) == before
        refuse_new_edits(proxy)

        one.close()
        become(proxy, 1, "DOWN")
        refuse_new_edits(proxy)
        restarted = StandIn(one.server_port)
        try:
            become(proxy, 1, "UP")
            assert set(servers_of(proxy, "new-4", "new-5").values()) == {one.server_port}
            health = requests.get(f"{proxy.url}/healthz", timeout=5)
            assert (health.status_code, health.json()) == (200, {"status": "ok", "servers": 1, "slots": 8})
        finally:
            restarted.close()


def test_an_edit_that_was_refused_is_not_bound_to_who_refused_it() -> None:
    """In the moment between a server's decision to drain and the balancer's next look at it."""
    with stand_ins(2) as (one, other), balancer(one, other) as proxy:
        one.refuses = True
        for number in range(4):
            tries = [post(proxy, f"edit-{number}").status_code for _ in range(4)]
            assert 200 in tries
            assert 503 not in tries[tries.index(200) :]


def have_servers(proxy: Server, count: int) -> None:
    """Waits until it has so many."""
    health = f"{proxy.url}/healthz"
    proxy.wait_for(lambda: requests.get(health, timeout=5).json().get("servers", 0) == count, seconds=10)


def answers_by_name(proxy: Server, servers: Sequence[StandIn], edit_id: str) -> dict[str, int]:
    """Of a call for each slot that the balancer says it has, once it has the servers: a port, or a status."""
    have_servers(proxy, len(servers))
    slots = requests.get(f"{proxy.url}/healthz", timeout=5).json()["slots"]
    names = [f"triton-{number}" for number in range(1, slots + 1)]
    answers = {name: post(proxy, edit_id, name) for name in names}
    return {name: int(answer.text) if answer.ok else answer.status_code for name, answer in answers.items()}


def test_a_call_that_names_a_server_goes_there_or_to_nobody_and_binds_its_edit_to_none() -> None:
    with stand_ins(3) as (draining, gone, well), balancer(draining, gone, well) as proxy:
        ports = {f"triton-{number}": each.server_port for number, each in enumerate((draining, gone, well), 1)}
        nobody = {f"triton-{number}": 404 for number in range(4, 9)}
        assert answers_by_name(proxy, (draining, gone, well), "a") == ports | nobody

        draining.health = 404
        become(proxy, 1, "stopping")
        gone.close()
        become(proxy, 2, "DOWN")
        assert answers_by_name(proxy, (well,), "a") == ports | nobody | {"triton-2": 404}
        assert post(proxy, "b", "triton-1").text == str(draining.server_port)
        assert servers_of(proxy, "a", "b") == {"a": well.server_port, "b": well.server_port}


def test_a_call_for_every_slot_reaches_each_server_that_the_dns_names_once() -> None:
    with contextlib.ExitStack() as stack:
        dns, (port,) = stack.enter_context(contextlib.closing(Dns())), free_ports(1)
        dns.addresses = ["127.0.0.21", "127.0.0.22", "127.0.0.23"]
        servers = [stack.enter_context(contextlib.closing(StandIn(port, address))) for address in dns.addresses]
        proxy = stack.enter_context(resolving_balancer(dns.at, port))
        answers = answers_by_name(proxy, servers, "a")
        assert len(answers) == 32
        assert Counter(answers.values()) == {port: 3, 404: 29}
        assert [each.edits for each in servers] == [1, 1, 1]


@dataclass(frozen=True)
class Named:
    """One that the balancer knows by a name of the DNS."""

    supervisor_port: int

    @property
    def triton_http(self) -> str:
        return f"triton:{self.supervisor_port}"


def test_servers_of_a_container_that_was_made_again_are_found_at_its_new_address() -> None:
    ports = free_ports(2)
    with contextlib.ExitStack() as stack:
        dns = stack.enter_context(contextlib.closing(Dns()))
        dns.addresses = ["127.0.0.21"]
        before = [stack.enter_context(contextlib.closing(StandIn(port, "127.0.0.21"))) for port in ports]
        names = map(Named, ports)
        proxy = stack.enter_context(balancer(*names, RESOLVE_AGAIN="1", RESOLVER=dns.at))
        have_servers(proxy, 2)
        for each in before:
            each.close()
        have_servers(proxy, 0)
        after = [stack.enter_context(contextlib.closing(StandIn(port, "127.0.0.22"))) for port in ports]
        dns.addresses = ["127.0.0.22"]
        have_servers(proxy, 2)
        assert set(servers_of(proxy, "a", "b").values()) == {each.server_port for each in after}


def test_a_server_that_is_gone_unnoticed_costs_no_edit_anything() -> None:
    with stand_ins(2) as (one, other), balancer(one, other) as proxy:
        its_own = [edit_id for edit_id, port in servers_of(proxy, "a", "b").items() if port == one.server_port]
        one.close()
        assert set(servers_of(proxy, *its_own, "new-1", "new-2").values()) == {other.server_port}


def test_late_and_lost_checks_are_no_death_but_six_lost_in_a_row_and_refused_ones_are() -> None:
    with stand_ins(3) as (lossy, dead, gone), balancer(lossy, dead, gone) as proxy:
        lossy.script = [*["lost"] * 5, "late"] * 2
        dead.script = ["lost"] * 6
        gone.close()
        proxy.wait_for(lambda: not (lossy.script or dead.script))
        checks = lossy.checks
        proxy.wait_for(lambda: lossy.checks > checks + 1)
        become(proxy, 2, "UP")
        become(proxy, 3, "DOWN")
        assert Counter(re.findall(r"triton-\d is DOWN", proxy.log)) == {"triton-2 is DOWN": 1, "triton-3 is DOWN": 1}


def test_an_edit_of_a_server_that_is_marked_down_ends_at_once() -> None:
    """Though its connection is open: who waits for it can go on elsewhere."""
    with stand_ins(1) as (hung,), balancer(hung) as proxy, ThreadPoolExecutor() as pool:
        hung.goes_on.clear()
        call = pool.submit(post, proxy, "edit")
        try:
            proxy.wait_for(lambda: hung.edits == 1)
            hung.script = ["lost"] * 100
            become(proxy, 1, "DOWN")
            proxy.wait_for(call.done, seconds=5)
        finally:
            hung.goes_on.set()
    assert call.result().status_code in (502, 503)


def test_a_dead_process_refuses_as_many_checks_within_a_second_as_end_it() -> None:
    configuration = (PROJECT / "haproxy.cfg").read_text()
    (line,) = re.findall(r"^ +default-server inter (\d+)ms fastinter (\d+)ms fall (\d+) ", configuration, re.MULTILINE)
    first, following, fall = map(int, line)
    assert first + (fall - 1) * following < 1000
