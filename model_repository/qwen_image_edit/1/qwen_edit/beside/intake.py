"""Prepares new jobs on threads of its own, so that no denoising step waits for it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from qwen_edit.beside.shared_device import SharedDevice
from qwen_edit.beside.streams import OwnStreams
from qwen_edit.conditioning.preparation import Preparing, Work
from qwen_edit.device_errors import failure, is_device_error, is_out_of_memory
from qwen_edit.errors import EditError, Failed
from qwen_edit.job import Job, in_order
from qwen_edit.scheduling.spent import Spent
from qwen_edit.worker import Worker

log = logging.getLogger("image_edit_server")

Order = tuple[float | str, ...]


@dataclass(eq=False)
class Turn:
    """A job that is being prepared."""

    job: Job
    preparing: Preparing
    awaits: Work = Work.PICTURE
    taken: int = 0  # by threads that do such work

    @property
    def whose(self) -> str:
        return self.job.request.caller or self.job.request.edit_id

    @property
    def order(self) -> Order:
        """Of one caller: continued edits first, then whose turn came least often, then by their place."""
        return (not self.job.request.continued, self.taken, *in_order(self.job))


class Intake:
    """`done(job, None)` or `done(job, error)` is called from its threads for every job it was given, and
    `picture_ended()` after each picture. A thread ends at the first error that is no job's own, which it hands to
    `broken`. `alive()` is called while others wait for a caption that gets on.

    One thread begins every job, and ends those that have nothing to decode, whatever the others do meanwhile. One
    writes captions and one reads adapters, which take long, so that no picture waits for them. Callers for whom much
    was done lately go behind the others, continued or not.
    """

    def __init__(
        self,
        worker: Worker,
        device: SharedDevice,
        done: Callable[[Job, EditError | None], None],
        picture_ended: Callable[[], None],
        broken: Callable[[Exception], None],
        alive: Callable[[], None],
        *,
        decoding: int,
    ) -> None:
        """`decoding`: pictures at a time."""
        self._worker = worker
        self._device = device
        self._streams = OwnStreams(worker.devices)  # of the thread that writes captions
        self._done = done
        self._picture_ended = picture_ended
        self._broken = broken
        self._alive = alive
        self._arrivals: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._turns: list[Turn] = []
        self._spent = Spent()
        self._closed = False
        self._changed = threading.Condition()  # guards the three
        self._beginning = self._thread("prepare", self._begin)
        self._others = [
            *(self._thread("decode", self._decode) for _ in range(decoding)),
            self._thread("caption", self._write),
            self._thread("adapter", lambda: self._do(Work.ADAPTER)),
        ]
        for thread in (self._beginning, *self._others):
            thread.start()

    def submit(self, job: Job) -> None:
        self._arrivals.put(job)

    def close(self) -> None:
        """Ends what it has, first."""
        self._arrivals.put(None)
        self._beginning.join()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._others:
            thread.join()

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self._broken(error)

        return threading.Thread(target=guarded, name=name, daemon=True)

    def _begin(self) -> None:
        while (job := self._arrivals.get()) is not None:
            self._advance(Turn(job, self._preparing(job)))
            del job  # else it would be kept, with its pictures, until there is another

    def _preparing(self, job: Job) -> Preparing:
        prepared = yield from self._worker.prepare(job.request, lambda: self._unwanted(job))
        job.reply.sized(prepared.geometry.answer)
        return prepared

    def _unwanted(self, job: Job) -> bool:
        """Asked for each token of a caption, which shows that it gets on."""
        if self._device.awaited:
            self._alive()
        return job.unwanted

    def _decode(self) -> None:
        while (turn := self._next(Work.PICTURE)) is not None:
            self._advance(turn)
            del turn  # else it would be kept, with its job, until there is another
            self._picture_ended()

    def _write(self) -> None:
        with self._streams.entered():
            self._do(Work.CAPTION)

    def _do(self, work: Work) -> None:
        while (turn := self._next(work)) is not None:
            self._advance(turn)
            del turn

    def _next(self, work: Work) -> Turn | None:
        """Whoever awaits such work and is still wanted; None where there is no more to come."""
        while (turn := self._first(work)) is not None:
            turn.taken += 1
            error = turn.job.why_unwanted()
            if error is None:
                return turn
            turn.preparing.close()
            self._done(turn.job, error)
            del turn
        return None

    def _first(self, work: Work) -> Turn | None:
        with self._changed:
            while not (turns := [turn for turn in self._turns if turn.awaits is work]):
                if self._closed:
                    return None
                self._changed.wait()
            now = time.monotonic()
            turn = min(turns, key=lambda turn: (self._spent.level(turn.whose, now), turn.order))
            self._turns.remove(turn)
            return turn

    def _advance(self, turn: Turn) -> None:
        """Up to the next such work, or to the end."""
        job, error = turn.job, None
        try:
            self._work(turn)
            with self._changed:
                self._turns.append(turn)
                self._changed.notify_all()  # they wait for different work
            return
        except StopIteration as prepared:
            job.queue(prepared.value)
        except EditError as refusal:
            error = refusal
        except Exception as own:
            if is_device_error(own):
                raise
            if is_out_of_memory(own):
                error = failure(own, job.request.id)
            else:
                log.exception("edit %s could not be prepared", job.request.id)
                error = Failed("the request could not be prepared")
        self._done(job, error)

    def _work(self, turn: Turn) -> None:
        started = time.monotonic()
        try:
            turn.awaits = self._written(turn) if turn.awaits is Work.CAPTION else next(turn.preparing)
        finally:
            if turn.taken:
                now = time.monotonic()
                with self._changed:
                    self._spent.add(turn.whose, now - started, now)

    def _written(self, turn: Turn) -> Work:
        """What is next once the caption is written: beside the steps, or between them where the model takes turns.

        The device first, and then the worker: in the order of whoever else works for an edit.
        """
        with self._device.alone() if self._worker.takes_turns else self._device.shared():
            following = next(turn.preparing)
        if following is Work.CAPTION_AGAIN:
            log.warning("out of memory while writing a caption: freeing the cache")
            with self._device.freed():
                following = next(turn.preparing)
        return following
