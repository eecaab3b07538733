"""Folders below one that is shared with everybody, as /tmp is."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from qwen_edit.control.cancellations import KEPT_SECONDS, Cancellations
from qwen_edit.control.private_folder import NotPrivate, private_folder

from tests.kit.servers import PROJECT


def test_it_is_made_for_nobody_else_and_taken_as_it_is_the_next_time(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "control")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder(tmp_path / "control") == folder


def test_a_link_a_file_and_what_others_may_write_to_are_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name in ("link", "dangling", "file", "open"):
        with pytest.raises(NotPrivate, match=f"^{tmp_path}/{name} .*: remove it$"):
            private_folder(tmp_path / name)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(NotPrivate, match="another user's"):
        private_folder(tmp_path / "theirs")


def test_a_cancellation_deletes_nothing_of_others(tmp_path: Path) -> None:
    """Not by a link in the folder's place, and not by files of other names in it."""
    victim, folder = tmp_path / "victim", tmp_path / "cancelled"
    victim.mkdir()
    cancellations = Cancellations(folder)
    long_ago = time.time() - KEPT_SECONDS - 1
    for place in (victim, folder):
        (place / "letter").touch()
        os.utime(place / "letter", (long_ago, long_ago))
    cancellations.add("one")
    assert (folder / "letter").exists()
    folder.rename(tmp_path / "moved")
    folder.symlink_to(victim)
    with pytest.raises(NotPrivate):
        cancellations.add("two")
    assert [path.name for path in victim.iterdir()] == ["letter"]


def test_both_parts_that_use_it_have_the_same() -> None:
    theirs = PROJECT / "model_repository/qwen_image_edit/1/qwen_edit/control/private_folder.py"
    assert (PROJECT / "standalone/private_folder.py").read_bytes() == theirs.read_bytes()
