from __future__ import annotations

from contextlib import ExitStack

import pytest

from shim.errors import QueueFull
from shim.running.admission import Admission
from shim.running.faults import Interrupted, Unreached


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


@pytest.mark.parametrize(("fault", "granted"), [(Interrupted, True), (Unreached, False)])
def test_a_job_that_breaks_off_may_have_been_taken_unless_it_never_got_there(
    fault: type[Exception], granted: bool
) -> None:
    admission = Admission()
    with pytest.raises(fault), admission.attempt():
        raise fault("broken off")
    refuse(admission)
    assert admission.granted == granted
