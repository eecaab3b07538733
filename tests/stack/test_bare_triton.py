"""A tritonserver without a supervisor, whose control folder lies where everybody can make one."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from standalone.settings import Settings
from standalone.tritonserver import Access, find
from tests.kit.servers import environment, free_ports, run


def test_it_does_not_start_where_somebody_else_has_put_a_link_in_the_place_of_its_folder(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    victim, temporary = tmp_path / "victim", tmp_path / "tmp"
    victim.mkdir()
    temporary.mkdir()
    names = ("TRITON_HTTP_PORT", "TRITON_GRPC_PORT", "TRITON_METRICS_PORT")
    at = {name: str(port) for name, port in zip(names, free_ports(3), strict=True)}
    settings, triton = Settings.from_environment(at), find()
    command = triton.command(settings, "cpu", "qwen_image_edit_test_bare_", Access("key"))
    env = triton.environment(environment(TMPDIR=str(temporary)), settings, str(checkpoint("plus")))
    link = f"ln -s {victim} {temporary}/qwen-edit-$$ && exec {shlex.join(command)}"
    with run(["sh", "-c", link], env, 0) as server:
        server.wait_for(lambda: f"{temporary}/qwen-edit-{server.process.pid} is not a folder, or a" in server.log, 60)
    assert list(victim.iterdir()) == []
