from __future__ import annotations

from contextlib import ExitStack

import pytest

from shim.admission import Admission
from shim.errors import QueueFull


def refuse(admission: Admission) -> None:
    with pytest.raises(QueueFull), admission.attempt():
        raise QueueFull("busy")


def test_a_request_whose_only_job_is_refused_is_refused() -> None:
    admission = Admission()
    refuse(admission)
    assert not admission.granted


def test_a_refusal_is_not_final_while_another_job_waits_for_its_answer() -> None:
    admission = Admission()
    with admission.attempt():
        refuse(admission)
        assert admission.granted
    assert admission.granted


def test_the_last_of_several_refusals_is_final() -> None:
    admission = Admission()
    with ExitStack() as slower:
        slower.enter_context(pytest.raises(QueueFull))
        slower.enter_context(admission.attempt())
        refuse(admission)
        raise QueueFull("busy")
    assert not admission.granted


def test_a_finished_job_admits_the_request_for_good() -> None:
    admission = Admission()
    with admission.attempt():
        pass
    refuse(admission)
    assert admission.granted


@pytest.mark.parametrize(("seconds", "granted"), [(0.0, False), (2.0, True)], ids=["at once", "after a while"])
def test_a_job_that_breaks_off_was_taken_if_it_was_not_refused_for_a_while(
    monkeypatch: pytest.MonkeyPatch, seconds: float, granted: bool
) -> None:
    times = iter([100.0, 100.0 + seconds])
    monkeypatch.setattr("shim.admission.time.monotonic", lambda: next(times))
    admission = Admission()
    with pytest.raises(ConnectionError), admission.attempt():
        raise ConnectionError
    monkeypatch.undo()
    refuse(admission)
    assert admission.granted == granted
