"""HAProxy in front of several supervised servers of one machine, with the configuration that is shipped."""

from __future__ import annotations

import os
import shutil

from standalone.errors import LaunchError
from standalone.plan import Plan
from standalone.processes import PROJECT
from standalone.settings import Settings

CONFIGURATION = PROJECT / "haproxy.cfg"


def command() -> list[str]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])  # where Debian puts it
    binary = shutil.which("haproxy", path=path)
    if binary is None:
        raise LaunchError(
            "ONE_SERVER_PER_GPU=1 needs haproxy in front of the servers: install it (apt install haproxy)"
        )
    return [binary, "-W", "-db", "-f", str(CONFIGURATION)]


def environment(settings: Settings, plans: list[Plan]) -> dict[str, str]:
    """What haproxy.cfg reads."""
    servers = {
        name: value
        for number, plan in enumerate(plans, 1)
        for name, value in (
            (f"TRITON_{number}", plan.settings.triton_url.removeprefix("http://")),
            (f"HEALTH_{number}", str(plan.settings.supervisor_port)),
        )
    }
    return {"BALANCER_ADDRESS": "127.0.0.1", "BALANCER_PORT": str(settings.balancer_port), **servers}
