"""Workers that die in the middle of their work, as their successors find it: a note that nobody took back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from qwen_edit.control.blame import RECORD_SECONDS, Blame
from qwen_edit.errors import Failed

from tests.kit.dead_workers import INSTANCE, dies_at, dies_at_two_things


def worker(folder: Path, instance: str = INSTANCE) -> Blame:
    return Blame(folder, instance)


def test_what_two_workers_died_of_alone_is_not_taken_a_third_time_and_the_rest_is(tmp_path: Path) -> None:
    dies_at(tmp_path, "deadly")
    assert worker(tmp_path).take("deadly"), "the next time it has to run alone"
    dies_at(tmp_path, "deadly")
    blame = worker(tmp_path)
    with pytest.raises(Failed, match="2 workers died or hung while they worked on this edit"):
        blame.take("deadly")
    assert not blame.take("another")
    with pytest.raises(Failed, match="2 workers"):
        worker(tmp_path, "another instance").take("deadly")


def test_an_edit_that_was_answered_in_between_is_not_blamed(tmp_path: Path) -> None:
    for _ in range(5):
        dies_at(tmp_path, "unlucky")
        blame = worker(tmp_path)
        assert blame.take("unlucky")
        blame.end("unlucky")


def test_in_a_shared_forward_nobody_is_blamed_and_the_third_time_each_runs_alone(tmp_path: Path) -> None:
    everybody = "deadly", "unlucky", "bystander"
    dies_at(tmp_path, *everybody)
    blame = worker(tmp_path)
    assert not any(blame.take(each) for each in everybody)
    dies_at(tmp_path, *everybody)
    blame = worker(tmp_path)
    assert all(blame.take(each) for each in everybody)
    dies_at(tmp_path, "deadly")
    blame = worker(tmp_path)
    with pytest.raises(Failed, match="3 workers"):
        blame.take("deadly")
    assert blame.take("unlucky")
    blame.end("unlucky")
    assert not blame.take("unlucky")


def test_what_was_done_beside_it_is_done_by_itself_from_then_on(tmp_path: Path) -> None:
    dies_at_two_things(tmp_path, "deadly", "prepared")
    blame = worker(tmp_path)
    assert blame.take("deadly")
    assert blame.take("prepared")
    dies_at_two_things(tmp_path, "deadly", "prepared")
    blame = worker(tmp_path)
    with pytest.raises(Failed, match="2 workers"):
        blame.take("deadly")
    assert blame.take("prepared"), "the second worker was not at it when it died"


def test_a_worker_that_dies_idle_blames_nobody(tmp_path: Path) -> None:
    for _ in range(3):
        blame = worker(tmp_path)
        assert not blame.take("edit")
        with blame.at_work("edit", keep=True):
            pass
        blame.end("edit")


def test_a_worker_that_dies_between_two_things_blames_nobody(tmp_path: Path) -> None:
    for _ in range(3):
        blame = worker(tmp_path)
        assert not blame.take("edit")
        with blame.at_work("edit"):
            pass


def test_a_note_is_written_once_for_all_steps_of_the_same_edits(tmp_path: Path) -> None:
    blame = worker(tmp_path)
    notes = set()
    for _ in range(100):
        with blame.at_work("one", "two", keep=True):
            (note,) = (tmp_path / "at_work").iterdir()
            notes.add(note.stat().st_mtime_ns)
    assert len(notes) == 1
    assert [len(names) for names in json.loads(note.read_text())["at_work"]] == [2]


def test_an_edit_that_never_came_back_is_forgotten(tmp_path: Path) -> None:
    for _ in range(2):
        dies_at(tmp_path, "deadly")
    worker(tmp_path)
    (record,) = (tmp_path / "deaths").iterdir()
    long_ago = time.time() - RECORD_SECONDS - 1
    os.utime(record, (long_ago, long_ago))
    assert not worker(tmp_path).take("deadly")


def test_without_its_folder_work_goes_on_and_is_noted_again(tmp_path: Path) -> None:
    blame = worker(tmp_path)
    shutil.rmtree(tmp_path)
    with blame.at_work("edit"):
        assert list((tmp_path / "at_work").iterdir())


def test_where_a_record_cannot_be_written_a_worker_begins_all_the_same(tmp_path: Path) -> None:
    """As on a full disk."""
    dies_at(tmp_path, "a")
    dies_at(tmp_path, "a")
    (record,) = (tmp_path / "deaths").iterdir()
    record.unlink()
    record.mkdir()
    Blame(tmp_path, INSTANCE)
    assert not list((tmp_path / "at_work").iterdir())
