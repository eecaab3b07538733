"""The edits of one engine: who is here, who will be back, in which order they go, and who may join them."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace

from qwen_edit.errors import QueueFull
from qwen_edit.job import Job, in_order
from qwen_edit.request import EditRequest
from qwen_edit.scheduling.admission import has_place, wait_for_time
from qwen_edit.scheduling.forecast import InLine, alone, in_one_piece
from qwen_edit.scheduling.order import place_of
from qwen_edit.scheduling.pace import Pace

SEGMENT_STEPS = 10  # of calls whose length is not known yet, which is what shims make of them
AWAY_SECONDS = 2.0  # for which an edit between two of its segments keeps its time
RETURN_SECONDS = 30.0  # for which it may be on its way back, with all its pictures
SAME_ARRIVAL_SECONDS = 30.0  # as far apart may two calls put the arrival of their edit: an upload lies between
SIBLING = re.compile(r"-[0-9]+$")  # at the end of an edit's id: which of its request's it is


@dataclass(frozen=True)
class Expected:
    """An edit that is not here, but has been promised its time."""

    name: str  # of the edit, or of its request
    sibling: bool  # of one that is or was here; else between two segments
    caller: str
    steps: int  # of the whole edit that need a forward
    until: float
    edit: InLine


class Line:
    """Everything is called under the engine's lock; times are of the monotonic clock."""

    def __init__(self, pace: Pace, *, max_jobs: int, stretch: float) -> None:
        self.jobs: set[Job] = set()  # that have not been answered
        self._expected: list[Expected] = []
        self._left: dict[str, float] = {}  # when edits that have a name went away between two segments
        self._pace = pace
        self._max_jobs = max_jobs
        self._stretch = stretch

    def join(self, job: Job, now: float, budget: int) -> None:
        """Gives the job its place and holds it; raises QueueFull.

        One that has begun is always taken, and one that was promised its time wherever there is a place.

        It takes the place of an earlier call of the same edit, which broke off unseen by us, or it would not be here.
        """
        self._forget(now)
        earlier = [other for other in self.jobs if _is_another_call(other.request, job.request)]
        promised = self._promised(job)
        request = job.request
        job.work = self._pace.work(job.row_tokens, request.forwards())
        if request.order is not None:
            job.place = request.order
        elif earlier or promised:
            job.place = earlier[0].place if earlier else promised[0].edit.place[0]
        else:
            job.place = self._new_place(job)
        if not (request.continued or earlier):
            self._refuse_without_place(job, promised=bool(promised))
            if not promised:
                siblings = self._siblings(job, now)
                self._refuse_without_time(job, siblings, now, budget)
                self._expected += siblings
        for kept in promised[:1]:
            self._expected.remove(kept)
            if not kept.sibling:
                self._pace.returned(now - kept.until + AWAY_SECONDS)
        for other in earlier:
            other.replaced = True
        self._left.pop(request.edit_id, None)
        self.jobs.add(job)

    def leave(self, job: Job, now: float, *, stopped: bool = False, failed: bool = False) -> None:
        """`stopped`: at the end of a segment, another of which is likely to follow. Siblings fail together."""
        self.jobs.remove(job)
        if job.replaced:
            return
        request, until = _request_of(job), now + AWAY_SECONDS
        of_it = [kept for kept in self._expected if kept.sibling and kept.name == request]
        self._expected = [kept for kept in self._expected if kept not in of_it]
        if not failed:
            self._expected += (replace(kept, until=until) for kept in of_it)
        if stopped:
            edit = replace(self._in_line(job), encoded=True)
            steps = job.request.forwards()
            self._expected.append(Expected(job.request.edit_id, False, job.request.caller, steps, until, edit))
            if job.request.edit_id:
                self._left[job.request.edit_id] = now

    def away(self, now: float) -> int:
        """How many edits are between two segments, and may come back; an unnamed one would not be known again."""
        self._left = {name: at for name, at in self._left.items() if now - at < RETURN_SECONDS}
        return len(self._left)

    def _forget(self, now: float) -> None:
        """What is not coming any more; siblings come one after the other while one of them is here."""
        here = {_request_of(job) for job in self.jobs}
        self._expected = [kept for kept in self._expected if kept.until > now or (kept.sibling and kept.name in here)]

    def too_late(self, job: Job, now: float) -> bool:
        """Whether a running job cannot end in time whatever comes, or a waiting one as things stand.

        One that is the only one is tried: what is foreseen may be wrong.
        """
        if math.isinf(job.request.deadline) or len(self.jobs) == 1 or not self._pace.known:
            return False
        return now + alone(self._in_line(job), self._pace) > job.request.deadline

    def worth_beginning(self, job: Job, now: float, budget: int) -> bool:
        """Whether a job whose turn has come would end in time as things stand."""
        if job.request.continued or math.isinf(job.request.deadline) or len(self.jobs) == 1 or not self._pace.known:
            return True
        mine = self._in_line(job)
        return in_one_piece([mine, *self._others(job)], now, budget, self._pace)[mine] <= job.request.deadline

    def _refuse_without_place(self, job: Job, *, promised: bool) -> None:
        held = Counter(each.request.caller for each in self._here())
        if not has_place("" if promised else job.request.caller, held, self._max_jobs):
            raise QueueFull(
                f"{held.total()} edits are waiting or running, at most {self._max_jobs} are taken: "
                f"retry in {self._pace.retry_seconds(self.jobs)} s"
            )

    def _refuse_without_time(self, job: Job, siblings: list[Expected], now: float, budget: int) -> None:
        if not self._pace.known:
            return
        newcomers = [self._in_line(job), *(sibling.edit for sibling in siblings)]
        wait = wait_for_time(newcomers, self._others(job), now, budget, self._pace)
        if wait is not None:
            raise QueueFull(
                f"{len(self._here())} edits are waiting or running, beside which this one would not be done in time: "
                f"retry in {wait:.0f} s"
            )

    def _new_place(self, job: Job) -> float:
        """All are compared as they are foreseen now: of one that came while a step seemed to take longer, its own
        `work` would say that this one is much lighter."""
        caller, work = job.request.caller, self._pace.work
        others: list[tuple[float, float]] = []
        if caller:
            here = (other for other in self._here() if other.request.caller == caller)
            others += ((other.place, work(other.row_tokens, other.request.forwards())) for other in here)
            coming = (each for each in self._expected if each.caller == caller)
            others += ((each.edit.place[0], work(each.edit.row_tokens, each.steps)) for each in coming)
        return place_of(job.request.arrival, job.work, others, self._stretch)

    def _siblings(self, job: Job, now: float) -> list[Expected]:
        """The promises that are made with this one, each a place behind."""
        request, mine = job.request, self._in_line(job)
        made: list[Expected] = []
        place = job.place
        for _ in range(request.siblings - 1):
            place = place_of(place, job.work, (), self._stretch)
            edit = replace(mine, place=(place, request.edit_id, len(made)))
            steps = request.forwards()
            made.append(Expected(_request_of(job), True, request.caller, steps, now + AWAY_SECONDS, edit))
        return made

    def _promised(self, job: Job) -> list[Expected]:
        """What it was promised, the best place first."""
        edit_id, request = job.request.edit_id, _request_of(job)
        found = [each for each in self._expected if each.name == (request if each.sibling else edit_id)]
        return sorted(found, key=lambda each: (each.sibling, each.edit.place))

    def _others(self, job: Job) -> list[InLine]:
        return [
            *(self._in_line(other) for other in self._here() if other is not job),
            *(each.edit for each in self._expected),
        ]

    def _here(self) -> list[Job]:
        return [job for job in self.jobs if not job.replaced]

    def _in_line(self, job: Job) -> InLine:
        return InLine(
            place=in_order(job),
            row_tokens=tuple(job.row_tokens),
            steps_left=job.steps_left,
            deadline=job.request.deadline,
            encoded=job.is_encoded or job.request.continued,
            alone=job.alone,
            returns=_returns(job),
        )


def _request_of(job: Job) -> str:
    return SIBLING.sub("", job.request.edit_id)


def _returns(job: Job) -> int:
    """As far as this call of it tells: a first one of one step only learns how many there are."""
    request = job.request
    left = request.num_inference_steps - request.stop_step
    length = request.stop_step - request.start_step if request.stop_step > 1 else SEGMENT_STEPS
    return math.ceil(left / length)


def _is_another_call(one: EditRequest, other: EditRequest) -> bool:
    """For the same steps of the same edit. Not by the ids alone: a caller may have numbered its edits so."""
    same_steps = (one.start_step, one.seed) == (other.start_step, other.seed)
    same_arrival = one.dated and other.dated and abs(one.arrival - other.arrival) < SAME_ARRIVAL_SECONDS
    return one.edit_id == other.edit_id and one.id != other.id and same_steps and same_arrival
