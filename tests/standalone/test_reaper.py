"""The process that ends what the launcher started when the launcher is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

import psutil
import pytest

from standalone import processes
from standalone.processes import Group, Reaper, members

SHM_PREFIX = "qwen_image_edit_test_reaper_"
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def reaper_process() -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and child.cmdline()[-1:] == [SHM_PREFIX]
    ]
    return found


def kill(process: psutil.Process) -> None:
    """Its parent is to learn of it by itself."""
    process.kill()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        pass


def test_one_that_was_killed_has_a_successor_that_knows_all_groups() -> None:
    before, meanwhile, ended = (Group("group", SLEEP, dict(os.environ)) for _ in range(3))
    with contextlib.closing(Reaper(SHM_PREFIX)) as reaper:
        reaper.remember(before.pgid)
        reaper.remember(ended.pgid)
        kill(reaper_process())
        reaper.remember(meanwhile.pgid)
        reaper.forget(ended.pgid)
        reaper.keep()
        assert reaper_process().is_running()
    assert [members(group.pgid) for group in (before, meanwhile, ended)] == [[], [], [ended.pgid]]
    for group in (before, meanwhile, ended):
        group.stop(0)


def test_one_that_hangs_keeps_nobody_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "REAPER_SECONDS", 0.1)
    reaper = Reaper(SHM_PREFIX)
    hanging = reaper_process()
    hanging.send_signal(signal.SIGSTOP)
    reaper.close()
    assert not hanging.is_running()
