from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from standalone.engines import EngineState, EngineWatch, parse
from standalone.observer import Observer

METRICS = """\
# HELP qwen_edit_edits_total Edits by how they ended
# TYPE qwen_edit_edits_total counter
qwen_edit_edits_total{engine="one",outcome="finished"} 3
qwen_edit_edits_total{engine="one",outcome="failed"} 1
qwen_edit_edits_total{engine="two",outcome="finished"} 7
qwen_edit_pictures_total{engine="one"} 9
qwen_edit_steps_total{engine="one"} 120
qwen_edit_rows_per_step_count{engine="one"} 40
qwen_edit_rows_per_step_sum{engine="one"} 80
qwen_edit_rows_per_step_bucket{engine="one",le="1"} 12
qwen_edit_seconds_total{engine="one",stage="queue"} 100
qwen_edit_seconds_total{engine="one",stage="encode"} 2.5
qwen_edit_seconds_total{engine="one",stage="denoise"} 20
qwen_edit_jobs{engine="one",state="waiting"} 2
qwen_edit_jobs{engine="one",state="running"} 1
qwen_edit_jobs{engine="two",state="running"} 0
qwen_edit_away{engine="one"} 2
qwen_edit_heartbeat_timestamp_seconds{engine="one"} 1795000000.25
nv_inference_count{model="qwen_image_edit",version="1"} 5
"""
NOW = 1000.0  # the looker's clock
BEAT = 1795000000.0  # the engine's wall clock
HOUR = 3600.0
IDLE = EngineState(
    heartbeat=BEAT,
    jobs=0,
    away=0,
    steps=0,
    ended=0,
    pictures=0,
    encode_seconds=0,
    decode_seconds=0,
    denoise_seconds=0,
    forwards=0,
)
BUSY = replace(IDLE, jobs=3)


def test_the_state_of_every_instance_is_read() -> None:
    states = parse(METRICS)
    assert states.keys() == {"one", "two"}
    assert states["one"] == EngineState(
        heartbeat=1795000000.25,
        jobs=3,
        away=2,
        steps=120,
        ended=4,
        pictures=9,
        encode_seconds=2.5,
        decode_seconds=0,
        denoise_seconds=20,
        forwards=40,
    )
    assert (states["two"].jobs, states["two"].ended) == (0, 7)


def test_what_is_unfinished_is_held_or_between_two_segments_and_only_what_is_held_can_stall() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(replace(BUSY, away=2), NOW)
    assert watch.unfinished == 5
    watch.observe(replace(IDLE, away=2), NOW)
    watch.observe(replace(IDLE, away=2, heartbeat=BEAT + 61), NOW + 61)
    assert (watch.unfinished, watch.stalled(NOW + 61)) == (2, None)


def test_an_engine_with_edits_and_no_step_is_stalled_after_the_limit() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(BUSY, NOW)
    watch.observe(replace(BUSY, heartbeat=BEAT + 60), NOW + 60)
    assert watch.stalled(NOW + 60) is None
    assert watch.stalled(NOW + 61) == "its engine has 3 edits and made no step for 61 s"


@pytest.mark.parametrize(
    "moved",
    [
        replace(BUSY, steps=1.0),
        replace(BUSY, ended=1.0),
        replace(BUSY, pictures=1.0),
        replace(BUSY, encode_seconds=1.0),
        replace(BUSY, decode_seconds=1.0),
    ],
    ids=["steps", "ended edits", "pictures", "encodings", "decodings"],
)
def test_whatever_gets_on_is_progress(moved: EngineState) -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(BUSY, NOW)
    watch.observe(replace(moved, heartbeat=BEAT + 50), NOW + 50)
    assert watch.stalled(NOW + 100) is None
    assert watch.stalled(NOW + 111) is not None


def test_an_engine_is_given_twenty_of_its_own_steps() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(BUSY, NOW)
    watch.observe(replace(BUSY, steps=4, forwards=2, denoise_seconds=20, heartbeat=BEAT + 20), NOW + 20)  # 10 s a step
    assert watch.stalled(NOW + 20 + 200) is None
    assert watch.stalled(NOW + 20 + 201) is not None


def test_a_step_in_which_everything_was_paused_for_an_hour_is_no_long_one() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(BUSY, NOW)
    watch.observe(replace(BUSY, steps=2, forwards=1, denoise_seconds=HOUR, heartbeat=BEAT + HOUR), NOW + 2)
    assert watch.stalled(NOW + 2 + 60) is None
    assert watch.stalled(NOW + 2 + 61) is not None


def test_an_idle_engine_whose_heart_stopped_is_stalled_and_late_long_before() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(IDLE, NOW)
    assert watch.late(NOW + 5) is None
    assert watch.late(NOW + 6) == "an engine's heartbeat is 6 s old"
    watch.observe(IDLE, NOW + 60)
    assert watch.stalled(NOW + 60) is None
    assert watch.stalled(NOW + 61) == "its engine has no heartbeat for 61 s"


def test_a_busy_engine_may_be_silent_for_longer_than_an_idle_one() -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(BUSY, NOW)
    assert watch.late(NOW + 15) is None
    assert watch.late(NOW + 16) is not None


def test_an_engine_that_was_never_seen_is_not_judged() -> None:
    watch = EngineWatch(stall_seconds=60)
    assert (watch.unfinished, watch.stalled(NOW), watch.late(NOW)) == (0, None, None)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
@pytest.mark.parametrize("state", [IDLE, BUSY], ids=["idle", "busy"])
def test_a_wall_clock_that_steps_makes_no_engine_late_or_stalled(state: EngineState, step: float) -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(state, NOW)
    watch.observe(replace(state, heartbeat=BEAT + step), NOW + 1)
    assert (watch.late(NOW + 6), watch.stalled(NOW + 6)) == (None, None)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_heart_that_stopped_is_found_whatever_the_wall_clock_says(step: float) -> None:
    watch = EngineWatch(stall_seconds=60)
    watch.observe(IDLE, NOW)
    stopped = replace(IDLE, heartbeat=BEAT + step)
    for seconds in range(1, 63):
        watch.observe(stopped, NOW + seconds)
    assert watch.late(NOW + 6) is None
    assert watch.late(NOW + 7) == "an engine's heartbeat is 6 s old"
    assert watch.stalled(NOW + 61) is None
    assert watch.stalled(NOW + 62) == "its engine has no heartbeat for 61 s"


class Metrics(BaseHTTPRequestHandler):
    """Of an engine that has edits and has beaten just before; what is in `strange` is answered first."""

    strange: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        if self.strange:
            self.wfile.write(self.strange.pop(0))
            return
        samples = {"heartbeat_timestamp_seconds": time.time(), "jobs": 1}
        body = "".join(f'qwen_edit_{name}{{engine="one"}} {value}\n' for name, value in samples.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def metrics_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def observer(metrics_url: str) -> Iterator[Observer]:
    with contextlib.closing(Observer(os.getpid(), metrics_url, 60)) as observer:
        yield observer


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_an_observer_blames_nobody_for_a_wall_clock_that_steps(
    observer: Observer, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for(lambda: observer.unfinished == 1)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + step)
    assert (observer.fault(), observer.problem()) == (None, None)


def test_an_observer_blames_nobody_for_a_pause_of_everything(
    observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first look after it comes before any question."""
    wait_for(lambda: observer.unfinished == 1)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + HOUR)
    assert (observer.fault(), observer.problem(), observer.at_fault()) == (None, None, set())


def test_an_observer_gets_over_what_is_no_answer_of_triton(observer: Observer) -> None:
    html = b'<html>qwen_edit_jobs{} many</html>\nqwen_edit_jobs{a="b"} 1\n'
    Metrics.strange += [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nqwen_edit_jobs{",
        b"HTTP/1.0 200 OK\r\n\r\n\xff\xfe",
        b"HTTP/1.0 200 OK\r\n\r\n" + html,
        b'HTTP/1.0 200 OK\r\n\r\nqwen_edit_jobs{engine="one"} 1.2.3\n',
        b"HTTP/1.0 500 Oh\r\n\r\n",
    ]
    wait_for(lambda: not Metrics.strange and observer.unfinished == 1)


def test_the_engine_that_stands_still_is_the_one_at_fault(metrics_url: str) -> None:
    with contextlib.closing(Observer(os.getpid(), metrics_url, 1)) as observer:
        wait_for(lambda: observer.unfinished == 1)
        assert observer.at_fault() == set()
        wait_for(lambda: observer.fault() is not None)
        assert observer.at_fault() == {"one"}


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
