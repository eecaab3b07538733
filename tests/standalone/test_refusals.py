"""What the launcher cannot do is one clear line on standard error and exit status 1."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from standalone import tritonserver
from standalone.errors import LaunchError
from standalone.settings import Settings
from standalone.tritonserver import MODEL_NAME, STUB, config_name, model_is_loaded, refuse_unsupported
from tests.kit.servers import PORTS, PROJECT, environment, free_ports

KEY = "a-secret-of-the-launcher"

LAUNCH_SECONDS = 60.0


def launch(module: str = "standalone", **settings: str) -> subprocess.CompletedProcess[str]:
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    env = environment(**{"API_KEY": KEY, "CUDA_VISIBLE_DEVICES": "", "QWEN_MODEL_DIR": "/nowhere"} | ports | settings)
    command = [sys.executable, "-m", module]
    return subprocess.run(
        command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=LAUNCH_SECONDS, check=False
    )


def refusal(ended: subprocess.CompletedProcess[str]) -> str:
    """The one line that the launcher said before it started anything."""
    assert ended.returncode == 1
    assert ended.stdout == ""
    match = re.fullmatch(r"error: (.*)\n", ended.stderr)
    assert match, ended.stderr
    return match[1]


@pytest.mark.parametrize("name", PORTS)
def test_a_taken_port_is_refused_and_names_its_setting(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(launch(**{name: str(port)}))
    assert f"port {port} on 127.0.0.1" in line
    assert f"set {name}" in line


def test_one_port_for_two_settings_is_refused_and_names_both() -> None:
    (port,) = free_ports(1)
    line = refusal(launch(PORT=str(port), TRITON_GRPC_PORT=str(port)))
    assert line.startswith(f"TRITON_GRPC_PORT={port} is the same port as PORT")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("TRITON_METRICS_PORT", "-1"),
        ("MAX_BODY_BYTES", "1GB"),
        ("DEVICE_MAP", "tpu"),
        ("LOG_LEVEL", "LOUD"),
        ("HOST", "no.such.host.invalid"),
        ("MODEL_REPOSITORY", "/no/such/folder"),
    ],
)
def test_a_bad_setting_is_refused_with_its_name_and_value(name: str, value: str) -> None:
    line = refusal(launch(**{name: value}))
    assert line.startswith(f"{name}=")
    assert value in line


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MAX_SIDE", "20000", "a whole number from 64 to 16384"),
        ("MAX_JOBS", "1e1", "a whole number from 1 to 100000"),
        ("COMPILE", "maybe", "auto, or one of 1, true, yes, on, 0, false, no, off"),
        ("LORA", ":1", "a comma list of PATH or PATH:WEIGHT"),
    ],
)
@pytest.mark.parametrize("module", ["standalone", "standalone.supervisor"])
def test_a_bad_setting_of_the_model_is_refused_before_anything_is_started(
    module: str, name: str, value: str, allowed: str
) -> None:
    assert refusal(launch(module, **{name: value})) == f"{name}={value!r}: {allowed} is allowed"


def test_the_shim_says_the_same_of_a_setting_that_it_shares_with_the_model() -> None:
    shims, launchers = (refusal(launch(module, MAX_SIDE="20000")) for module in ("shim", "standalone"))
    assert shims == launchers


def test_a_bad_setting_of_the_shim_is_refused_before_anything_is_started() -> None:
    line = refusal(launch(SEGMENT_STEPS="1e1"))
    assert line == "SEGMENT_STEPS='1e1': a whole number from 0 to 1000 is allowed"


@pytest.mark.parametrize("module", ["standalone", "standalone.supervisor"])
def test_a_switch_of_the_model_knows_the_words_of_every_other(module: str) -> None:
    with socket.socket() as taken:  # what is looked at after the settings
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(launch(module, COMPILE="yes", ONE_SERVER_PER_GPU="off", TRITON_GRPC_PORT=str(port)))
    assert "set TRITON_GRPC_PORT" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gpu-box"])
def test_a_public_address_without_a_key_is_refused(host: str) -> None:
    line = refusal(launch(HOST=host, API_KEY=""))
    assert line.startswith(f"HOST={host} without API_KEY: ")
    assert line.endswith("set API_KEY, or ALLOW_NO_AUTH=true")


@pytest.mark.parametrize(
    "settings",
    [
        *({"HOST": host, "API_KEY": ""} for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost", "LocalHost", "")),
        {"HOST": "192.0.2.1", "API_KEY": "", "ALLOW_NO_AUTH": "true"},
        {"HOST": "192.0.2.1", "API_KEY": KEY},
    ],
    ids=str,
)
def test_a_server_that_asks_for_a_key_or_is_this_machines_own_is_not_refused(settings: dict[str, str]) -> None:
    assert "DEVICE_MAP=cuda: no CUDA device" in refusal(launch(DEVICE_MAP="cuda", **settings))


def test_a_model_repository_without_the_model_is_refused(tmp_path: Path) -> None:
    line = refusal(launch(MODEL_REPOSITORY=str(tmp_path)))
    assert line == f"MODEL_REPOSITORY={str(tmp_path)!r}: a folder with the model {MODEL_NAME} is allowed"


def test_the_container_of_triton_needs_neither_the_shim_nor_torch_to_check_settings() -> None:
    check = "import sys; from standalone.supervisor import checked_settings; checked_settings(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], env=environment(), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "qwen_edit.settings" in loaded
    assert not {"shim", "torch", "numpy"} & set(loaded)


@pytest.mark.parametrize("device_map", ["cuda", "balanced"])
def test_a_cuda_device_map_without_a_cuda_device_is_refused(device_map: str) -> None:
    line = refusal(launch(DEVICE_MAP=device_map))
    assert line.startswith(f"DEVICE_MAP={device_map}: no CUDA device was found")
    assert "DEVICE_MAP=cpu" in line


def test_a_checkpoint_that_is_none_ends_in_the_models_own_reason(tmp_path: Path) -> None:
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    for folder in (empty, foreign):
        folder.mkdir()
    (foreign / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    reasons = {
        tmp_path / "missing": "there is no such folder",
        empty: "no model_index.json there; a diffusers checkpoint folder is needed",
        foreign: "a FluxPipeline checkpoint; one of QwenImageEditPipeline, QwenImageEditPlusPipeline, "
        "QwenImage21Pipeline, QwenImageLayeredPipeline is needed",
    }
    # At the same time: each of them imports torch before it looks.
    with ThreadPoolExecutor(len(reasons)) as pool:
        ended = list(pool.map(lambda folder: launch(QWEN_MODEL_DIR=str(folder)), reasons))
    for launcher, (folder, reason) in zip(ended, reasons.items(), strict=True):
        *_, last = launcher.stderr.splitlines()
        assert launcher.returncode == 1
        assert last.startswith(f"error: the model {MODEL_NAME} could not be loaded: ")
        assert str(folder) in last
        assert last.endswith(reason)
        assert "Traceback" not in launcher.stderr
        assert KEY not in launcher.stdout + launcher.stderr


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ([], "the repository lacks it"),
        ([{"name": "another", "state": "READY"}], "the repository lacks it"),
        ([{"name": MODEL_NAME}], "Triton gives no reason"),
        (
            [{"name": MODEL_NAME, "state": "UNAVAILABLE", "reason": "Internal: ImportError: no torch\n\nAt:\n  a.py"}],
            "ImportError: no torch",
        ),
    ],
    ids=["empty", "another", "unknown", "failed"],
)
def test_a_model_that_did_not_load_is_told_with_tritons_reason(index: list[dict[str, str]], says: str) -> None:
    with pytest.raises(LaunchError) as raised:
        model_is_loaded(index, Path("/bin/tritonserver"))
    assert str(raised.value) == f"the model {MODEL_NAME} could not be loaded: {says}"


@pytest.mark.parametrize(("version", "told"), [("3.9", True), (f"3.{sys.version_info.minor}", False)])
def test_a_module_that_workers_of_another_python_lack_is_told_with_both_versions(
    tmp_path: Path, version: str, told: bool
) -> None:
    stub = tmp_path / STUB
    stub.parent.mkdir(parents=True)
    stub.write_bytes(b"\x7fELF\0libpython%b.so.1.0\0" % version.encode())
    reason = "Internal: ModuleNotFoundError: No module named 'torch'\n\nAt:\n  a.py"
    with pytest.raises(LaunchError, match="No module named 'torch'") as raised:
        model_is_loaded([{"name": MODEL_NAME, "reason": reason}], tmp_path / "bin" / "tritonserver")
    own = f"3.{sys.version_info.minor}"
    hint = f" ({stub} is of Python {version}, the packages are of Python {own})"
    assert str(raised.value).endswith(hint) is told


@pytest.mark.parametrize(("state", "loaded"), [("READY", True), ("LOADING", False)])
def test_a_model_is_waited_for_until_it_is_ready(state: str, loaded: bool) -> None:
    assert model_is_loaded([{"name": MODEL_NAME, "version": "1", "state": state}], Path("/bin/tritonserver")) is loaded


@pytest.mark.parametrize(
    ("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")], ids=str
)
def test_a_platform_that_the_wheel_does_not_know_is_refused(system: str, machine: str) -> None:
    with pytest.raises(LaunchError, match=rf"Linux x86-64 only, not on {system} {machine}: use the Docker images"):
        refuse_unsupported(system, machine, Path("/libpython3.11.so.1.0"))


def test_a_python_without_a_shared_libpython_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"has no shared libpython.*: use a Python built with --enable-shared"):
        refuse_unsupported("Linux", "x86_64", None)
    library = tmp_path / "libpython3.12.so.1.0"
    with pytest.raises(LaunchError, match=r"3.12.so.1.0 is not there, .* Ubuntu, apt install libpython3\.12$"):
        refuse_unsupported("Linux", "x86_64", library)
    library.touch()
    refuse_unsupported("Linux", "x86_64", library)


def test_a_python_version_without_a_stub_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("3.10", "3.8", "3.9"):
        (tmp_path / "pytriton/tritonserver/python_backend_stubs" / version).mkdir(parents=True)
    monkeypatch.setattr(tritonserver, "UNPACKED", tmp_path)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(LaunchError, match=rf"no Python-backend stub for Python {here}, only for 3\.8, 3\.9, 3\.10$"):
        tritonserver.python_backend()


@pytest.mark.parametrize(
    ("device_map", "devices", "name"),
    [("", 0, "cpu"), ("cpu", 2, "cpu"), ("", 1, ""), ("cuda", 1, ""), ("balanced", 2, "balanced")],
)
def test_the_instance_configuration_follows_the_device_map_and_the_devices(
    device_map: str, devices: int, name: str
) -> None:
    assert config_name(Settings.from_environment({"DEVICE_MAP": device_map}), devices) == name


def test_an_instance_of_several_gpus_needs_them() -> None:
    settings = Settings.from_environment({"GPUS_PER_INSTANCE": "2"})
    assert config_name(settings, 2) == "balanced"
    with pytest.raises(LaunchError, match=r"GPUS_PER_INSTANCE=2: no CUDA device was found; .* or unset it"):
        config_name(settings, 0)
