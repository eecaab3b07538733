"""How a tritonserver is started: the unpacked one, and one that is installed."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from standalone import cuda
from standalone.settings import Settings
from standalone.tritonserver import Access, TritonServer, find
from tests.kit.stacks import installed_tritonserver

ENVIRON = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/opt/packages", "LD_LIBRARY_PATH": "/opt/lib::/opt/lib64"}
INSTALLED = TritonServer(Path("/bin/true"), backends=None, library_path=())
UNPACKED = TritonServer(Path("/bin/true"), backends=Path("/backends"), library_path=("/own", "/wheel"))

# A tritonserver that finds its libraries in /opt/lib alone, and shows its flags as 26.x does: on stderr, with status 1.
NEEDS_A_LIBRARY = """\
#!/bin/sh
case ":$LD_LIBRARY_PATH:" in *:/opt/lib:*)
  echo "  --http-max-input-size <integer>" >&2
  echo "  --pinned-memory-pool-byte-size <integer>  --cuda-memory-pool-byte-size <integer>:<integer>" >&2 ;;
esac
exit 1
"""


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment({})


def test_an_installed_server_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = installed_tritonserver(tmp_path)
    monkeypatch.setenv("PATH", environ["PATH"])
    assert find() == TritonServer(tmp_path / "tritonserver", backends=None, library_path=())


@pytest.mark.parametrize("server", [INSTALLED, UNPACKED], ids=["installed", "unpacked"])
def test_the_worker_takes_this_interpreters_packages(server: TritonServer, settings: Settings) -> None:
    path = server.environment(ENVIRON, settings, "/m")["PATH"].split(os.pathsep)
    assert path == [str(Path(sys.executable).parent), "/usr/bin", "/bin"]


def test_packages_that_are_named_to_an_installed_server_come_first(settings: Settings) -> None:
    assert INSTALLED.environment(ENVIRON, settings, "/m")["PYTHONPATH"] == "/opt/packages"
    assert UNPACKED.environment(ENVIRON, settings, "/m")["PYTHONPATH"] == sysconfig.get_path("purelib")


def test_the_unpacked_servers_libraries_come_before_the_environments(settings: Settings) -> None:
    assert INSTALLED.environment(ENVIRON, settings, "/m")["LD_LIBRARY_PATH"] == "/opt/lib:/opt/lib64"
    assert UNPACKED.environment(ENVIRON, settings, "/m")["LD_LIBRARY_PATH"] == "/own:/wheel:/opt/lib:/opt/lib64"


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It finds its libraries, and shows its flags."""
    binary = tmp_path / "tritonserver"
    binary.write_text(NEEDS_A_LIBRARY)
    binary.chmod(0o755)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    return binary


def test_the_flags_of_a_server_that_needs_the_environments_libraries_are_known(
    binary: Path, settings: Settings
) -> None:
    for server in (TritonServer(binary, None, ()), TritonServer(binary, None, ("/own",))):
        command = server.command(settings, "", "p_", Access("key"))
        assert any(flag.startswith("--http-max-input-size=") for flag in command)


def test_no_memory_of_a_gpu_is_kept_for_tensors_that_no_one_sends(
    binary: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    command = TritonServer(binary, None, ()).command(settings, "", "p_", Access("key"))
    assert [flag for flag in command if "memory-pool" in flag] == [
        "--pinned-memory-pool-byte-size=0", "--cuda-memory-pool-byte-size=0:0", "--cuda-memory-pool-byte-size=1:0",
    ]  # fmt: skip
