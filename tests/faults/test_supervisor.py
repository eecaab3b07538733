"""Faults injected into a real supervised Triton, and what is seen from outside."""

from __future__ import annotations

import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from standalone.supervisor import DRAINED_SECONDS
from tests.kit.answers import pictures, same
from tests.kit.faulty import DEADLY, FaultyRepository
from tests.kit.servers import Server, answers_200, serve
from tests.kit.stacks import installed_tritonserver, supervise, tritonserver, worker
from tests.kit.tensors import MODEL, inputs

pytestmark = pytest.mark.faults

Photo = Callable[[str], bytes]
NOTICE_SECONDS = 5.0


def health(server: Server) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(server.healthz, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def infer(server: Server, picture: bytes, request_id: str = "", **tensors: Any) -> Any:
    edit = {"image": picture, "prompt": b"blue", "size": [64, 64], "seed": 1, **tensors}
    with tritonclient.http.InferenceServerClient(server.triton_http, network_timeout=60.0) as client:
        return client.infer(MODEL, inputs(tritonclient.http, **edit), request_id=request_id)


def edit(server: Server, picture: bytes) -> requests.Response:
    """Through the shim, in three segments."""
    fields = {"prompt": "blue", "size": "192x192", "seed": "3", "num_inference_steps": "30"}
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=60)


def has_ended(process: psutil.Process) -> bool:
    """Zombies have: who should collect them is not ours."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> FaultyRepository:
    return FaultyRepository(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def stack_of_its_own(checkpoint: Callable[[str], Path], repository: FaultyRepository) -> Iterator[Server]:
    """The whole server; three seconds without a step are a stall."""
    settings = {"WORKER_STALL_SECONDS": "3", "REFERENCE_AREA": "4096", "MAX_FAILURES": "100", "DEFAULT_STEPS": "2"}
    with serve(checkpoint("plus"), MODEL_REPOSITORY=str(repository.path), **settings) as server:
        yield server


def shared_memory(server: Server) -> set[str]:
    """The regions of this server's workers."""
    return {path.name for path in Path("/dev/shm").glob(f"qwen_image_edit_{server.process.pid}_*")}


def wait_for_new_worker(server: Server, old: int) -> None:
    server.wait_for(lambda: answers_200(f"{server.url}/ready") and answers_200(server.healthz), seconds=60)
    assert worker(server).pid != old
    assert server.metric("qwen_edit_jobs") == 0
    assert server.metric("qwen_edit_cache_bytes") == 0


def test_whoever_asks_about_an_edit_that_is_answered_harms_nobody(stack_of_its_own: Server, photo: Photo) -> None:
    """Triton itself dies, where it is asked."""
    old = tritonserver(stack_of_its_own).pid
    for _ in range(2):
        infer(stack_of_its_own, photo("cat"), size=[64, 64], num_inference_steps=[2])
    assert tritonserver(stack_of_its_own).pid == old


@pytest.mark.parametrize("victim", [worker, tritonserver], ids=["worker", "tritonserver"])
def test_readiness_tells_the_truth_within_5_s_of_a_death_and_of_the_recovery(
    stack_of_its_own: Server, victim: Callable[[Server], psutil.Process]
) -> None:
    server = stack_of_its_own
    old, regions = worker(server).pid, shared_memory(server)
    victim(server).kill()
    server.wait_for(lambda: not answers_200(server.healthz), seconds=NOTICE_SECONDS)
    server.wait_for(lambda: not answers_200(f"{server.url}/ready"), seconds=NOTICE_SECONDS)
    assert health(server)[1].keys() == {"status", "reason"}
    server.wait_for(lambda: answers_200(server.healthz), seconds=60)
    server.wait_for(lambda: answers_200(f"{server.url}/ready"), seconds=NOTICE_SECONDS)
    wait_for_new_worker(server, old)
    assert len(shared_memory(server)) == len(regions)
    assert not shared_memory(server) & regions, "the dead one's are still there"


def test_a_worker_that_makes_no_step_while_it_has_an_edit_is_started_again(
    stack_of_its_own: Server, photo: Photo
) -> None:
    server = stack_of_its_own
    stopped = worker(server)
    with ThreadPoolExecutor() as pool:
        steps = server.metric("qwen_edit_steps_total")
        editing = pool.submit(infer, server, photo("cat"), size=[512, 512], num_inference_steps=[100])
        server.wait_for(lambda: server.metric("qwen_edit_steps_total") > steps)
        stopped.send_signal(signal.SIGSTOP)
        server.wait_for(lambda: not answers_200(server.healthz), seconds=NOTICE_SECONDS)
        with pytest.raises(Exception, match=r"reset|closed|IncompleteRead|refused|ended"):
            editing.result()  # free at once, though its worker never answered
    wait_for_new_worker(server, stopped.pid)
    assert re.search("tritonserver: its engine has .*(made no step|no heartbeat) for .* s; it is restarted", server.log)


def test_an_idle_worker_that_hangs_is_noticed_too(stack_of_its_own: Server) -> None:
    stopped = worker(stack_of_its_own)
    stopped.send_signal(signal.SIGSTOP)
    stack_of_its_own.wait_for(lambda: not answers_200(stack_of_its_own.healthz), seconds=NOTICE_SECONDS)
    stack_of_its_own.wait_for(lambda: has_ended(stopped), seconds=20)
    wait_for_new_worker(stack_of_its_own, stopped.pid)


def test_an_edit_outlives_an_error_that_its_device_does_not_get_over(
    stack_of_its_own: Server, repository: FaultyRepository, photo: Photo
) -> None:
    server, broken = stack_of_its_own, worker(stack_of_its_own).pid
    expected = edit(server, photo("cat")).json()["data"]
    with ThreadPoolExecutor() as pool:
        steps = server.metric("qwen_edit_steps_total")
        editing = pool.submit(edit, server, photo("cat"))
        server.wait_for(lambda: server.metric("qwen_edit_steps_total") > steps + 10)
        repository.break_device("CUDA error: an illegal memory access was encountered")
        answer = editing.result()
    assert answer.status_code == 200, f"{answer.text[:500]}\n{server.log}"
    assert answer.json()["data"] == expected
    assert "its edits (1) unanswered: CUDA error: an illegal memory access was encountered\n" in server.log
    assert f"tritonserver: its worker {broken} died; it is restarted" in server.log
    assert worker(server).pid != broken


def test_an_edit_that_kills_its_workers_is_given_up_and_the_others_go_on(
    stack_of_its_own: Server, photo: Photo
) -> None:
    """The second output of a request, whose first is harmless.

    First by a signal, then by hangs: two where it steps alone, three where its first two forwards were shared.
    """
    server = stack_of_its_own
    expected = pictures(edit(server, photo("cat")).json())
    with ThreadPoolExecutor() as pool:
        editing = pool.submit(edit, server, photo("cat"))
        server.wait_for(lambda: server.metric("qwen_edit_jobs", state="running") == 1)
        logged = len(server.log)
        deadly = requests.post(
            f"{server.url}/v1/images/edits",
            data={"prompt": DEADLY, "size": "64x64", "num_inference_steps": "8", "n": "2", "seed": "6"},
            files={"image": photo("cat")},
            timeout=120,
        )
        answer = editing.result()
    assert (deadly.status_code, deadly.json()["error"]["code"]) == (500, "GENERATION_ERROR"), server.log
    assert answer.status_code == 200, f"{answer.text[:500]}\n{server.log}"
    assert same(pictures(answer.json()), expected), "it shared forwards with the first output of the other"
    faults = re.findall("tritonserver: its (worker|engine) .* it is restarted", server.log[logged:])
    assert faults in (["worker", "engine"], ["worker", "engine", "engine"])
    given_up = f"{len(faults)} workers died or hung while they worked on this edit"
    assert given_up in deadly.json()["error"]["message"]


def test_it_gives_up_when_failures_do_not_end_and_says_why(checkpoint: Callable[[str], Path]) -> None:
    with supervise(checkpoint("plus"), MAX_FAILURES="2", FAILURE_WINDOW_MINUTES="7") as server:
        worker(server).kill()
        server.wait_for(lambda: not answers_200(server.healthz))
        server.wait_for(lambda: answers_200(server.healthz), seconds=60)
        worker(server).kill()
        assert server.process.wait(20) == 1
        last = server.log.splitlines()[-1]
    assert last.startswith("error: tritonserver: its worker ")
    assert last.endswith("that was failure 2 within 7 minutes, as many as MAX_FAILURES allows")


@pytest.fixture(params=["plus"])
def supervised(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path: Path) -> Iterator[Server]:
    """Of a tritonserver that is installed, as in the container: its worker finds this environment's packages."""
    installed = installed_tritonserver(tmp_path)
    with supervise(checkpoint(request.param), REFERENCE_AREA="4096", DRAIN_SECONDS="600", **installed) as server:
        yield server


@pytest.mark.parametrize("supervised", ["plus", "2.1"], indirect=True)
def test_a_draining_server_takes_continued_edits_refuses_new_ones_and_ends_when_it_is_empty(
    supervised: Server, photo: Photo
) -> None:
    picture = photo("cat")
    many: dict[str, Any] = {"num_inference_steps": [60], "size": [256, 256]}
    latents = infer(supervised, picture, "edit.0", **many, stop_step=[2]).as_numpy("latents")
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(infer, supervised, picture, **many)
        supervised.wait_for(lambda: supervised.metric("qwen_edit_jobs", state="running") == 1)
        supervised.process.send_signal(signal.SIGTERM)
        supervised.wait_for(lambda: health(supervised)[0] == 404, seconds=2)
        assert health(supervised)[1]["reason"] == "draining"
        with pytest.raises(InferenceServerException, match="draining: "):
            infer(supervised, picture)
        assert under_way.result().as_numpy("image").shape == (1, 256, 256, 3)
    time.sleep(DRAINED_SECONDS + 1)  # that an upload takes
    for start in (2, 3):
        left = infer(supervised, picture, "edit.1", **many, start_step=[start], stop_step=[start + 1], latents=latents)
        latents = left.as_numpy("latents")
    infer(supervised, picture, "edit.1", **many, start_step=[4], latents=latents)
    assert supervised.process.wait(60) == 0, "it had nothing left to wait for"


def test_a_second_signal_ends_it_at_once(supervised: Server, photo: Photo) -> None:
    with ThreadPoolExecutor() as pool:
        editing = pool.submit(infer, supervised, photo("cat"), num_inference_steps=[100], size=[768, 768])
        supervised.wait_for(lambda: supervised.metric("qwen_edit_jobs") == 1)
        worker_process = worker(supervised)
        supervised.process.send_signal(signal.SIGTERM)
        supervised.wait_for(lambda: health(supervised)[0] == 404, seconds=2)
        supervised.process.send_signal(signal.SIGTERM)
        assert supervised.process.wait(15) == 0
        with pytest.raises(Exception, match=r"."):
            editing.result()
    assert has_ended(worker_process)
