"""Thousands of generated bad inputs: each is refused in words and in time, and nobody else notices.

    make faults                                             # 24 000 inputs, about ten minutes
    FAULTS=full pytest tests/faults/test_hostile_input.py -s

The same inputs come in every run: hypothesis draws them from SEED.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.faults.bad_http import bad_http
from tests.faults.bad_inputs import EASY_LAYERS, bad_fields, bad_forms, bad_infer_json, bad_json, bad_pictures_in_a_form
from tests.faults.bad_tensors import bad_tensors_over_grpc, bad_tensors_over_http, good_layers
from tests.faults.calls import SECONDS, Answer, Call, close_connections
from tests.faults.watchers import Bystander, SlowClients, Usage, median_usage, usage
from tests.kit.haproxy import balancer
from tests.kit.servers import Server, serve

pytestmark = pytest.mark.faults

SEED = 20261125
FULL = os.environ.get("FAULTS") == "full"
INPUTS = 24_000 if FULL else 320
CLIENTS = 6  # that send bad inputs at the same time
PARTS = 12 if FULL else 2  # of the inputs; memory is measured after each
MEASURED = 4 if FULL else 1  # of these measurements the first and the last ones are compared, by their medians
GROWTH = 1.05  # of resident memory
UP_AND_DOWN = "tritonserver"  # whose memory goes with its largest requests
SHARED = 256 * 2**20  # bytes at most
BODY_TIMEOUT_SECONDS = 2
HEAD_SECONDS = 20  # shim.guards.protocol's

KINDS: dict[str, st.SearchStrategy[Call]] = {
    "pictures": bad_pictures_in_a_form(),
    "fields": bad_fields(),
    "forms": bad_forms(),
    "json": bad_json(),
    "http": bad_http(),
    "tensors over http": bad_tensors_over_http(),
    "tensors over grpc": bad_tensors_over_grpc(),
    "json to triton": bad_infer_json(),
}

# In short what only the shim or Triton sees is left out for a second family.
KINDS_21 = {name: KINDS[name] for name in ("pictures", "fields", "tensors over http")}
KINDS_LAYERED: dict[str, st.SearchStrategy[Call]] = {
    "pictures": bad_pictures_in_a_form(EASY_LAYERS),
    "fields": bad_fields(EASY_LAYERS),
    "tensors over http": bad_tensors_over_http(good_layers),
}
INPUTS_OF_OTHERS = 3000 if FULL else 30
CAPTIONS_SECONDS = 20.0  # captions are written one after the other


class Storm:
    """Sends what it is given, by several clients at once, and counts the answers."""

    def __init__(self, server: Server, seconds: float = SECONDS) -> None:
        """`seconds`: within which everything is answered."""
        self._seconds = seconds
        self.problems: list[str] = []
        self.statuses: dict[str, Counter[int | str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self._server = server
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._places = threading.Semaphore(2 * CLIENTS)
        self._lock = threading.Lock()
        self._leaving = threading.Barrier(CLIENTS)

    def send(self, call: Call) -> None:
        """Returns when it may be sent soon, not when it is answered."""
        self._places.acquire()
        self._pool.submit(self._send, call)

    def drain(self) -> None:
        """Returns when all is answered."""
        for _ in range(2 * CLIENTS):
            self._places.acquire()
        self._places.release(2 * CLIENTS)

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *raised: object) -> None:
        for _ in range(CLIENTS):
            self._pool.submit(self._leave)
        self._pool.shutdown()

    def check(self) -> None:
        of_each = {problem.partition("\n")[0]: problem for problem in self.problems}
        assert not self.problems, f"{len(self.problems)} problems:\n" + "\n".join([*of_each.values()][:20])
        assert self._server.process.poll() is None, f"the server has ended:\n{self._server.log[-3000:]}"

    def _leave(self) -> None:
        self._leaving.wait()  # so that every thread leaves once
        close_connections()

    def _send(self, call: Call) -> None:
        try:
            answer = call.send(self._server)
            problem = call.problem(answer)
            if answer.seconds > self._seconds:
                problem = f"answered after {answer.seconds:.1f} s"
            self._count(call, answer, problem)
        except Exception as error:
            self._count(call, Answer("failed", b"", 0.0), repr(error))
        finally:
            self._places.release()

    def _count(self, call: Call, answer: Answer, problem: str | None) -> None:
        with self._lock:
            self.statuses[call.kind][answer.status] += 1
            self.slowest[call.kind] = max(self.slowest[call.kind], answer.seconds)
            if problem:
                self.problems.append(f"{problem}\n  of {call.shown()}")

    def table(self) -> str:
        rows = [
            f"{kind:16} {sum(counted.values()):6}  slowest {self.slowest[kind]:5.2f} s  "
            + ", ".join(f"{status}: {count}" for status, count in counted.most_common())
            for kind, counted in self.statuses.items()
        ]
        return "\n".join(rows)


@pytest.fixture(scope="module", params=["plus", "2.1"] if FULL else ["plus"])
def server(
    request: pytest.FixtureRequest,
    sensitive: Callable[[str], Path],
    program: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Limits so low that what is over them is quickly sent, and a cache that is soon full."""
    program("haproxy")
    with (
        serve(
            sensitive(request.param),
            DEFAULT_STEPS="2",
            REFERENCE_AREA="4096",
            MAX_SIDE="128",
            MAX_STEPS="8",
            MAX_INPUT_PIXELS="5000000",
            MAX_BODY_BYTES=str(8 * 2**20),
            MAX_OUTPUTS_PER_REQUEST="4",
            CONDITIONING_CACHE_MB="4",
            PREFIX_CACHE_MB="1",
            BODY_TIMEOUT_SECONDS=str(BODY_TIMEOUT_SECONDS),
            TMPDIR=str(tmp_path_factory.mktemp("spool")),
        ) as server,
        balancer(server) as proxy,
    ):
        server.balancer_port = proxy.port
        yield server


def rain(
    storm: Storm, inputs: int, number: int, kinds: Mapping[str, st.SearchStrategy[Call]] = MappingProxyType(KINDS)
) -> None:
    """So many inputs of every kind in turn, answered; `number` sets them apart from those of another call."""
    for calls in kinds.values():
        share = inputs // len(kinds)

        @seed(SEED + number)
        @settings(
            max_examples=share,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(calls)
        def pour(call: Call) -> None:
            storm.send(call)

        pour()
    storm.drain()


def has_grown(name: str, used: list[dict[str, Usage]]) -> bool:
    """By the medians; what goes up and down, where even the least at the end is more than the most in the beginning."""
    memory = [part[name].memory for part in used]
    first, last = memory[:MEASURED], memory[-MEASURED:]
    if name == UP_AND_DOWN:
        return min(last) > GROWTH * max(first)
    return statistics.median(last) > GROWTH * statistics.median(first)


def growth(before: dict[str, Usage], after: dict[str, Usage]) -> str:
    return "\n".join(
        f"{name:16} {before[name].memory / 2**20:.1f} MiB → {after[name].memory / 2**20:.1f} MiB, "
        f"{before[name].shared / 2**20:.1f} → {after[name].shared / 2**20:.1f} MiB shared, "
        f"{before[name].files} → {after[name].files} files, {before[name].threads} → {after[name].threads} threads"
        for name in before
    )


def test_no_bad_input_does_harm(
    server: Server, photo: Callable[[str], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    slow = SlowClients(server, HEAD_SECONDS + 5, BODY_TIMEOUT_SECONDS + 5)
    with Bystander(server, photo("coffee")) as bystander, slow, Storm(server) as storm:
        used: list[dict[str, Usage]] = []
        for part in range(PARTS):
            rain(storm, INPUTS // PARTS, part)
            used.append(usage(server))
        before, after = median_usage(used[:MEASURED]), median_usage(used[-MEASURED:])
    with capsys.disabled():
        print(f"\n{storm.table()}\n{growth(before, after)}")
        for name in before:
            print(f"{name:16} {' '.join(f'{part[name].memory / 2**20:.1f}' for part in used)} MiB")
        print(f"bystander: {len(bystander.seconds)} edits, slowest {max(bystander.seconds):.2f} s")
        print(f"slow clients ended: {slow.ended}")
    storm.check()
    assert not bystander.problems, bystander.problems
    assert not slow.problems, slow.problems
    assert "Traceback" not in server.log
    for name, grown in after.items():
        assert grown.files <= before[name].files + 8, growth(before, after)
        assert grown.shared <= SHARED, growth(before, after)
        assert grown.threads <= before[name].threads + 8, growth(before, after)
        assert not FULL or not has_grown(name, used), growth(before, after)


@pytest.mark.skipif(FULL, reason="test_no_bad_input_does_harm has this family too")
def test_no_bad_input_harms_a_model_with_prefixes(stack21: Server, photo: Callable[[str], bytes]) -> None:
    with Bystander(stack21, photo("coffee")) as bystander, Storm(stack21) as storm:
        rain(storm, INPUTS_OF_OTHERS, PARTS, KINDS_21)
    storm.check()
    assert not bystander.problems, bystander.problems
    assert "Traceback" not in stack21.log


def test_no_bad_input_harms_a_model_that_takes_pictures_apart(layered: Server, photo: Callable[[str], bytes]) -> None:
    with Bystander(layered, photo("coffee"), layers="2") as bystander, Storm(layered, CAPTIONS_SECONDS) as storm:
        rain(storm, INPUTS_OF_OTHERS, PARTS, KINDS_LAYERED)
    storm.check()
    assert not bystander.problems, bystander.problems
    assert "Traceback" not in layered.log
