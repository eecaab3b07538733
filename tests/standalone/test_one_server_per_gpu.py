"""Several servers on one machine: how they are planned, and two of them, on the CPU, behind the launcher's HAProxy."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from standalone import balancer, cuda
from standalone.errors import LaunchError
from standalone.plan import Plan, plan
from standalone.settings import Settings
from standalone.tritonserver import TritonServer
from tests.kit.servers import Server
from tests.kit.stacks import serve_two


def plans(tmp_path: Path, environ: dict[str, str] | None = None, **settings: str) -> list[Plan]:
    triton = TritonServer(Path("/bin/true"), backends=None, library_path=())
    given = Settings.from_environment({"ONE_SERVER_PER_GPU": "1", **settings})
    return plan(given, triton, model_dir="/m", shm_prefix="p_", folder=tmp_path, environ=environ or {})


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 3)


@pytest.mark.usefixtures("three_gpus")
def test_every_gpu_has_a_server_with_ports_and_a_folder_of_its_own(tmp_path: Path) -> None:
    planned = plans(tmp_path)
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in planned] == ["0", "1", "2"]
    assert [each.settings.triton_http_port for each in planned] == [8010, 8020, 8030]
    assert [each.settings.supervisor_port for each in planned] == [8013, 8023, 8033]
    assert len({each.shm_prefix for each in planned}) == 3
    assert {each.environment["CONTROL_DIR"] for each in planned} == {str(each.control_dir) for each in planned}
    assert len({each.control_dir for each in planned}) == 3


@pytest.mark.usefixtures("three_gpus")
def test_only_devices_that_are_visible_get_one(tmp_path: Path) -> None:
    planned = plans(tmp_path, environ={"CUDA_VISIBLE_DEVICES": "4,5,GPU-7"})
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in planned] == ["4", "5", "GPU-7"]


@pytest.mark.usefixtures("three_gpus")
def test_without_the_setting_one_server_has_all(tmp_path: Path) -> None:
    (only,) = plans(tmp_path, ONE_SERVER_PER_GPU="0")
    assert "CUDA_VISIBLE_DEVICES" not in only.environment
    assert only.name == "tritonserver"


@pytest.mark.usefixtures("three_gpus")
def test_one_pipeline_over_all_devices_does_not_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="DEVICE_MAP=balanced does not go with it"):
        plans(tmp_path, DEVICE_MAP="balanced")


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_gpus_of_one_instance_have_a_server_together(tmp_path: Path) -> None:
    planned = plans(tmp_path, GPUS_PER_INSTANCE="2", environ={"CUDA_VISIBLE_DEVICES": "1,3,5,GPU-7"})
    assert [each.environment["CUDA_VISIBLE_DEVICES"] for each in planned] == ["1,3", "5,GPU-7"]
    assert [each.settings.triton_http_port for each in planned] == [8010, 8020]
    assert all("--model-config-name=balanced" in each.command for each in planned)


@pytest.mark.usefixtures("four_gpus")
def test_a_server_whose_instance_has_all_gpus_is_one(tmp_path: Path) -> None:
    (only,) = plans(tmp_path, ONE_SERVER_PER_GPU="0", GPUS_PER_INSTANCE="4")
    assert "CUDA_VISIBLE_DEVICES" not in only.environment
    assert "--model-config-name=balanced" in only.command


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"GPUS_PER_INSTANCE": "3"}, "GPUS_PER_INSTANCE=3: 4 GPUs cannot be divided by it"),
        ({"GPUS_PER_INSTANCE": "8"}, "GPUS_PER_INSTANCE=8: 4 GPUs cannot be divided by it"),
        (
            {"GPUS_PER_INSTANCE": "2", "ONE_SERVER_PER_GPU": "0"},
            "4 GPUs were found, and a server has one instance of 2: set ONE_SERVER_PER_GPU=true",
        ),
        (
            {"GPUS_PER_INSTANCE": "4", "ONE_SERVER_PER_GPU": "0", "DEVICE_MAP": "cpu"},
            "GPUS_PER_INSTANCE=4: DEVICE_MAP=cpu does not go with it",
        ),
    ],
    ids=str,
)
def test_gpus_that_do_not_make_instances_are_refused(tmp_path: Path, settings: dict[str, str], problem: str) -> None:
    with pytest.raises(LaunchError, match=problem):
        plans(tmp_path, None, **settings)


def test_without_a_device_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 0)
    with pytest.raises(LaunchError, match="ONE_SERVER_PER_GPU=1: no CUDA device was found"):
        plans(tmp_path)


@pytest.mark.usefixtures("three_gpus")
def test_the_balancer_is_told_of_every_server(tmp_path: Path) -> None:
    told = balancer.environment(Settings.from_environment({"BALANCER_PORT": "9999"}), plans(tmp_path))
    assert told["BALANCER_PORT"] == "9999"
    assert [told[f"TRITON_{number}"] for number in (1, 2, 3)] == ["127.0.0.1:8010", "127.0.0.1:8020", "127.0.0.1:8030"]
    assert [told[f"HEALTH_{number}"] for number in (1, 2, 3)] == ["8013", "8023", "8033"]


def test_a_machine_without_haproxy_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(LaunchError, match=r"needs haproxy in front of the servers: install it"):
        balancer.command()


def test_two_servers_behind_the_launchers_haproxy_share_the_edits(
    checkpoint: Callable[[str], Path], photo: Callable[[str], bytes], program: Callable[[str], str]
) -> None:
    program("haproxy")
    with serve_two(checkpoint("plus"), REFERENCE_AREA="4096") as server:
        second = Server(server.process, server.log_path, 0, triton_metrics_port=server.triton_metrics_port + 10)
        assert [edit(server, photo("cat"), seed).status_code for seed in range(6)] == [200] * 6
        assert server.metric("qwen_edit_steps_total") > 0
        assert second.metric("qwen_edit_steps_total") > 0
        tritons = children(server, "tritonserver")
        (haproxy,) = children(server, "haproxy")
        haproxy.kill()
        server.wait_for(lambda: "haproxy: it was killed by SIGKILL; it is restarted" in server.log)
        # Not by /ready, whose answer is a second old at most: it may be of before the kill.
        server.wait_for(lambda: edit(server, photo("cat"), 7).status_code == 200)
        assert children(server, "tritonserver") == tritons
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 128 + signal.SIGTERM


def edit(server: Server, picture: bytes, seed: int) -> requests.Response:
    fields = {"prompt": "x", "size": "64x64", "seed": str(seed), "n": "4", "num_inference_steps": "10"}
    return requests.post(f"{server.url}/v1/images/edits", data=fields, files={"image": picture}, timeout=60)


def children(server: Server, name: str) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if child.name() == name]
