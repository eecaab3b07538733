from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from standalone.machine import shared_memory_shortage
from standalone.settings import Settings
from tests.kit.servers import PORTS, PROJECT, environment, free_ports

MIB = 2**20
TELLS_ITS_LIMIT = """#!/bin/sh
echo "files: $(ulimit -Sn)"
exit 3
"""


def test_shared_memory_that_the_largest_request_does_not_fit_into_is_named_with_both_numbers() -> None:
    settings = Settings.from_environment({})
    shortage = shared_memory_shortage(settings, 64 * MIB)
    assert shortage
    assert shortage.startswith(f"/dev/shm has {64 * MIB} bytes, and MAX_BODY_BYTES={100 * MIB} needs {116 * MIB}: ")
    assert shared_memory_shortage(settings, 116 * MIB) is None


@pytest.mark.parametrize("module", ["standalone", "standalone.supervisor"])
def test_servers_may_open_as_many_files_as_the_system_allows_and_a_shortage_is_said(
    module: str, tmp_path: Path
) -> None:
    server = tmp_path / "tritonserver"
    server.write_text(TELLS_ITS_LIMIT)
    server.chmod(0o755)
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    env = environment(QWEN_MODEL_DIR="/nowhere", CUDA_VISIBLE_DEVICES="", MAX_BODY_BYTES=str(2**40), **ports)
    env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    command = ["sh", "-c", f'ulimit -Sn 200; ulimit -Hn 256; exec "$0" -m {module}', sys.executable]
    ended = subprocess.run(command, env=env, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "files: 256\n"
    warning, *_, error = ended.stderr.splitlines()
    assert "WARNING - /dev/shm has " in warning
    assert f"MAX_BODY_BYTES={2**40}" in warning
    assert error == "error: tritonserver ended with status 3 before it was ready: its log is above"
